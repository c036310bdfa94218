"""The replayed cloud: what the LLM says is read off a token graph, how long it takes is told by a link and a busy cloud.

It follows the rules of the live verifier (runtime/synera/verifier.py): waiting, opening, leaving alone, healing. What does not live
here: the walk through the graph (walk.py), how busy the cloud is (synera_env/busy.py) and what a verdict means for the answer (runtime/synera/session.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from runtime.breaker import Breaker
from runtime.clock import SimulatedClock
from runtime.deadline import CHECK_DEADLINE, Patience, repeat_at
from runtime.errors import CloudUnavailableError
from runtime.rules import accept_greedy
from runtime.sampling import SampledDraft
from runtime.synera.chunk import Lost, Verdict
from runtime.synera.held import HeldHistory
from runtime.wire.sizes import on_the_link, open_request_bytes, open_response_bytes, verify_response_bytes
from synera_env.busy import Busy
from synera_env.radio import Radio
from synera_env.synera.walk import Walk
from traces.synera.graph import GraphMeta
from traces.workload.shared_cloud import Met

_LOST = "the replayed cloud gave no answer in time"
_OPEN_UP, _OPEN_DOWN = on_the_link(open_request_bytes()), on_the_link(open_response_bytes())


Work = Callable[[float], tuple[float, int]]
"""Does what a request asks for that arrives then: the seconds that it takes, and the bytes of the answer."""


class _Answer(NamedTuple):
    """When an answer is there, in seconds of the clock."""

    at: float
    seconds: float
    """From the sending of the copy that was answered."""
    repeated: bool
    """It was the second one."""


class _Opening(NamedTuple):
    """An Open under way."""

    over: float
    """When it is answered, or given up."""
    answer: _Answer | None
    probes: bool
    """It is the breaker's probe."""


