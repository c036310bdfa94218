"""The replayed middle: what the cloud returns is read off a graph by the device's side; here is told how long it takes.

It follows the rules of the live one (runtime/hat/middle.py, runtime/hat/talk.py): the radio, outages, deadlines. What does not live here: the device (walk.py),
how busy the cloud is (synera_env/busy.py).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from runtime.clock import SimulatedClock
from runtime.errors import LinkDownError
from runtime.hat.patience import PATIENCE, Patience
from runtime.hat.values import Lost, Reply, Upload
from runtime.wire.sizes import (
    PRECISIONS,
    forward_request_bytes,
    forward_response_bytes,
    on_the_link,
    open_request_bytes,
    open_response_bytes,
    row_bytes,
)
from synera_env.busy import Busy
from synera_env.radio import Radio

_OPEN_UP, _OPEN_DOWN = on_the_link(open_request_bytes()), on_the_link(open_response_bytes())


@dataclass(slots=True, eq=False)
class _Answer:
    at: float
    """When it is here."""
    reply: Reply


class ReplayMiddle:
    """Implements :class:`runtime.hat.parts.Middle` over a radio and a busy cloud."""

    def __init__(
        self,
        hidden: int,
        clock: SimulatedClock,
        radio: Radio,
        cloud: Busy,
        forward_seconds: float,
        token_seconds: float,
        lost: frozenset[int] | None = None,
        patience: Patience = PATIENCE,
    ) -> None:
        """Put the cloud together; an answer opens its session.

        Args:
            hidden: numbers of a state.
            clock: that a wait advances.
            radio: times of the messages, and whether they get through.
            cloud: times of the cloud, and how busy others keep it.
            forward_seconds: what the cloud's monitor says of a forward.
            token_seconds: and of each token in it.
            lost: numbers of the uploads at which the cloud is lost, from 1, and no others; None loses those that come too late.
            patience: how long what is tried.
        """
        self._patience = patience
        self._hidden, self._clock, self._radio, self._cloud = hidden, clock, radio, cloud
        self._fit, self._lost_uploads = (forward_seconds, token_seconds), lost
        self.open()

    @property
    def state_bytes(self) -> tuple[int, ...]:
        """See :class:`runtime.hat.parts.Middle`."""
        return tuple(row_bytes(self._hidden, precision) for precision in PRECISIONS)

    def open(self) -> None:
        """See :class:`runtime.hat.parts.Middle`."""
        now = self._clock.now()
        self._seq = 0
        self._answers: deque[_Answer] = deque()
        self._lost: tuple[float, Lost] | None = None  # from when on, and why
        self._arrived = self._done = self._came = now
        there = self._sent(now) + self._radio.uplink_seconds(self._sent(now), _OPEN_UP)
        self._opened = there + self._radio.downlink_seconds(there, _OPEN_DOWN)
        self._began, self._free = now, self._opened

    def probe_seconds(self) -> float | None:
        """See :class:`runtime.hat.parts.Middle`."""
        return self._opened - self._began if self._clock.now() >= self._opened else None

    def send(self, upload: Upload) -> int:
        """See :class:`runtime.hat.parts.Middle`; works out when it is answered."""
        self._seq += 1
        handed, rows = self._clock.now(), upload.rows
        sizes = self._seq, upload.prefix_length, rows, self._hidden, upload.precision, upload.returned
        size = on_the_link(forward_request_bytes(*sizes))
        deadline = handed + self._patience.longest_seconds
        taken = self._sent(max(handed, self._free))
        reach = self._radio.uplink_seconds(taken, size)
        self._free = taken + max(0.0, reach - self._radio.uplink_seconds(taken, 0))
        self._arrived = max(self._arrived, taken + reach)
        starts = max(self._arrived, self._done)
        met = self._cloud.meets(self._seq, starts, rows)
        self._done = starts + met.queue_seconds + met.compute_seconds
        down = on_the_link(forward_response_bytes(self._seq, upload.returned, self._hidden, upload.precision, met.load))
        self._came = max(self._came, self._done + self._radio.downlink_seconds(self._done, down))
        queue = starts - self._arrived + met.queue_seconds
        scripted = self._lost_uploads is not None and self._seq in self._lost_uploads
        if scripted or (self._lost_uploads is None and self._came > deadline) or not math.isfinite(self._came):
            self._lost = self._lost or (deadline, Lost(LinkDownError("the replayed cloud gave no answer in time")))
            self._free = min(self._free, deadline)
            return size
        forward_seconds, token_seconds = self._fit
        reply = Reply(
            states=None,
            queue_seconds=queue,
            compute_seconds=met.compute_seconds,
            cloud_seconds=met.share_seconds,
            cloud_tokens=rows,
            network_seconds=max(0.0, self._came - taken - queue - met.compute_seconds),
            uplink_bytes=size,
            downlink_bytes=down,
            forward_seconds=forward_seconds,
            token_seconds=token_seconds,
            load=met.load,
        )
        self._answers.append(_Answer(self._came, reply))
        return size

    def free(self) -> bool:
        """See :class:`runtime.hat.parts.Middle`."""
        return self._clock.now() >= self._free

    def wait_free(self) -> None:
        """See :class:`runtime.hat.parts.Middle`."""
        self._clock.charge(0.0, since=self._free)

    def ready(self) -> bool:
        """See :class:`runtime.hat.parts.Middle`."""
        return self._clock.now() >= self._over

    def wait_ready(self) -> None:
        """See :class:`runtime.hat.parts.Middle`."""
        self._clock.charge(0.0, since=self._over)

    def replies(self) -> list[Reply]:
        """See :class:`runtime.hat.parts.Middle`."""
        now, found = self._clock.now(), list[Reply]()
        while self._answers and self._answers[0].at <= now:
            found.append(self._answers.popleft().reply)
        return found

    def lost(self) -> Lost | None:
        """See :class:`runtime.hat.parts.Middle`."""
        return self._lost[1] if self._lost is not None and self._clock.now() >= self._lost[0] else None

    def close(self) -> None:
        """Nothing to release."""

    @property
    def _over(self) -> float:
        """When all is answered, or the cloud lost."""
        if self._lost is not None:
            return self._lost[0]
        return self._answers[-1].at if self._answers else 0.0

    def _sent(self, at: float) -> float:
        """When a message that is to be sent then gets through: it is tried again where it meets an outage."""
        if self._lost_uploads is not None:
            return at
        tries, began = 0, at
        while not self._radio.reachable(at) and at < began + 2 * self._patience.longest_seconds:
            tries += 1
            at += self._patience.outage_retry_seconds(tries)
        return at
