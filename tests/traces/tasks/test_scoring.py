"""Scorers by name: which need what, what is refused, and that no file has anything imported."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import SettingError
from traces.synera.graph import GraphSet
from traces.tasks import scorers, scoring, tinyworld
from traces.tasks.splits import Prompt

SOME = {"p": "It is 12.", "q": "the 12 dogs"}


@pytest.mark.parametrize(
    ("name", "answer", "score"),
    [
        ("agreement", " It is 12. ", 1.0),
        ("agreement", "it is 12", 0.0),
        ("agreement-f1", "it is 13", 2 / 3),
        ("token-f1", "is 12", 0.8),
        ("exact-match", "It is 12", 1.0),
        ("final-number", "no: 12.0", 1.0),
        ("rouge-l", "it was 12", 2 / 3),
    ],
)
def test_each_name_is_a_score(name: str, answer: str, score: float) -> None:
    assert scoring.scorer(name, SOME)("p", answer) == pytest.approx(score)


def test_every_name_is_tried() -> None:
    assert set(scoring.NAMES) == {"agreement", "agreement-f1", "token-f1", "exact-match", "final-number", "rouge-l"}
    assert scoring.BY_LLM == ("agreement-f1", "agreement")


def test_a_prompt_without_a_recorded_reference_is_named() -> None:
    with pytest.raises(SettingError, match="no reference for the prompt 'other'"):
        scoring.scorer("token-f1", SOME)("other", "x")


def test_the_bundled_tasks_need_no_references() -> None:
    task = tinyworld.tasks("fact", "test", 1)[0]
    assert scoring.scorer(scoring.TINYWORLD, {})(task.prompt, task.answer) == 1.0


@pytest.mark.parametrize("name", ["", "F1", "token_f1", "tinyworld", "a:b:c", "os.system", "a b:c", "\x1b[2J:x"])
def test_other_names_are_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(SettingError, match=r"is not one of agreement-f1, agreement, token-f1, .*, nor a function of yours"):
        scoring.check_score_name(name)


# ---------------------------------------------------------------- references


def test_prompts_that_lack_the_reference_are_named() -> None:
    prompts = [Prompt(f"prompt {n}", "custom", "12" if n < 2 else None) for n in range(7)]
    message = "no reference is given for 'prompt 2', 'prompt 3', 'prompt 4' and 2 more; .* take --score agreement-f1"
    with pytest.raises(SettingError, match=message):
        scoring.check_references("exact-match", prompts)
    for name in (*scoring.BY_LLM, "mine:score"):
        scoring.check_references(name, prompts)


@pytest.mark.parametrize(
    ("name", "useless", "wants"),
    [
        ("final-number", "twelve", "a number"),
        ("exact-match", "the ...", "words"),
        ("token-f1", " ", "words"),
        ("rouge-l", "двенадцать", "words of a-z or digits"),
    ],
)
def test_a_reference_that_nothing_can_be_compared_with_is_named(name: str, useless: str, wants: str) -> None:
    scoring.check_references(name, [Prompt("good", "custom", "12")])
    with pytest.raises(SettingError, match=f"a reference without {wants} is given for 'bad';"):
        scoring.check_references(name, [Prompt("good", "custom", "12"), Prompt("bad", "custom", useless)])


# ---------------------------------------------------------------- a user's function

HOOK = """
def length(prompt, answer, reference):
    return min(1.0, (len(answer) + len(reference)) / 10)
def fails(prompt, answer, reference):
    raise KeyError(answer)
def outside(prompt, answer, reference):
    return 1.5
def words(prompt, answer, reference):
    return "good"
nothing = None
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the folder that the user works in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_scores.py").write_text(HOOK)
    (tmp_path / "my_broken.py").write_text("import nowhere_to_be_found")
    monkeypatch.delitem(sys.modules, "my_scores", raising=False)
    return "my_scores"


def test_a_function_is_given_prompt_answer_and_reference(module: str) -> None:
    name = f"{module}:length"
    score = scoring.scorer(name, {"p": "1234"}, name)
    assert [score("p", "123"), score("without", "123")] == [pytest.approx(0.7), pytest.approx(0.3)]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", "the scorer fails on the answer 'yes' to 'p': KeyError: 'yes'"),
        ("outside", r"the scorer returns 1.5 for the answer 'yes' to 'p'; it must return a number in 0\.\.1"),
        ("words", "the scorer returns 'good' for"),
    ],
)
def test_a_function_that_gives_no_score_is_one_sentence(module: str, function: str, message: str) -> None:
    name = f"{module}:{function}"
    with pytest.raises(SettingError, match=message) as error:
        scoring.scorer(name, {}, name)("p", "yes")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_scores:missing", "my_scores has no function missing"),
        ("my_scores:nothing", "my_scores has no function nothing"),
        ("my_broken:score", "my_broken cannot be imported: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("not_there:score", "not_there cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_function_that_cannot_be_imported_is_one_sentence(module: str, name: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        scoring.scorer(name, {}, name)


def test_a_function_is_never_imported_on_a_file_s_word(module: str, tiny_graphs: GraphSet) -> None:
    meta = replace(tiny_graphs.meta, scorer=f"{module}:length")
    with pytest.raises(SettingError, match="because a file names it; give --score my_scores:length"):
        scoring.scorer_of(meta)
    with pytest.raises(SettingError, match="but --score names 'other:length'"):
        scoring.scorer_of(meta, "other:length")
    assert module not in sys.modules
    assert scoring.scorer_of(meta, f"{module}:length")(meta.prompts[0], "12345") == 0.5
    assert module in sys.modules


# ---------------------------------------------------------------- graphs


def test_graphs_say_how_to_score_another_answer_alike(tiny_graphs: GraphSet) -> None:
    meta = tiny_graphs.meta
    references = tuple(f"It is {n}." for n in range(len(meta.prompts)))
    score = scoring.scorer_of(replace(meta, scorer="final-number", references=references))
    assert [score(meta.prompts[2], f"so {n}") for n in range(4)] == [0, 0, 1, 0]


def test_graphs_that_state_no_scorer_are_those_of_the_bundled_tasks(tiny_graphs: GraphSet) -> None:
    meta = tiny_graphs.meta
    assert meta.scorer == ""
    assert scoring.scorer_of(meta) is scorers.score
    with pytest.raises(SettingError, match="do not state what their answers were scored by; record them again"):
        scoring.scorer_of(replace(meta, prompts=("hello", *meta.prompts[1:])))
