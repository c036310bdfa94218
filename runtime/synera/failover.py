"""A device's session on one replica at a time: it stays there until that one fails it, and is then rebuilt on the next.

What does not live here: the session on a replica, which is opened, healed and released (remote.py), and their order (replicas.py).
"""

from __future__ import annotations

from dataclasses import replace

from runtime.courier import Courier
from runtime.errors import GivenUpError, LimitsChangedError, LinkDownError
from runtime.synera.chunk import Lost, Verdict
from runtime.synera.remote import Meet, RemoteSession, Submitted, Terms
from runtime.synera.replicas import Cautions, Replica, Replicas

_NOT_THE_REPLICA = (GivenUpError, LinkDownError, LimitsChangedError)
"""After these another replica would fare no better."""


class RoamingSession:
    """For answer after answer. Every call here waits; one thread makes them.

    An answer begins on the first replica of the device's order that may be asked, and stays there. A check that gets no verdict
    is asked of the next one, with a deadline of its own, which opens a session there and sends the whole history: each is
    asked once. So a check is lost only where all of them fail, and which of them judged the chunks changes no token.
    """

    def __init__(self, replicas: Replicas, terms: Terms | Meet, courier: Courier, cautions: Cautions) -> None:
        self._terms, self._courier, self._cautions = terms, courier, cautions
        self._sessions: dict[Replica, RemoteSession] = {}  # once a replica was turned to
        self._at, self._several = replicas.order[0], replicas.several

    def let_go(self) -> None:
        """End the session, and whatever the cloud may still hold of it."""
        for session in self._sessions.values():
            session.let_go()

    def reopen(self, cautions: Cautions) -> float | None:
        """Begin another answer: replace the session, unless the cloud is left alone; return the round trip in seconds, if any."""
        for session in self._sessions.values():
            session.release()
        self._cautions = cautions
        for replica, session in self._sessions.items():
            session.begin(cautions.of[replica])
        tried: list[Replica] = []
        while (replica := cautions.well(self._now(), tried)) is not None:  # type: ignore[assignment]
            tried.append(replica)
            if (seconds := self.open_ahead(replica, probes=False)) is not None:
                return seconds
        if tried:
            return None
        now = self._now()
        first = cautions.next_tried(now)
        return self.open_ahead(first, probes=True) if cautions.of[first].claim(now) else None

    def open_ahead(self, replica: Replica, probes: bool) -> float | None:
        """Open a session before a check needs it; `probes` where that is the breaker's probe."""
        self._move_to(replica)
        return self._session(replica).open_ahead(probes)

    def check(self, asked: Submitted) -> Verdict | Lost:
        """Have a draft judged."""
        tried: list[Replica] = []
        lost: list[Lost] = []
        while (replica := self._next(tried)) is not None:
            tried.append(replica)
            reply = self._session(replica).check(asked)
            if isinstance(reply, Verdict):
                return _with_bytes(reply, lost)
            lost.append(replica.named(reply) if self._several else reply)
            if isinstance(reply.error, _NOT_THE_REPLICA):
                break
            asked = replace(asked, at=self._now())
        return _with_bytes(lost[0], lost[1:])

    def _next(self, tried: list[Replica]) -> Replica | None:
        """Which replica a check goes to; with none that may be asked, the one where it is says why, once."""
        now = self._now()
        if self._at in tried or self._cautions.of[self._at].refused(now) is not None:
            other = self._cautions.well(now, tried)
            if other is None:
                return None if tried else self._at
            self._move_to(other)
        return self._at

    def _move_to(self, replica: Replica) -> None:
        if replica is not self._at and self._at in self._sessions:
            self._sessions[self._at].leave()
        self._at = replica

    def _session(self, replica: Replica) -> RemoteSession:
        if replica not in self._sessions:
            caution = self._cautions.of[replica]
            self._sessions[replica] = RemoteSession(replica.client, self._terms, self._courier, replica.state, caution)
        return self._sessions[replica]

    def _now(self) -> float:
        return self._courier.clock.now()


def _with_bytes(reply: Verdict | Lost, lost: list[Lost]) -> Verdict | Lost:
    """A reply that also counts what travelled in vain."""
    if not lost:
        return reply
    uplink_bytes = reply.uplink_bytes + sum(each.uplink_bytes for each in lost)
    return replace(
        reply, uplink_bytes=uplink_bytes, downlink_bytes=reply.downlink_bytes + sum(each.downlink_bytes for each in lost)
    )
