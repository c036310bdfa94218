"""What an emulated device asks in an answer, without any SLM: recorded walks over token graphs, or made-up drafts.

What does not live here: the asking (_load_actors.py) and the walk's rules (synera_env/synera/, runtime/synera/session.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from runtime.errors import UncoveredError
from runtime.synera.chunk import DecisionPoint
from runtime.synera.knobs import Knobs
from runtime.synera.session import Session
from scripts._load_plan import SHORT_PROMPTS
from traces import bundled
from traces.errors import TraceError
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet

FIRST_TOKEN = 3
"""Made-up tokens begin here, as the ids below are often special."""


class Chunk(NamedTuple):
    """What a device has checked."""

    history: tuple[int, ...]
    draft: tuple[int, ...]
    think_seconds: float
    """That it drafted since the verdict before."""


class Answer(Protocol):
    """One answer, chunk by chunk: `chunk` and `settle` in turn until there is none."""

    def chunk(self) -> Chunk | None:
        """What is to be checked next; None where the answer is whole."""
        ...

    def settle(self, accepted: int, next_token: int) -> bool | None:
        """Take the verdict; whether it is right, None where nobody knows."""
        ...


class ScriptedCheck(NamedTuple):
    """A check of a recorded walk, and what the LLM says to it."""

    chunk: Chunk
    accepted: int
    next_token: int | None
    """None where the answer ends before it."""


Script = tuple[ScriptedCheck, ...]


@dataclass(frozen=True)
class Scripts:
    """The checks of each prompt's answer under one setting of the knobs: as all is greedy, every device does just these."""

    answers: tuple[Script, ...]
    left_out: int
    """Prompts whose answer leaves the recorded graph, or is never offloaded."""
    llm_fingerprint: str
    source: str


@lru_cache(maxsize=4)
def scripts_of(path: Path, knobs: Knobs, profile: Path | None) -> Scripts:
    """Walk every prompt of a graph file, by the session's own loop.

    Args:
        path: the graph file.
        knobs: of every chunk.
        profile: JSON device profile, for the time that drafting takes; None takes none.

    Raises:
        TraceError: a file cannot be used, or no answer stays inside what was recorded.
    """
    # The replay loads much; who makes all drafts up needs none of it.
    from synera_env.busy import busy_of
    from synera_env.radio import SOUND
    from synera_env.synera.replay import ReplayEpisode
    from synera_env.synera.walk import ReplayLens

    graphs = GraphSet.load(path)
    device = _instant() if profile is None else DeviceProfile.load(profile)
    busy = busy_of(CloudProfile.load(bundled.profile("gpu")), None, 0)
    lens = ReplayLens.from_tensors(graphs.lens_tensors)
    answers: list[Script] = []
    for index in range(len(graphs)):
        episode = ReplayEpisode(graphs, index, SOUND, device, busy, lens, lost=frozenset())
        try:
            point: DecisionPoint | None = episode.session.begin(episode.prompt_tokens, knobs)
            while point is not None:
                point = episode.session.advance(knobs).point
        except UncoveredError:
            continue
        if script := tuple(_checks(episode.session, episode.prompt_tokens)):
            answers.append(script)
    if not answers:
        raise TraceError(
            f"no answer to the {len(graphs)} prompts of {path} stays inside of what was recorded and asks the cloud; take another "
            "draft length or confidence, or record with a larger node budget"
        )
    return Scripts(tuple(answers), len(graphs) - len(answers), graphs.meta.llm_fingerprint, str(path))


def _instant() -> DeviceProfile:
    return DeviceProfile("instant", "A device that drafts in no time.", 0.0, 0.0, 0.0, 0.0)


def _checks(session: Session, history: tuple[int, ...]) -> Iterator[ScriptedCheck]:
    """What was offloaded in an answer that is over, to a prompt of those tokens."""
    think = 0.0
    for record in session.records:
        think += record.draft.seconds
        if record.verdict is not None:
            accepted = record.verdict.accepted
            whole = len(record.committed) > accepted
            chunk = Chunk(history, record.draft.ids, think)
            yield ScriptedCheck(chunk, accepted, record.committed[accepted] if whole else None)
            think = 0.0
        history = (*history, *record.committed)


class ScriptedAnswer:
    """Implements :class:`Answer`: goes on with what the graph's LLM says, whatever the verifier said."""

    def __init__(self, script: Script) -> None:
        self._script, self._place = script, 0

    def chunk(self) -> Chunk | None:
        """See the protocol."""
        return self._script[self._place].chunk if self._place < len(self._script) else None

    def settle(self, accepted: int, next_token: int) -> bool:
        """See the protocol."""
        truth = self._script[self._place]
        self._place += 1
        return accepted == truth.accepted and truth.next_token in (None, next_token)


class MadeUpAnswer:
    """Implements :class:`Answer`: random prompt and drafts; goes on with what the verifier said, as there is nothing else."""

    def __init__(
        self, rng: np.random.Generator, *, prompt_tokens: int, answer_tokens: int, vocab: int, draft_tokens: int
    ) -> None:
        self._rng, self._vocab, self._draft_tokens = rng, vocab, draft_tokens
        self._history = self._tokens(prompt_tokens)
        self._ends = prompt_tokens + answer_tokens
        self._draft: tuple[int, ...] = ()

    def chunk(self) -> Chunk | None:
        """See the protocol."""
        left = self._ends - len(self._history)
        self._draft = self._tokens(min(left, self._draft_tokens)) if left > 0 else ()
        return Chunk(self._history, self._draft, 0.0) if self._draft else None

    def settle(self, accepted: int, next_token: int) -> None:
        """See the protocol."""
        self._history = (*self._history, *self._draft[:accepted], next_token)

    def _tokens(self, number: int) -> tuple[int, ...]:
        return made_up_tokens(self._rng, number, self._vocab)


def made_up_tokens(rng: np.random.Generator, number: int, vocab: int) -> tuple[int, ...]:
    """Draw token ids evenly from a vocabulary, but for its first few."""
    return tuple(rng.integers(min(FIRST_TOKEN, vocab - 1), vocab, number).tolist())


def made_up_lengths(rng: np.random.Generator, context_tokens: int) -> tuple[int, int]:
    """Draw the tokens of a prompt and of its answer, log-normal by :data:`SHORT_PROMPTS`, cut to what the model holds."""
    context, context_spread, generated, generated_spread = SHORT_PROMPTS
    prompt = round(context * float(np.exp(context_spread * rng.standard_normal())))
    answer = round(generated * float(np.exp(generated_spread * rng.standard_normal())))
    prompt = min(max(1, prompt), max(1, context_tokens // 2))
    # A verdict may add a token beyond the answer's end.
    return prompt, min(max(1, answer), max(1, context_tokens - prompt - 1))


Source = Sequence[Script] | None
"""The scripts to take answers from; None makes them up."""
