"""A link in user space, for kernels without netem: a process that passes Ethernet frames between two TAP devices, late.

Run as `python -m scripts._tap_shaper FD FD DELAY_SECONDS UPLINK_BPS DOWNLINK_BPS`. What does not live here: the devices and
their networks (_namespaces.py). Nothing heavy is imported, as this process must never make a frame wait.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections import deque

_LARGEST_FRAME = 65536


class Direction:
    """One way over the link: when each frame arrives, as sch_netem.c of Linux computes it for `delay` and `rate`.

    A frame leaves the queue `delay` after it entered or, where that is later, when the frame before it has left; then its bits
    pass at the rate.
    """

    def __init__(self, delay_seconds: float, bits_per_second: float) -> None:
        self._delay, self._rate, self._last = delay_seconds, bits_per_second, 0.0
        self.waiting: deque[tuple[float, bytes]] = deque()
        """(when it arrives, frame), in order."""

    def take(self, now: float, frame: bytes) -> None:
        """A frame enters at `now` seconds."""
        self._last = max(now + self._delay, self._last) + 8 * len(frame) / self._rate
        self.waiting.append((self._last, frame))

    def arrived(self, now: float) -> list[bytes]:
        """Remove and return the frames that have arrived."""
        frames = []
        while self.waiting and self.waiting[0][0] <= now:
            frames.append(self.waiting.popleft()[1])
        return frames


def shape(device: int, cloud: int, uplink: Direction, downlink: Direction) -> None:
    """Pass frames between two file descriptors, for ever."""
    ways = ((device, cloud, uplink), (cloud, device, downlink))
    while True:
        now = time.monotonic()
        for _, target, way in ways:
            for frame in way.arrived(now):
                os.write(target, frame)
        first = min((way.waiting[0][0] for _, _, way in ways if way.waiting), default=None)
        wait = None if first is None else max(0.0, first - time.monotonic())
        readable, _, _ = select.select((device, cloud), (), (), wait)
        for source, _, way in ways:
            if source in readable:
                frame = os.read(source, _LARGEST_FRAME)
                way.take(time.monotonic(), frame)


if __name__ == "__main__":
    _device, _cloud, *_rest = sys.argv[1:]
    _delay, _up, _down = map(float, _rest)
    shape(int(_device), int(_cloud), Direction(_delay, _up), Direction(_delay, _down))
