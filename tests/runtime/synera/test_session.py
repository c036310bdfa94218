"""The stepper on a toy language: the next token is a hash of the prefix, one hash for each model."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.clock import SimulatedClock
from runtime.errors import CloudUnavailableError, ContextOverflowError
from runtime.session import Limits
from runtime.synera.chunk import ChunkRecord, DraftToken, Lost, Verdict
from runtime.synera.knobs import Knobs
from runtime.synera.lens import chunk_importance
from runtime.synera.session import Session
from tests.support.checkpoints import random_lens

EOS = 0
Language = Callable[[Sequence[int]], int]


def _hash(prefix: Sequence[int], salt: int) -> int:
    return zlib.crc32(bytes(prefix) + bytes([salt]))


def llm(prefix: Sequence[int]) -> int:
    """Tokens 1..50; one in 25 is EOS."""
    found = _hash(prefix, 1)
    return EOS if found % 25 == 0 else 1 + found % 50


def slm(prefix: Sequence[int]) -> int:
    """The LLM's token two times in three."""
    return llm(prefix) if _hash(prefix, 2) % 3 else 1 + _hash(prefix, 3) % 50


class ToyDrafter:
    """Drafts by a language; a token costs 0.01 s; keeps every exit it was asked for."""

    def __init__(self, language: Language, clock: SimulatedClock) -> None:
        self.language, self.clock = language, clock
        self.prefix: list[int] = []
        self.asked: list[tuple[int, float]] = []

    def begin(self, prompt: Sequence[int]) -> None:
        self.prefix = list(prompt)

    def next(self, exit_index: int, exit_margin: float) -> DraftToken:
        self.asked.append((exit_index, exit_margin))
        self.clock.charge(0.01, since=self.clock.now())
        noise = _hash(self.prefix, 4)
        token = self.language(self.prefix)
        attention = np.array([(noise >> i) % 97 / 97 for i in range(8)], np.float32)
        self.prefix.append(token)
        return DraftToken(token, max(exit_index, 0), noise % 101 / 101, 0.5, 0.1, 1, np.zeros(16, np.float32), attention)

    def rollback(self, length: int) -> None:
        assert length <= len(self.prefix)
        del self.prefix[length:]

    def push(self, token: int) -> None:
        self.prefix.append(token)


class ToyVerifier:
    """Checks by a language; fails where its script says so ("at once", "late" or None, one a check)."""

    def __init__(self, language: Language, clock: SimulatedClock, failures: Sequence[str | None] = ()) -> None:
        self.language, self.clock, self.failures = language, clock, list(failures)
        self.opened: list[int] = []
        self.closed = 0
        self.checks: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self._failure: str | None = None

    def open(self, prompt_tokens: int) -> None:
        self.opened.append(prompt_tokens)

    def probe_seconds(self) -> float | None:
        return 0.25

    def submit(self, history: Sequence[int], draft: Sequence[int]) -> None:
        assert draft, "an empty draft was sent"
        self._failure = self.failures.pop(0) if self.failures else None
        self.checks.append((tuple(history), tuple(draft)))

    def result(self) -> Verdict | Lost:
        if self._failure == "at once":
            return Lost(CloudUnavailableError("not sent"))
        self.clock.charge(0.1, since=self.clock.now())
        if self._failure == "late":
            return Lost(CloudUnavailableError("no verdict"), uplink_bytes=70, downlink_bytes=5)
        history, draft = self.checks[-1]
        accepted = 0
        while accepted < len(draft) and self.language([*history, *draft[:accepted]]) == draft[accepted]:
            accepted += 1
        correction = self.language([*history, *draft[:accepted]])
        return Verdict(
            accepted, correction, 0.01, 0.02, 0.02, 0.07, len(draft) + 1, uplink_bytes=100, downlink_bytes=20, load=0.0
        )

    def close(self) -> None:
        self.closed += 1


class Energy:
    """A joule for each busy second, 10 for each waiting one, 1000 for each byte."""

    def joules(self, busy_seconds: float, wait_seconds: float, radio_bytes: int) -> float:
        return busy_seconds + 10 * wait_seconds + 1000 * radio_bytes


