"""HAT's loop over real layers: whatever is decided, the answer is the whole model's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ContextOverflowError, SettingError
from runtime.hat.knobs import Knobs
from runtime.model.split import Split
from runtime.wire.sizes import PRECISIONS
from tests.support.hat import LocalMiddle, SplitWorld, prompts


@pytest.fixture(scope="module", params=["1", "2:1"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_deep: Path) -> SplitWorld:
    return SplitWorld(tmp_path_factory.mktemp("hat"), tiny_deep, Split.parse(request.param))


def any_knobs(precision: int | None = None) -> st.SearchStrategy[Knobs]:
    return st.builds(
        Knobs,
        chunk_doublings=st.floats(3, 9),
        draft_threshold=st.sampled_from([0.0, 0.02, 0.1, 1.0]),
        draft_length=st.integers(0, 8),
        candidates=st.integers(0, 4),
        precision=st.integers(0, 2) if precision is None else st.just(precision),
    )


@settings(max_examples=40)
@given(
    knobs=st.lists(any_knobs(precision=0), min_size=1, max_size=6),
    number=st.integers(0, 7),
    polls=st.sampled_from([0, 1, 3, 20]),
)
def test_whatever_is_decided_the_answer_is_the_whole_models_own(
    world: SplitWorld, knobs: list[Knobs], number: int, polls: int
) -> None:
    prompt = world.device.encode(prompts()[number])
    session = world.session(polls=polls)
    session.begin(prompt, knobs[0])
    turn = 0
    while not session.advance(knobs[min(turn, len(knobs) - 1)]).done:
        turn += 1
    assert session.answer == world.greedy(prompt)
    sent = sum(record.prompt_rows for record in session.records)
    assert sent == len(prompt)
    assert sum(len(record.committed) for record in session.records) == len(session.answer)
    assert all(record.accepted <= record.judged == len(record.draft) for record in session.records)
    assert session.records[-1].committed_at >= session.records[0].committed_at


def test_what_was_drafted_on_a_right_branch_begins_the_next_draft(world: SplitWorld) -> None:
    hits = kept = 0
    for text in prompts():
        prompt, session = world.device.encode(text), world.session(polls=6)
        session.begin(prompt, Knobs())
        step = session.advance(Knobs(draft_length=3, draft_threshold=0.0, candidates=4))
        while not step.done:
            assert step.point is not None
            ahead = step.point.ahead
            step = session.advance(Knobs(draft_length=3, draft_threshold=0.0, candidates=4))
            assert step.record.drafted[: len(ahead)] == tuple(token.token for token in ahead)[: len(step.record.draft)]
        assert session.answer == world.greedy(prompt)
        told = [record.ahead for record in session.records if record.ahead is not None]
        hits, kept = hits + sum(each.hit for each in told), kept + sum(each.kept for each in told)
    assert hits >= 3
    assert kept >= 3


@pytest.mark.parametrize("precision", range(len(PRECISIONS)))
def test_an_answer_in_each_precision_is_that_of_the_split_model(world: SplitWorld, precision: int) -> None:
    prompt = world.device.encode(prompts()[3])
    session = world.session()
    session.begin(prompt, Knobs())
    while not session.advance(Knobs(precision=precision, draft_length=3)).done:
        pass
    assert session.answer == world.greedy(prompt, PRECISIONS[precision])


def test_the_first_decision_fixes_the_precision(world: SplitWorld) -> None:
    middle = LocalMiddle(world.model, world.split)
    session = world.session(middle)
    point = session.begin(world.device.encode(prompts()[0]), Knobs())
    assert point.precision is None
    assert (point.prompt_left, point.generated_tokens) == (point.prompt_tokens, 0)
    session.advance(Knobs(precision=2))
    while not session.advance(Knobs(precision=0)).done:
        pass
    assert {upload.precision for upload in middle.uploads} == {"int8"}


def test_a_draft_ends_with_its_first_unsure_token(world: SplitWorld) -> None:
    session = world.session()
    session.begin(world.device.encode(prompts()[1]), Knobs())
    while not session.advance(Knobs(draft_length=8, draft_threshold=0.05)).done:
        pass
    for record in session.records:
        assert all(token.confidence >= 0.05 for token in record.draft[:-1])


def test_a_prompt_must_fit_and_an_answer_be_begun(world: SplitWorld) -> None:
    session = world.session()
    with pytest.raises(RuntimeError, match="begin"):
        session.advance(Knobs())
    for prompt in ([], [5] * world.device.ends.config.context):
        with pytest.raises(ContextOverflowError):
            session.begin(prompt, Knobs())


@pytest.mark.parametrize(
    "wrong", [{"chunk_doublings": 2.9}, {"draft_threshold": 1.1}, {"draft_length": 9}, {"candidates": -1}, {"precision": 3}]
)
def test_knobs_out_of_range_are_named(wrong: dict[str, float]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(SettingError, match=f"{name}={value}"):
        Knobs(**wrong)  # type: ignore[arg-type]
