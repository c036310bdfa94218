"""HAT's loop over real layers: whatever is decided, the answer is the whole model's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.clock import RealClock
from runtime.errors import CloudUnavailableError, ContextOverflowError, SettingError
from runtime.hat.drafters import ends_over
from runtime.hat.knobs import Knobs
from runtime.hat.session import ALONE, Session
from runtime.hat.values import Lost
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


# ---------------------------------------------------------------- edges


def limited(world: SplitWorld, polls: int = 3, **changes: Any) -> Session:
    """A session whose answers end otherwise."""
    d = world.device
    limits = replace(d.limits, **changes)
    ends = ends_over(d.ends, d.split, d.adapter, RealClock(), d.profile, limits.eos_ids)
    return Session(ends, LocalMiddle(world.model, world.split, polls), RealClock(), d.profile, limits, world.split.last)


def finish(session: Session, prompt: Sequence[int], knobs: Knobs) -> tuple[int, ...]:
    session.begin(prompt, knobs)
    while not session.advance(knobs).done:
        pass
    return session.answer


EAGER = Knobs(chunk_doublings=3, draft_threshold=0.0, draft_length=8, candidates=4)


@pytest.mark.parametrize("room", range(1, 12))
def test_an_answer_is_cut_where_its_room_ends_whatever_is_drafted(world: SplitWorld, room: int) -> None:
    prompt = world.device.encode(prompts()[1])
    session = limited(world, max_new_tokens=room)
    assert finish(session, prompt, EAGER) == world.greedy(prompt)[:room]
    assert sum(len(record.committed) for record in session.records) == len(session.answer)
    assert all(len(record.draft) < room for record in session.records)


@pytest.mark.parametrize("left", [1, 2, 3, 9, 12])
def test_an_answer_ends_where_the_context_does(world: SplitWorld, left: int) -> None:
    context = world.device.ends.config.context
    prompt = (list(world.device.encode(prompts()[5])) * 40)[: context - left]
    answer = finish(limited(world), prompt, EAGER)
    assert answer == world.greedy(prompt)[:left]
    assert len(answer) == left or answer[-1] in world.device.eos_ids


@pytest.mark.parametrize("place", range(1, 7))
@pytest.mark.parametrize("polls", [0, 8])
def test_an_end_within_a_draft_ends_the_answer_there(world: SplitWorld, place: int, polls: int) -> None:
    """Any token may be the one that ends an answer: also one that was drafted, drafted ahead, or said in a draft's place."""
    for number in (0, 3, 6):
        prompt = world.device.encode(prompts()[number])
        whole = world.greedy(prompt)
        last = whole[min(place, len(whole) - 1)]
        expected = whole[: whole.index(last) + 1]
        session = limited(world, polls, eos_ids=frozenset({last}))
        assert finish(session, prompt, EAGER) == expected
        for record in session.records:
            assert last not in record.drafted[:-1]


def test_a_chunked_prompt_brings_all_results_back_where_there_are_last_layers(world: SplitWorld) -> None:
    prompt = world.device.encode(prompts()[5])
    middle = LocalMiddle(world.model, world.split)
    session = world.session(middle)
    assert finish(session, prompt, EAGER) == world.greedy(prompt)
    chunks = [upload for upload in middle.uploads if upload.prefix_length + upload.rows <= len(prompt)]
    assert len(chunks) > 2
    wanted = [upload.rows if world.split.last else 0 for upload in chunks[:-1]]
    assert [upload.returned for upload in chunks] == [*wanted, chunks[-1].rows if world.split.last else 1]


def test_a_longer_draft_ahead_than_is_wanted_is_cut_and_goes_on_as_if_never_drafted(world: SplitWorld) -> None:
    for number in range(4):
        prompt, session = world.device.encode(prompts()[number]), world.session(polls=12)
        session.begin(prompt, EAGER)
        turn = 0
        while not (step := session.advance(EAGER if turn % 2 else replace(EAGER, draft_length=turn % 3))).done:
            turn += 1
            if step.record.ahead is not None:
                assert step.record.ahead.guess == step.record.draft[-1].candidates
        assert session.answer == world.greedy(prompt)


class LostMiddle(LocalMiddle):
    """One whose cloud is lost at an upload."""

    def __init__(self, world: SplitWorld, number: int) -> None:
        super().__init__(world.model, world.split)
        self._number = number

    def lost(self) -> Lost | None:
        return Lost(CloudUnavailableError("gone")) if len(self.uploads) >= self._number else None


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_lost_cloud_ends_the_answer_with_what_stands_and_the_reason(world: SplitWorld, number: int) -> None:
    prompt = world.device.encode(prompts()[0])
    session = world.session(LostMiddle(world, number))
    knobs = Knobs(draft_length=2, draft_threshold=0.0)
    answer = finish(session, prompt, knobs)
    assert session.lost
    assert answer == world.greedy(prompt)[: len(answer)]
    assert bool(answer) == (number > 1)
    assert len(session.records) == number
    assert session.records[-1].error == f"gone; {ALONE}"
    assert (session.records[-1].judged, session.records[-1].committed) == (0, ())
    with pytest.raises(RuntimeError, match="begin"):
        session.advance(knobs)
