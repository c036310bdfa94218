"""Scores of answers by name: the bundled tasks', comparisons with a reference or with the LLM's own answer, a user's function.

What does not live here: the formulas (text_scores.py, scorers.py) and the LLM that answers (traces/synera/record_answers.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import numpy as np

from runtime.errors import SettingError
from runtime.settings import imported, shown
from traces.tasks import text_scores
from traces.tasks.splits import Prompt

Scorer = Callable[[str, str], float]
"""(prompt, answer) to task score, 0..1."""
TINYWORLD = "tinyworld"
"""The scorer of the bundled tasks; it works references out by itself."""
_HOOK = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NAMED = 3  # prompts that a message names


class Scored(Protocol):
    """What graphs say of their scores; :class:`traces.synera.graph.GraphMeta` does."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts of the graphs."""
        ...

    @property
    def scorer(self) -> str:
        """Its name; empty where none is stated."""
        ...

    @property
    def references(self) -> tuple[str, ...]:
        """One a prompt, or none."""
        ...


@dataclass(frozen=True)
class _Comparison:
    """A score that compares an answer with a reference."""

    score: Callable[[str, str], float]
    """(answer, reference) to 0..1."""
    by_llm: bool
    """The reference is the LLM's own greedy answer, else one that a user gives."""
    holds: Callable[[str], object] = str.strip
    """What of a reference answers are compared with; nothing makes it useless."""
    wants: str = "a text"
    """What that is, for a message."""


_COMPARISONS = {
    "agreement-f1": _Comparison(text_scores.word_f1, by_llm=True),
    "agreement": _Comparison(text_scores.same, by_llm=True),
    "token-f1": _Comparison(text_scores.token_f1, False, text_scores.normalised, "words"),
    "exact-match": _Comparison(text_scores.exact_match, False, text_scores.normalised, "words"),
    "final-number": _Comparison(text_scores.final_number, False, lambda r: text_scores.last_number(r) is not None, "a number"),
    "rouge-l": _Comparison(text_scores.rouge_l, False, text_scores.rouge_words, "words of a-z or digits"),
}
NAMES = tuple(_COMPARISONS)
"""Scorers of a user's own prompts."""
BY_LLM = tuple(name for name, comparison in _COMPARISONS.items() if comparison.by_llm)
"""Those of them whose references are the LLM's own answers."""


def check_score_name(name: str) -> None:
    """Do nothing for the name of a scorer of a user's own prompts, or MODULE:FUNCTION; nothing is imported.

    Raises:
        SettingError: it is neither.
    """
    if name not in _COMPARISONS and not _HOOK.fullmatch(name):
        raise SettingError(f"score={shown(name)} is not one of {', '.join(NAMES)}, nor a function of yours as MODULE:FUNCTION")


def check_references(name: str, prompts: Iterable[Prompt]) -> None:
    """Do nothing where every prompt has the reference that a scorer needs.

    Raises:
        SettingError: some lack one, or have one that holds nothing to compare with; names the first of them.
    """
    comparison = _COMPARISONS.get(name)
    if comparison is None or comparison.by_llm:
        return
    without = [p.text for p in prompts if p.reference is None]
    useless = [p.text for p in prompts if p.reference is not None and not comparison.holds(p.reference)]
    for found, what in ((without, "no reference"), (useless, f"a reference without {comparison.wants}")):
        if found:
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            raise SettingError(
                f"score {name} compares answers with a reference that holds {comparison.wants}, but {what} is given for "
                f"{', '.join(shown(text, 60) for text in found[:_NAMED])}{more}; give one to each prompt (as JSON lines), "
                f"or take --score {NAMES[0]}, which compares with the LLM's own answer"
            )


def scorer(name: str, references: Mapping[str, str], hook: str | None = None) -> Scorer:
    """Return the scorer of that name.

    Args:
        name: :data:`TINYWORLD`, one of :data:`NAMES`, or MODULE:FUNCTION.
        references: what answers are compared with, by prompt.
        hook: MODULE:FUNCTION as the user named it where it is needed. A name that stands in a file is never imported.

    Raises:
        SettingError: there is no such scorer, a function is not the one that the user named, or it cannot be imported.
    """
    if name == TINYWORLD:
        from traces.tasks import scorers

        return scorers.score
    if (comparison := _COMPARISONS.get(name)) is not None:
        score = comparison.score
        return lambda prompt, answer: score(answer, _reference(references, prompt))
    check_score_name(name)
    if hook != name:
        named = f"--score names {shown(hook)}" if hook else "it is not imported because a file names it"
        raise SettingError(f"answers were scored by your function {shown(name)}, but {named}; give --score {name}")
    function, lock = imported(f"score={shown(name)}", name, "function"), Lock()

    def ask(prompt: str, answer: str) -> float:
        with lock:  # prompts are recorded side by side, and the function need not know
            return asked(function, prompt, answer, references.get(prompt, ""))

    return ask


def scorer_of(meta: Scored, hook: str | None = None) -> Scorer:
    """Return what the answers of graphs were scored by, to score others alike.

    Args:
        meta: of the graphs.
        hook: see :func:`scorer`.

    Raises:
        SettingError: see :func:`scorer`; or the graphs do not state it, and their prompts are not the bundled tasks'.
    """
    if meta.scorer:
        return scorer(meta.scorer, dict(zip(meta.prompts, meta.references, strict=False)), hook)
    if not _are_bundled(meta.prompts):
        raise SettingError("these graphs do not state what their answers were scored by; record them again")
    return scorer(TINYWORLD, {})


def asked(function: Callable[..., object], prompt: str, answer: str, *more: str) -> float:
    """Ask a user's function for the score of an answer.

    Raises:
        SettingError: it fails, or returns something else than a number in 0..1.
    """
    try:
        score: Any = function(prompt, answer, *more)
    except Exception as error:
        raise SettingError(
            f"the scorer fails on the answer {shown(answer)} to {shown(prompt)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(score, int | float | np.integer | np.floating | np.bool_) or not 0 <= score <= 1:
        raise SettingError(
            f"the scorer returns {shown(score)} for the answer {shown(answer)} to {shown(prompt)}; it must return a number in 0..1"
        )
    return float(score)


def _reference(references: Mapping[str, str], prompt: str) -> str:
    if prompt not in references:
        raise SettingError(f"there is no reference for the prompt {shown(prompt)}; score prompts that were recorded")
    return references[prompt]


def _are_bundled(prompts: Sequence[str]) -> bool:
    from traces.tasks import answers

    try:
        return all(answers.kind_of(prompt) for prompt in prompts)
    except answers.TaskError:
        return False
