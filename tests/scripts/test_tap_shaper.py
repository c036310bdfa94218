"""The link in user space: when a frame arrives, and that frames pass as they are."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts._namespaces import ConstantLink
from scripts._tap_shaper import Direction

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = st.lists(st.tuples(st.floats(0, 0.5), st.integers(60, 1514)), min_size=1, max_size=20)
"""(seconds after the frame before it, bytes)"""


def test_a_frame_alone_takes_the_delay_and_its_bits_at_the_rate() -> None:
    way = Direction(0.05, 1e6)
    way.take(10.0, bytes(1250))
    assert way.waiting[0][0] == pytest.approx(10.0 + 0.05 + 0.01)
    assert way.arrived(10.0599) == []
    assert way.arrived(10.0601) == [bytes(1250)]
    assert way.arrived(11.0) == []


def test_frames_that_enter_together_arrive_one_after_the_other_but_share_the_delay() -> None:
    way = Direction(0.05, 1e6)
    for _ in range(3):
        way.take(10.0, bytes(1250))
    assert [at for at, _ in way.waiting] == pytest.approx([10.06, 10.07, 10.08])


@given(delay=st.floats(0, 1), rate=st.floats(1e3, 1e9), entries=ENTRIES)
def test_no_frame_is_early_or_overtakes_and_the_rate_holds(delay: float, rate: float, entries: list[tuple[float, int]]) -> None:
    way, now, entered = Direction(delay, rate), 100.0, list[float]()
    for number, (later, size) in enumerate(entries):
        now += later
        entered.append(now)
        way.take(now, bytes([number]) * size)
    times = [at for at, _ in way.waiting]
    assert times == sorted(times)
    for place, (at, frame) in enumerate(way.waiting):
        assert at >= entered[place] + delay + 8 * len(frame) / rate - 1e-9
        if place:
            assert at - times[place - 1] >= 8 * len(frame) / rate - 1e-9
    busy = sum(8 * size / rate for _, size in entries)
    assert times[-1] <= now + delay + busy + 1e-9  # never idle while a frame is due
    assert [frame[0] for frame in way.arrived(times[-1])] == list(range(len(entries)))


def test_the_process_passes_frames_both_ways_unchanged() -> None:
    """Over sockets that keep datagrams apart, as TAP devices keep frames."""
    device, one = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    other, cloud = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    command = ConstantLink(2.0, 100.0, 100.0).tap(one.fileno(), other.fileno())
    assert command[0] == sys.executable
    process = subprocess.Popen(command, pass_fds=(one.fileno(), other.fileno()), env={"PYTHONPATH": str(ROOT)})
    try:
        frames = [bytes([i]) * (60 + 100 * i) for i in range(10)]
        for near, far in ((device, cloud), (cloud, device)):
            far.settimeout(60)
            for frame in frames:
                near.send(frame)
            assert [far.recv(65536) for _ in frames] == frames
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        for each in (device, one, other, cloud):
            each.close()
