"""The replayed cloud: what the LLM says is read off a token graph, and how long it takes is told by a link and a profile.

It follows the rules of the live verifier (runtime/synera/verifier.py): opening, loss, back-off, healing. What does not live
here: the walk through the graph (walk.py) and what a verdict means for the answer (runtime/synera/session.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from runtime.clock import SimulatedClock
from runtime.errors import CloudUnavailableError
from runtime.link import LOST_AFTER_SECONDS
from runtime.rules import accept_greedy
from runtime.sampling import SampledDraft
from runtime.synera.backoff import Backoff
from runtime.synera.chunk import Lost, Verdict
from runtime.synera.held import HeldHistory
from runtime.wire.sizes import on_the_link, open_request_bytes, open_response_bytes, verify_response_bytes
from synera_env.radio import Radio
from synera_env.synera.walk import Walk
from traces.profile import CloudProfile
from traces.synera.graph import GraphMeta

_LOST = "the replayed link is down, so the cloud could not be reached"
_OPEN_UP, _OPEN_DOWN = on_the_link(open_request_bytes()), on_the_link(open_response_bytes())


class ReplayVerifier:
    """Implements :class:`runtime.synera.session.Verifier` over a graph, a radio and a cloud profile."""

    def __init__(
        self,
        walk: Walk,
        meta: GraphMeta,
        clock: SimulatedClock,
        radio: Radio,
        cloud: CloudProfile,
        rng: np.random.Generator,
        lost: frozenset[int] | None = None,
    ) -> None:
        """Put the cloud together; an answer opens its session.

        Args:
            walk: the prefix, shared with the drafter.
            meta: of the graphs.
            clock: that a wait advances.
            radio: times of the messages, and whether they get through.
            cloud: times of the cloud, and how busy others keep it.
            rng: draws how busy it is at each check.
            lost: numbers of the checks that get lost, from 1, and no others; None loses those that meet an outage.
        """
        self._walk, self._meta, self._clock, self._radio, self._cloud, self._rng = walk, meta, clock, radio, cloud, rng
        self._lost, self._checks = lost, 0
        self._backoff = Backoff()
        self._held: HeldHistory | None = None  # what the session in the cloud holds, while there is one
        self._opened_at = self._known_at = 0.0
        self._probe: float | None = None
        self._pending: tuple[float, Verdict | Lost] | None = None

    def open(self, prompt_tokens: int) -> None:
        """Start a session without waiting for it; the first check waits for its end."""
        self._backoff, self._checks, self._held, self._pending = Backoff(), 0, None, None
        now = self._clock.now()
        if self._lost is not None or self._radio.reachable(now):
            self._held, self._opened_at = HeldHistory(), self._opening(now)
            self._probe = self._opened_at - now
        else:
            self._opened_at, self._probe = now + LOST_AFTER_SECONDS, None
            self._backoff.failed(self._opened_at, _LOST)

    def probe_seconds(self) -> float | None:
        """Round trip of `open`, once its answer is there; None for good when it was lost."""
        return self._probe if self._clock.now() >= self._opened_at else None

    def submit(self, history: Sequence[int], draft: Sequence[int], sampled: SampledDraft | None = None) -> None:
        """Work out the verdict, or that there will be none, and when that is known."""
        self._checks += 1
        sent = max(self._clock.now(), self._opened_at)
        if refusal := self._backoff.refusal(sent):
            self._pending = sent, Lost(CloudUnavailableError(refusal))
        else:
            self._pending = self._check(sent, history, draft)

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

    def _opening(self, at: float) -> float:
        """When an Open that is sent `at` is answered."""
        reached = at + self._radio.uplink_seconds(at, _OPEN_UP)
        return reached + self._radio.downlink_seconds(reached, _OPEN_DOWN)

    def _check(self, sent: float, history: Sequence[int], draft: Sequence[int]) -> tuple[float, Verdict | Lost]:
        """When a check that is sent is over, and how; after a loss another session is opened first."""
        at, uplink_bytes, downlink_bytes = sent, 0, 0
        if self._held is None:
            uplink_bytes += _OPEN_UP
            if not self._gets_through(at):
                return self._gone(at, uplink_bytes, downlink_bytes)
            at, self._held = self._opening(at), HeldHistory()
            downlink_bytes += _OPEN_DOWN
        check = self._held.request(history, draft)
        uplink_bytes += check.link_bytes
        if not self._gets_through(at):
            return self._gone(at, uplink_bytes, downlink_bytes)
        accepted, next_token = accept_greedy(draft, self._choices(len(history), draft))
        busy = float(self._rng.random())  # who waits long meets many: one draw for both
        load = 1 + self._cloud.background_load(busy)
        queue, compute = self._cloud.queue_seconds(busy), self._cloud.forward_seconds(check.cloud_tokens)
        response = on_the_link(verify_response_bytes(accepted, next_token, check.cloud_tokens, load))
        answered = at + self._radio.uplink_seconds(at, check.link_bytes) + queue + compute
        arrives = answered + self._radio.downlink_seconds(answered, response)
        self._held.settled(history, draft, accepted, next_token)
        self._backoff.succeeded()
        return arrives, Verdict(
            accepted=accepted,
            next_token=next_token,
            queue_seconds=queue,
            compute_seconds=compute,
            cloud_seconds=compute,
            network_seconds=arrives - sent - queue - compute,
            cloud_tokens=check.cloud_tokens,
            uplink_bytes=uplink_bytes,
            downlink_bytes=downlink_bytes + response,
            load=float(load),
        )

    def _gets_through(self, at: float) -> bool:
        return self._radio.reachable(at) if self._lost is None else self._checks not in self._lost

    def _gone(self, at: float, uplink_bytes: int, downlink_bytes: int) -> tuple[float, Lost]:
        """A message that is sent `at` is lost: the session is given up, and the cloud left alone for a while."""
        known, self._held = at + LOST_AFTER_SECONDS, None
        if self._lost is None:
            self._backoff.failed(known, _LOST)
        return known, Lost(CloudUnavailableError(_LOST), uplink_bytes, downlink_bytes)

    def _choices(self, history_tokens: int, draft: Sequence[int]) -> Iterator[int]:
        """What the LLM would say after the history and each beginning of the draft; read no further than asked."""
        graph, node = self._walk.graph, self._walk.nodes[history_tokens - self._walk.prompt_tokens]
        for token in draft:
            yield int(graph.llm_token[node])
            node = self._walk.follow(node, token)
        # A terminal node ends the answer: the session cuts what the LLM would say after it.
        yield int(graph.llm_token[node]) if np.isnan(graph.score[node]) else next(iter(self._meta.eos_ids), 0)
