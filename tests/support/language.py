"""The stepper's toy world: a language whose next token is a hash of the prefix, one hash for each model; its drafter and verifier."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import strategies as st

from runtime.clock import SimulatedClock
from runtime.errors import CloudUnavailableError
from runtime.sampling import SampledDraft, Sampling
from runtime.session import Limits
from runtime.synera.ahead import GuessRule, likeliest
from runtime.synera.chunk import ChunkRecord, DraftToken, Lost, Verdict
from runtime.synera.knobs import Knobs
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

    def begin(self, prompt: Sequence[int], sampling: Sampling | None) -> None:
        assert sampling is None
        self.prefix = list(prompt)

    def next(self, exit_index: int, exit_margin: float) -> DraftToken:
        self.asked.append((exit_index, exit_margin))
        self.clock.charge(0.01, since=self.clock.now())
        noise = _hash(self.prefix, 4)
        token = self.language(self.prefix)
        self.prefix.append(token)
        return DraftToken(token, max(exit_index, 0), noise % 101 / 101, 0.5, 0.1, 1, np.zeros(16, np.float32))

    def rollback(self, length: int) -> None:
        assert length <= len(self.prefix)
        del self.prefix[length:]

    def push(self, token: int) -> None:
        self.prefix.append(token)

    def next_guessed(self, exit_index: int, exit_margin: float) -> DraftToken:
        return self.next(exit_index, exit_margin)

    push_guessed = push


class ToyVerifier:
    """Checks by a language, in 0.1 s or the seconds of its script; fails where that says so ("at once", "late" or None)."""

    def __init__(
        self,
        language: Language,
        clock: SimulatedClock,
        failures: Sequence[str | None] = (),
        latencies: Sequence[float] = (),
    ) -> None:
        self.language, self.clock, self.failures, self.latencies = language, clock, list(failures), list(latencies)
        self._known_at = 0.0
        self.opened: list[int] = []
        self.closed = 0
        self.checks: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self._failure: str | None = None

    def open(self, prompt_tokens: int) -> None:
        self.opened.append(prompt_tokens)

    def probe_seconds(self) -> float | None:
        return 0.25

    def shut(self) -> bool:
        return False

    def submit(self, history: Sequence[int], draft: Sequence[int], sampled: SampledDraft | None) -> None:
        assert sampled is None
        assert draft, "an empty draft was sent"
        self._failure = self.failures.pop(0) if self.failures else None
        seconds = self.latencies.pop(0) if self.latencies else 0.1
        self._known_at = self.clock.now() + (0.0 if self._failure == "at once" else seconds)
        self.checks.append((tuple(history), tuple(draft)))

    def ready(self) -> bool:
        return self.clock.now() >= self._known_at

    def known_at(self) -> float:
        return self._known_at

    def result(self) -> Verdict | Lost:
        if self._failure == "at once":
            return Lost(CloudUnavailableError("not sent"))
        self.clock.charge(0.0, since=self._known_at)
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
        latencies: Sequence[float] = (),
        draft: Language = slm,
        target: Language = llm,
        guess: GuessRule = likeliest,
    ) -> None:
        self.clock = SimulatedClock()
        self.drafter, self.verifier = ToyDrafter(draft, self.clock), ToyVerifier(target, self.clock, failures, latencies)
        self.limits = Limits(room, frozenset({EOS}), context)
        self.session = Session(self.drafter, self.verifier, self.clock, Energy(), random_lens(3, 4), self.limits, guess)

    def run(self, prompt: Sequence[int], knobs: Sequence[Knobs]) -> tuple[int, ...]:
        """Run an answer with knobs in turn (the last ones repeat); check what must hold at every chunk."""
        point = self.session.begin(prompt, knobs[0])
        chosen, kept = knobs[0], 0
        for turn in range(1000):
            assert self.drafter.prefix == [*prompt, *self.session.answer, *point.draft.ids]
            assert 1 <= len(point.draft.ids) <= chosen.draft_length
            assert (point.chunk, point.generated_tokens) == (turn + 1, len(self.session.answer))
            assert point.offloaded == sum(r.offloaded for r in self.session.records)
            before = self.session.answer
            chosen = knobs[min(turn, len(knobs) - 1)]
            step = self.session.advance(chosen)
            check_record(step.record, chosen, kept)
            kept = step.record.ahead.kept if step.record.ahead else 0
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


def check_record(record: ChunkRecord, knobs: Knobs, kept: int) -> None:
    """What holds of every record; `kept` tokens of its draft were drafted ahead."""
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
    ahead = record.ahead
    assert cost.device_seconds == record.draft.seconds + (ahead.seconds if ahead else 0.0)
    if ahead:
        assert record.offloaded
        assert ahead.seconds == pytest.approx(0.01 * ahead.drafted)
        assert ahead.wasted_joules == pytest.approx(0.01 * (ahead.drafted - ahead.kept))
        assert ahead.hit == (ahead.guess == record.committed)
        assert ahead.hit or not ahead.kept
    assert cost.joules == pytest.approx(cost.device_seconds + 10 * cost.wait_seconds + 1000 * sum(travelled))
    assert cost.seconds == pytest.approx(cost.device_seconds + cost.wait_seconds)
    if record.verdict is None:
        assert (cost.cloud_seconds, cost.cloud_tokens, record.judged, record.accepted) == (0.0, 0, 0, 0)
    else:
        assert (cost.cloud_seconds, cost.cloud_tokens) == (0.02, len(record.draft.ids) + 1)
        assert (record.judged, record.accepted) == (len(record.draft.ids), record.verdict.accepted)
    assert record.draft.seconds == pytest.approx(0.01 * (len(record.draft.ids) - kept))


def offload_all(length: int, draft_ahead: float = 1.0) -> Knobs:
    return Knobs(confidence_threshold=1.0, draft_length=length, draft_ahead=draft_ahead, offload_budget=1.0)


prompts = st.lists(st.integers(1, 50), min_size=1, max_size=20)
fractions = st.sampled_from([0.0, 0.2, 0.35, 0.5, 0.8, 1.0]) | st.floats(0, 1)
any_knobs = st.builds(
    Knobs,
    confidence_threshold=fractions,
    importance_threshold=fractions,
    exit_index=st.integers(-1, 2),
    exit_margin=fractions,
    draft_length=st.integers(1, 8),
    draft_ahead=fractions,
    offload_budget=fractions,
)
failures = st.lists(st.sampled_from([None, "at once", "late"]), max_size=20)