class Toy:
    """A session over the toy language."""

    def __init__(
        self,
        *,
        room: int = 40,
        context: int = 64,
        failures: Sequence[str | None] = (),
        draft: Language = slm,
        target: Language = llm,
    ) -> None:
        self.clock = SimulatedClock()
        self.drafter, self.verifier = ToyDrafter(draft, self.clock), ToyVerifier(target, self.clock, failures)
        self.limits = Limits(room, frozenset({EOS}), context)
        self.session = Session(self.drafter, self.verifier, self.clock, Energy(), random_lens(1, 4), self.limits)

    def run(self, prompt: Sequence[int], knobs: Sequence[Knobs]) -> tuple[int, ...]:
        """Run an answer with knobs in turn (the last ones repeat); check what must hold at every chunk."""
        point = self.session.begin(prompt, knobs[0])
        chosen: Knobs = knobs[0]
        for turn in range(1000):
            assert self.drafter.prefix == [*prompt, *self.session.answer, *point.draft.ids]
            assert 1 <= len(point.draft.ids) <= chosen.draft_length
            assert (point.chunk, point.generated_tokens) == (turn + 1, len(self.session.answer))
            assert point.offloaded == sum(r.offloaded for r in self.session.records)
            before = self.session.answer
            chosen = knobs[min(turn, len(knobs) - 1)]
            step = self.session.advance(chosen)
            check_record(step.record, chosen)
            assert step.record.committed
            assert self.session.answer == (*before, *step.record.committed)
            assert self.session.records[-1] is step.record
            assert step.done == (step.point is None)
            if step.point is None:
                assert self.drafter.prefix == [*prompt, *self.session.answer]
                return self.session.answer
            point = step.point
        raise AssertionError("the answer does not end")

    def greedy(self, prompt: Sequence[int], language: Language) -> tuple[int, ...]:
        """What a model says alone."""
        answer: list[int] = []
        while len(answer) < min(self.limits.max_new_tokens, self.limits.context - len(prompt)):
            answer.append(language([*prompt, *answer]))
            if answer[-1] == EOS:
                break
        return tuple(answer)


def check_record(record: ChunkRecord, knobs: Knobs) -> None:
    assert record.knobs == knobs
    if not record.offloaded:
        assert record.verdict is None
        assert record.error is None
        assert (record.cost.wait_seconds, record.cost.uplink_bytes, record.cost.downlink_bytes) == (0.0, 0, 0)
    else:
        assert (record.verdict is None) == (record.error is not None)
    if record.verdict is None:
        assert record.committed == record.draft.ids
    cost, travelled = record.cost, (100, 20) if record.verdict else (70, 5) if record.error == "no verdict" else (0, 0)
    assert (cost.uplink_bytes, cost.downlink_bytes) == travelled
    assert cost.device_seconds == record.draft.seconds
    assert cost.joules == pytest.approx(cost.device_seconds + 10 * cost.wait_seconds + 1000 * sum(travelled))
    assert cost.seconds == pytest.approx(cost.device_seconds + cost.wait_seconds)
    if record.verdict is None:
        assert (cost.cloud_seconds, cost.cloud_tokens, record.judged, record.accepted) == (0.0, 0, 0, 0)
    else:
        assert (cost.cloud_seconds, cost.cloud_tokens) == (0.02, len(record.draft.ids) + 1)
        assert (record.judged, record.accepted) == (len(record.draft.ids), record.verdict.accepted)
    assert record.draft.seconds == pytest.approx(0.01 * len(record.draft.ids))


def offload_all(length: int) -> Knobs:
    return Knobs(confidence_threshold=1.0, draft_length=length, offload_budget=1.0)


prompts = st.lists(st.integers(1, 50), min_size=1, max_size=20)
fractions = st.sampled_from([0.0, 0.2, 0.35, 0.5, 0.8, 1.0]) | st.floats(0, 1)
any_knobs = st.builds(
    Knobs,
    confidence_threshold=fractions,
    importance_threshold=fractions,
    exit_index=st.integers(-1, 2),
    exit_margin=fractions,
    draft_length=st.integers(1, 8),
    offload_budget=fractions,
)
failures = st.lists(st.sampled_from([None, "at once", "late"]), max_size=20)


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


def test_importance_comes_from_the_rows_of_later_tokens() -> None:
    toy = Toy(draft=lambda prefix: 5)
    draft = toy.session.begin([1], Knobs(draft_length=4)).draft
    raw = chunk_importance([t.attention for t in draft.tokens[1:]])
    assert raw is not None
    assert draft.importance == pytest.approx(raw, abs=0.02)  # the lens of these tests maps evenly
    assert toy.session.begin([1], Knobs(draft_length=2)).draft.importance == 1.0


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