class ReplayVerifier:
    """Implements :class:`runtime.synera.session.Verifier` over a graph, a radio and a busy cloud."""

    def __init__(
        self,
        walk: Walk,
        meta: GraphMeta,
        clock: SimulatedClock,
        radio: Radio,
        cloud: Busy,
        lost: frozenset[int] | None = None,
        check_deadline: float = CHECK_DEADLINE,
    ) -> None:
        """Put the cloud together; an answer opens its session.

        Args:
            walk: the prefix, shared with the drafter.
            meta: of the graphs.
            clock: that a wait advances.
            radio: times of the messages, and whether they get through.
            cloud: times of the cloud, and how busy others keep it.
            lost: numbers of the checks that get lost, from 1, and no others; None loses those that are not answered in time.
            check_deadline: see :class:`runtime.deadline.Patience`.
        """
        self._walk, self._meta, self._clock, self._radio, self._cloud = walk, meta, clock, radio, cloud
        self._lost, self._checks, self._check_deadline = lost, 0, check_deadline
        self._breaker, self._patience = Breaker(), Patience(check_deadline)
        self._held: HeldHistory | None = None  # what the session in the cloud holds, while there is one
        self._opening: _Opening | None = None
        self._known_at = 0.0
        self._probe: tuple[float, float] | None = None  # when the round trip was known, and what it was
        self._pending: tuple[float, Verdict | Lost] | None = None
        self._uplink_bytes = self._downlink_bytes = 0

    def open(self, prompt_tokens: int) -> None:
        """Start a session without waiting for it; the first check waits for its end."""
        self._breaker, self._patience = Breaker(), Patience(self._check_deadline)
        self._checks, self._held, self._pending, self._probe = 0, None, None, None
        self._open_ahead(self._clock.now(), probes=False)
        if self._opening is not None and self._opening.answer is not None:
            self._probe = self._opening.over, self._opening.answer.seconds
        self._uplink_bytes = self._downlink_bytes = 0

    def probe_seconds(self) -> float | None:
        """Round trip of `open`, once its answer is there; None for good when it was lost."""
        known = self._probe is not None and self._clock.now() >= self._probe[0]
        return self._probe[1] if self._probe is not None and known else None

    def shut(self) -> bool:
        """See :class:`runtime.synera.session.Verifier`."""
        now = self._clock.now()
        self._settle_opening(now)
        return self._breaker.shut(now)

    def submit(self, history: Sequence[int], draft: Sequence[int], sampled: SampledDraft | None = None) -> None:
        """Work out the verdict, or that there will be none, and when that is known."""
        self._checks += 1
        now = self._clock.now()
        self._settle_opening(now)
        claimed = self._breaker.refusal(now) is not None and self._breaker.claim(now)
        if refusal := self._breaker.refusal(now):
            self._pending = now, Lost(CloudUnavailableError(refusal))
            if claimed:
                self._open_ahead(now, probes=True)
        else:
            self._pending = self._check(now, history, draft)

    def ready(self) -> bool:
        """Whether the verdict has arrived by now, or the certainty that none will."""
        return self._pending is None or self._clock.now() >= self._pending[0]

    def result(self) -> Verdict | Lost:
        """Let the time pass until the verdict arrives, or until it is certain that none will."""
        if self._pending is None:
            raise RuntimeError("no chunk was submitted")
        self._known_at, reply = self._pending
        self._pending = None
        self._clock.charge(0.0, since=self._known_at)
        return reply

    def known_at(self) -> float:
        """See :class:`runtime.synera.session.Verifier`."""
        return self._known_at

    def close(self) -> None:
        """Nothing to release."""

    # ------------------------------------------------------------ Open

    def _open_ahead(self, at: float, *, probes: bool) -> None:
        """Open a session before a check needs it."""
        self._held = None
        deadline = at + self._patience.open_seconds()
        answer = self._open_trip(at, deadline)
        self._opening = _Opening(deadline if answer is None else answer.at, answer, probes)

    def _settle_opening(self, now: float) -> None:
        """Take note of an Open that is over by then."""
        if self._opening is None or now < self._opening.over:
            return
        over, answer, probes = self._opening
        self._opening = None
        if answer is None:
            self._open_was_late(over)
            return
        self._held = HeldHistory()
        self._patience.opened(answer.seconds)
        if probes:
            self._breaker.answered()

    def _open_trip(self, at: float, deadline: float) -> _Answer | None:
        answer = self._exchange(at, deadline if self._lost is None else math.inf, _OPEN_UP, lambda _: (0.0, _OPEN_DOWN))
        if answer is not None:
            self._downlink_bytes += _OPEN_DOWN
        return answer

    def _open_was_late(self, known: float) -> None:
        self._patience.open_was_late()
        if self._lost is None:
            self._breaker.failed(known, _LOST)

    # ------------------------------------------------------------ Verify

    def _check(self, submitted: float, history: Sequence[int], draft: Sequence[int]) -> tuple[float, Verdict | Lost]:
        """When a check that is submitted is over, and how."""
        began = max(submitted, self._opening.over if self._opening is not None else 0.0)
        self._settle_opening(began)
        if refusal := self._breaker.refusal(began):
            return began, Lost(CloudUnavailableError(refusal))
        deadline = submitted + self._patience.check_seconds(len(history) + len(draft))
        at = began
        if self._held is None:
            opened = self._open_trip(at, deadline)
            if opened is None:
                known = max(began, deadline)
                self._open_was_late(known)
                return known, Lost(CloudUnavailableError(_LOST), *self._take_bytes())
            at, self._held = opened.at, HeldHistory()
            self._patience.opened(opened.seconds)
        return self._verify(began, at, deadline, self._held, history, draft)

    def _verify(
        self, began: float, at: float, deadline: float, held: HeldHistory, history: Sequence[int], draft: Sequence[int]
    ) -> tuple[float, Verdict | Lost]:
        """The check itself, sent `at`, in a session that is open; a check that began then."""
        check = held.request(history, draft)
        accepted, next_token = accept_greedy(draft, self._choices(len(history), draft))
        met, response = Met(0.0, 0.0, 0.0, 0), 0

        def work(reached: float) -> tuple[float, int]:
            nonlocal met, response
            met = self._cloud.meets(self._checks, reached, check.cloud_tokens)
            response = on_the_link(verify_response_bytes(accepted, next_token, check.cloud_tokens, met.load))
            return met.queue_seconds + met.compute_seconds, response

        lost = self._lost is not None and self._checks in self._lost
        until = deadline if self._lost is None or lost else math.inf
        answer = self._exchange(at, until, check.link_bytes, work, lost=lost)
        if answer is None:
            return self._check_was_late(max(at, deadline))
        worked = met.queue_seconds + met.compute_seconds
        held.settled(history, draft, accepted, next_token)
        self._breaker.succeeded()
        network = None if answer.repeated else max(0.0, answer.seconds - worked)
        self._patience.checked(network, met.queue_seconds, met.compute_seconds, check.cloud_tokens)
        uplink_bytes, downlink_bytes = self._take_bytes()
        return answer.at, Verdict(
            accepted=accepted,
            next_token=next_token,
            queue_seconds=met.queue_seconds,
            compute_seconds=met.compute_seconds,
            cloud_seconds=met.share_seconds,
            network_seconds=max(0.0, answer.at - began - worked),
            cloud_tokens=check.cloud_tokens,
            uplink_bytes=uplink_bytes,
            downlink_bytes=downlink_bytes + response,
            load=float(met.load),
        )

    def _check_was_late(self, known: float) -> tuple[float, Lost]:
        """A check is given up, its session with it."""
        self._patience.check_was_late()
        self._held = None
        if self._lost is None:
            self._breaker.failed(known, _LOST)
        return known, Lost(CloudUnavailableError(_LOST), *self._take_bytes())

    # ------------------------------------------------------------ messages

    def _exchange(self, at: float, deadline: float, size: int, work: Work, *, lost: bool = False) -> _Answer | None:
        """A request that is sent `at`, and repeated half-way to the deadline; None where no answer is there by then.

        Args:
            at: when.
            deadline: no copy is sent, nor an answer waited for, any longer.
            size: bytes of each copy.
            work: what the cloud does for it, whichever copy comes first; asked once, and only if one comes.
            lost: no copy gets through, whatever the radio says.
        """
        if at >= deadline:
            return None
        first = self._reaches(at, deadline, size, lost)
        seconds, answer_size = work(first) if first < math.inf else (0.0, 0)
        there = self._answer(first, first + seconds, answer_size)
        again = repeat_at(at, deadline)
        if there <= again:
            return _Answer(there, there - at, repeated=False)
        second = self._reaches(again, deadline, size, lost)
        if first == math.inf and second < math.inf:
            seconds, answer_size = work(second)
        done = min(first, second) + seconds
        there, there_again = (self._answer(each, done, answer_size) for each in (first, second))
        if min(there, there_again) > deadline:
            return None
        repeated = there_again < there
        return _Answer(there_again, there_again - again, True) if repeated else _Answer(there, there - at, False)

    def _reaches(self, at: float, deadline: float, size: int, lost: bool) -> float:
        """When a copy that is sent `at` is there; infinity for never, or too late to be answered."""
        self._uplink_bytes += size
        if lost or (self._lost is None and not self._radio.reachable(at)):
            return math.inf
        there = at + self._radio.uplink_seconds(at, size)
        return there if there < deadline else math.inf

    def _answer(self, reached: float, done: float, size: int) -> float:
        """When the answer to a copy is here."""
        leaves = max(reached, done)
        return leaves + self._radio.downlink_seconds(leaves, size) if leaves < math.inf else math.inf

    def _take_bytes(self) -> tuple[int, int]:
        taken = self._uplink_bytes, self._downlink_bytes
        self._uplink_bytes = self._downlink_bytes = 0
        return taken

    def _choices(self, history_tokens: int, draft: Sequence[int]) -> Iterator[int]:
        """What the LLM would say after the history and each beginning of the draft; read no further than asked."""
        graph, node = self._walk.graph, self._walk.nodes[history_tokens - self._walk.prompt_tokens]
        for token in draft:
            graph.know(node)
            yield graph.llm_token.item(node)
            node = self._walk.follow(node, token)
        graph.know(node)
        # A terminal node ends the answer: the session cuts what the LLM would say after it.
        yield graph.llm_token.item(node) if math.isnan(graph.score.item(node)) else next(iter(self._meta.eos_ids), 0)
