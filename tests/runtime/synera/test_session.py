"""The stepper on a toy language (tests/support/language.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ContextOverflowError
from runtime.session import Limits
from runtime.synera.knobs import Knobs
from tests.support.language import EOS, Toy, any_knobs, failures, llm, offload_all, prompts, slm

# ---------------------------------------------------------------- which tokens


@settings(max_examples=150, deadline=None)
@given(
    prompt=prompts,
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=10),
    room=st.integers(1, 40),
    context=st.integers(21, 60),
)
def test_always_offloading_gives_the_llm_s_answer(prompt: list[int], lengths: list[int], room: int, context: int) -> None:
    toy = Toy(room=room, context=context)
    assert toy.run(prompt, [offload_all(n) for n in lengths]) == toy.greedy(prompt, llm)


@settings(max_examples=80, deadline=None)
@given(
    prompt=prompts,
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=10),
    room=st.integers(1, 40),
    context=st.integers(21, 60),
)
def test_never_offloading_gives_the_slm_s_answer(prompt: list[int], lengths: list[int], room: int, context: int) -> None:
    toy = Toy(room=room, context=context)
    assert toy.run(prompt, [Knobs(draft_length=n) for n in lengths]) == toy.greedy(prompt, slm)
    assert toy.verifier.checks == []


@settings(max_examples=150, deadline=None)
@given(prompt=prompts, knobs=st.lists(any_knobs, min_size=1, max_size=30), fails=failures)
def test_every_chunk_holds_its_invariants(prompt: list[int], knobs: list[Knobs], fails: list[str | None]) -> None:
    """`Toy.run` checks prefix, counts and records at every chunk; here: rule, budget, and what was committed."""
    toy = Toy(failures=fails)
    answer = toy.run(prompt, knobs)
    offloaded, seen = 0, len(prompt)
    for chunk, record in enumerate(toy.session.records, 1):
        k, draft, history = record.knobs, record.draft, [*prompt, *answer][:seen]
        affordable = offloaded + 1 <= math.ceil(k.offload_budget * chunk - 1e-9)
        uncertain = k.confidence_threshold == 1.0 or draft.confidence < k.confidence_threshold
        assert record.offloaded == (uncertain and draft.importance >= k.importance_threshold and affordable)
        offloaded += record.offloaded
        if record.verdict:
            assert all(llm([*history, *record.committed[:i]]) == t for i, t in enumerate(record.committed))
        else:
            assert all(slm([*history, *record.committed[:i]]) == t for i, t in enumerate(record.committed))
        seen += len(record.committed)
    assert tuple(t for record in toy.session.records for t in record.committed) == answer
    assert sum(r.cost.seconds for r in toy.session.records) == pytest.approx(toy.session.records[-1].committed_at)
    assert EOS not in answer[:-1]
    assert answer[-1] == EOS or len(answer) == 40


@settings(max_examples=80, deadline=None)
@given(prompt=prompts, budget=st.floats(0, 1), length=st.integers(1, 8))
def test_a_fixed_budget_holds_at_every_chunk(prompt: list[int], budget: float, length: int) -> None:
    toy = Toy()
    toy.run(prompt, [Knobs(confidence_threshold=1.0, draft_length=length, offload_budget=budget)])
    offloaded = 0
    for chunk, record in enumerate(toy.session.records, 1):
        offloaded += record.offloaded
        assert offloaded <= math.ceil(budget * chunk)


def test_a_wrong_draft_is_rolled_back_to_the_correction() -> None:
    toy = Toy(draft=lambda prefix: 51, target=lambda prefix: 7, room=6)
    assert toy.run([1, 2], [offload_all(3)]) == (7,) * 6
    assert [r.verdict.accepted for r in toy.session.records if r.verdict] == [0] * 6


def test_a_right_draft_earns_the_bonus_token() -> None:
    toy = Toy(draft=lambda prefix: 7, target=lambda prefix: 7, room=8)
    assert toy.run([1, 2], [offload_all(3)]) == (7,) * 8
    assert [len(r.committed) for r in toy.session.records] == [4, 4]
    assert toy.verifier.checks[1] == ((1, 2, 7, 7, 7, 7), (7, 7, 7))


# ---------------------------------------------------------------- where an answer ends


def test_eos_in_an_accepted_draft_ends_the_answer_without_the_bonus() -> None:
    toy = Toy(draft=lambda prefix: EOS if len(prefix) == 4 else 5, target=lambda prefix: EOS if len(prefix) == 4 else 5)
    assert toy.run([1, 2], [offload_all(8)]) == (5, 5, EOS)


def test_eos_as_a_correction_ends_the_answer() -> None:
    toy = Toy(draft=lambda prefix: 5, target=lambda prefix: EOS)
    assert toy.run([1, 2], [offload_all(8)]) == (EOS,)


def test_a_rejected_eos_does_not_end_the_answer() -> None:
    toy = Toy(draft=lambda prefix: EOS, target=lambda prefix: 5, room=3)
    assert toy.run([1, 2], [offload_all(8)]) == (5, 5, 5)


@pytest.mark.parametrize(("room", "context", "wanted"), [(3, 64, 3), (40, 6, 4), (1, 3, 1)])
def test_the_answer_is_cut_at_the_room_left(room: int, context: int, wanted: int) -> None:
    for knobs in (offload_all(8), Knobs(draft_length=8)):
        toy = Toy(draft=lambda prefix: 5, target=lambda prefix: 5, room=room, context=context)
        assert toy.run([1, 2], [knobs]) == (5,) * wanted


def test_the_decision_point_tells_the_room() -> None:
    point = Toy(room=40, context=10).session.begin([1, 2, 3], Knobs())
    assert (point.prompt_tokens, point.max_new_tokens, point.probe_seconds) == (3, 7, 0.25)


# ---------------------------------------------------------------- knobs of which chunk


def test_exit_and_length_apply_to_the_next_chunk_thresholds_to_the_one_in_hand() -> None:
    toy = Toy(draft=lambda prefix: 5, target=lambda prefix: 5)
    point = toy.session.begin([1], Knobs(exit_index=0, exit_margin=0.5, draft_length=2))
    assert len(point.draft.ids) == 2
    step = toy.session.advance(
        Knobs(confidence_threshold=1.0, offload_budget=1.0, exit_index=1, exit_margin=0.25, draft_length=3)
    )
    assert step.record.offloaded
    assert step.point is not None
    assert len(step.point.draft.ids) == 3
    assert toy.drafter.asked == [(0, 0.5)] * 2 + [(1, 0.25)] * 3


def test_importance_is_the_lens_s_of_the_whole_chunk() -> None:
    toy = Toy(draft=lambda prefix: 5)
    for length in (1, 2, 4):
        draft = toy.session.begin([1], Knobs(draft_length=length)).draft
        assert draft.importance == toy.session._lens.importance_quantile(draft.tokens)
        assert 0.0 < draft.importance < 1.0


# ---------------------------------------------------------------- time


def test_times_are_the_clock_s() -> None:
    toy = Toy(draft=lambda prefix: 5, target=lambda prefix: 5, room=9)
    toy.clock.charge(100.0, since=0.0)  # an answer's time starts at its own beginning
    toy.run([1], [offload_all(2), Knobs(draft_length=2)])
    first, second = toy.session.records[:2]
    assert (first.cost.wait_seconds, first.draft.seconds) == pytest.approx((0.1, 0.02))
    assert first.committed_at == pytest.approx(0.12)
    assert second.committed_at == pytest.approx(0.14)


# ---------------------------------------------------------------- loss of the cloud


@settings(max_examples=100, deadline=None)
@given(prompt=prompts, fails=failures, length=st.integers(1, 8))
def test_a_failing_cloud_never_costs_the_answer(prompt: list[int], fails: list[str | None], length: int) -> None:
    toy = Toy(failures=fails)
    answer = toy.run(prompt, [offload_all(length)])
    assert answer[-1] == EOS or len(answer) == 40
    wanted = {None: None, "at once": "not sent", "late": "no verdict"}
    scripted = [wanted[f] for f in fails] + [None] * len(toy.session.records)
    assert [r.error for r in toy.session.records] == scripted[: len(toy.session.records)]


def test_without_any_cloud_the_answer_is_the_slm_s() -> None:
    toy = Toy(failures=["at once"] * 50)
    assert toy.run([3, 4], [offload_all(4)]) == toy.greedy([3, 4], slm)
    assert {r.error for r in toy.session.records} == {"not sent"}


def test_a_lost_check_is_waited_for_and_counts_against_the_budget() -> None:
    toy = Toy(failures=["late"], draft=lambda prefix: 5)
    toy.session.begin([3, 4], offload_all(4))
    step = toy.session.advance(offload_all(4))
    assert step.record.cost.wait_seconds == pytest.approx(0.1)
    assert step.point is not None
    assert step.point.offloaded == 1


def test_other_errors_are_not_swallowed() -> None:
    def broken(prefix: Sequence[int]) -> int:
        raise ZeroDivisionError

    toy = Toy(target=broken)
    toy.session.begin([1], offload_all(2))
    with pytest.raises(ZeroDivisionError):
        toy.session.advance(offload_all(2))


# ---------------------------------------------------------------- use


def test_advance_needs_a_chunk_in_hand() -> None:
    toy = Toy(room=1)
    with pytest.raises(RuntimeError, match="call begin"):
        toy.session.advance(Knobs())
    toy.run([1], [Knobs()])
    with pytest.raises(RuntimeError, match="call begin"):
        toy.session.advance(Knobs())
    toy.session.begin([1], Knobs())
    toy.session.close()
    with pytest.raises(RuntimeError, match="call begin"):
        toy.session.advance(Knobs())


def test_begin_starts_over() -> None:
    toy = Toy()
    first = toy.run([3, 4], [offload_all(3)])
    assert toy.run([9], [offload_all(3)]) == toy.greedy([9], llm)
    assert toy.run([3, 4], [offload_all(3)]) == first
    assert toy.verifier.opened == [2, 1, 2]


def test_close_releases_the_cloud_and_keeps_the_answer() -> None:
    toy = Toy()
    answer = toy.run([3, 4], [offload_all(3)])
    toy.session.close()
    assert toy.verifier.closed == 1
    assert toy.session.answer == answer
    assert toy.session.records


@pytest.mark.parametrize("tokens", [0, 64, 65])
def test_a_prompt_that_leaves_no_room_is_an_error(tokens: int) -> None:
    toy = Toy(context=64)
    with pytest.raises(ContextOverflowError, match=rf"prompt of {tokens} tokens .* between 1 and 63"):
        toy.session.begin([1] * tokens, Knobs())
    assert toy.verifier.opened == []  # nothing was started


def test_an_answer_that_cannot_begin_leaves_nothing_of_the_one_before() -> None:
    toy = Toy(context=64)
    toy.session.begin([1, 2], Knobs())
    with pytest.raises(ContextOverflowError):
        toy.session.begin([], Knobs())
    with pytest.raises(RuntimeError, match="call begin"):
        toy.session.advance(Knobs())


def test_limits_need_room_for_a_token() -> None:
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        Limits(0, frozenset(), 10)
