"""The replayed middle: its radio, its order, its outages and losses; and the live one over an emulated link beside it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.clock import SimulatedClock
from runtime.hat.patience import PATIENCE, Patience
from runtime.hat.values import Upload
from runtime.link import LinkEmulator
from runtime.wire.sizes import PRECISIONS, forward_request_bytes, on_the_link
from synera_env.busy import DrawnBusy
from synera_env.hat.middle import ReplayMiddle
from synera_env.radio import Outages, Radio
from tests.runtime.hat.test_middle import world
from tests.support.middles import HIDDEN
from tests.support.recorded import GPU
from traces.links.generators import constant_link

UPLOADS = st.lists(
    st.tuples(st.integers(1, 300), st.integers(0, 8), st.floats(0.0, 0.5), st.sampled_from(["free", "ready", "neither"])),
    min_size=1,
    max_size=15,
)


def replay(radio: Radio, clock: SimulatedClock, lost: frozenset[int] | None = None) -> ReplayMiddle:
    return ReplayMiddle(HIDDEN, clock, radio, DrawnBusy(GPU, 3), 0.004, 0.0001, lost)


class Noted(Radio):
    """One whose uploads are written down: when each was sent, and of how many bytes."""

    def __init__(self, radio: Radio) -> None:
        super().__init__(radio.trace, radio.offset_seconds, radio.outages)
        object.__setattr__(self, "sent", [])

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        if size_bytes:
            self.sent.append((at_seconds, size_bytes))  # type: ignore[attr-defined]
        return super().uplink_seconds(at_seconds, size_bytes)


@settings(max_examples=60)
@given(
    uploads=UPLOADS,
    rtt=st.sampled_from([0.0, 20.0, 300.0]),
    mbps=st.sampled_from([0.5, 5.0, 100.0]),
    seed=st.integers(0, 50),
    calm=st.booleans(),
)
def test_time_never_goes_back_and_the_radio_sends_one_at_a_time(
    uploads: list[tuple[int, int, float, str]], rtt: float, mbps: float, seed: int, calm: bool
) -> None:
    outages = () if calm else Outages(every_seconds=3.0, mean_seconds=0.5, loss_rate=0.05).draw(seed)
    radio, clock = Noted(Radio(constant_link(rtt, mbps, 10.0), outages=outages)), SimulatedClock()
    middle = replay(radio, clock)
    now, first, answers = 0.0, 0, 0
    for rows, returned, seconds, wait in uploads:
        size = middle.send(Upload(first, rows, None, min(returned, rows), "fp32"))
        first += rows
        assert size == radio.sent[-1][1]  # type: ignore[attr-defined]
        clock.charge(seconds, since=clock.now())
        if wait == "free":
            middle.wait_free()
            assert middle.free()
        elif wait == "ready":
            middle.wait_ready()
            assert middle.ready()
        assert clock.now() >= now
        now = clock.now()
        answers += len(middle.replies())
        if middle.lost() is not None:
            return
    middle.wait_ready()
    assert clock.now() >= now
    answers += len(middle.replies())
    if middle.lost() is None:
        assert answers == len(uploads)
    sent = radio.sent[1:]  # type: ignore[attr-defined]  # without the Open
    for (at, size), (after, _) in itertools.pairwise(sent):
        took = Radio.uplink_seconds(radio, at, size) - Radio.uplink_seconds(radio, at, 0)
        assert after >= at + took - 1e-9
    assert all(radio.reachable(at) for at, _ in sent)


@given(uploads=UPLOADS)
def test_replies_come_in_the_order_of_their_uploads_with_their_bytes(uploads: list[tuple[int, int, float, str]]) -> None:
    clock = SimulatedClock()
    middle, sizes, first = replay(Radio(constant_link(30.0, 3.0, 3.0)), clock), [], 0
    for rows, returned, _, _ in uploads:
        sizes.append(middle.send(Upload(first, rows, None, min(returned, rows), "int8")))
        first += rows
    assert middle.replies() == []
    middle.wait_ready()
    replies = middle.replies()
    assert [reply.uplink_bytes for reply in replies] == sizes
    assert [reply.cloud_tokens for reply in replies] == [rows for rows, *_ in uploads]
    assert all(reply.network_seconds >= 0.03 - 1e-9 for reply in replies)


def test_chunks_cross_the_link_while_those_before_are_run() -> None:
    """Four in a row take less than four times one."""
    radio = Radio(constant_link(20.0, 1.0, 10.0))

    def seconds(number: int) -> float:
        clock = SimulatedClock()
        middle = replay(radio, clock)
        for place in range(number):
            middle.send(Upload(100 * place, 100, None, int(place == number - 1), "fp32"))
            middle.wait_free()
        middle.wait_ready()
        return clock.now()

    upload = on_the_link(forward_request_bytes(1, 0, 100, HIDDEN, "fp32", 0)) * 8 / 1e6
    assert seconds(4) < 4 * seconds(1)
    assert seconds(4) >= 4 * upload


def test_an_upload_in_an_outage_is_tried_again_and_one_that_lasts_loses_the_cloud() -> None:
    clock, radio = SimulatedClock(), Noted(Radio(constant_link(0.0, 10.0, 10.0), outages=((1.0, 2.1),)))
    middle = replay(radio, clock)
    clock.charge(1.0, since=0.0)
    middle.send(Upload(0, 4, None, 1, "fp32"))
    middle.wait_ready()
    assert middle.lost() is None
    [(_, _), (at, _)] = radio.sent  # type: ignore[attr-defined]
    assert at == pytest.approx(1.0 + 0.2 + 0.4 + 0.8)
    clock = SimulatedClock()
    middle = replay(Radio(constant_link(0.0, 10.0, 10.0), outages=((0.5, math.inf),)), clock)
    clock.charge(1.0, since=0.0)
    middle.send(Upload(0, 4, None, 1, "fp32"))
    assert middle.lost() is None
    middle.wait_ready()
    assert clock.now() == 1.0 + PATIENCE.longest_seconds
    assert middle.lost() is not None
    assert middle.free()
    assert middle.replies() == []
    middle.open()
    assert middle.lost() is None


def test_uploads_that_are_to_be_lost_are_lost_at_their_deadline_and_no_others() -> None:
    clock = SimulatedClock()
    middle = replay(Radio(constant_link(10.0, 10.0, 10.0), outages=((0.0, 5.0),)), clock, frozenset({2}))
    middle.send(Upload(0, 4, None, 1, "fp32"))
    middle.wait_ready()
    assert clock.now() < 1.0  # outages are not looked at
    assert len(middle.replies()) == 1
    middle.send(Upload(4, 4, None, 1, "fp32"))
    handed = clock.now()
    middle.wait_ready()
    assert clock.now() == handed + PATIENCE.longest_seconds
    lost = middle.lost()
    assert lost is not None
    assert "no answer in time" in str(lost.error)


def test_patience_doubles_up_to_its_most() -> None:
    assert [PATIENCE.outage_retry_seconds(tries) for tries in range(1, 8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 3.2, 3.2]
    assert Patience(silent_seconds=2.0).silence_seconds(2) == 8.0
    with pytest.raises(ValueError, match="longest_seconds=0"):
        Patience(longest_seconds=0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_live_run_over_an_emulated_link_takes_about_what_the_replay_says(precision: str, tmp_path: Path) -> None:
    """Bytes and order are the same; times are printed, as a busy machine adds to them."""
    radio, clock = Radio(constant_link(30.0, 2.0, 8.0)), SimulatedClock()
    chunks = [(16 * place, 16, int(place == 5)) for place in range(6)]
    simulated = replay(radio, clock)
    with world(emulator=LinkEmulator(radio)) as (cloud, live):
        sizes = []
        for first, rows, returned in chunks:
            states = torch.ones(rows, HIDDEN)
            sizes.append(live.send(Upload(first, rows, states, returned, precision)))
            assert simulated.send(Upload(first, rows, None, returned, precision)) == sizes[-1]
            live.wait_free()
            simulated.wait_free()
        live.wait_ready()
        simulated.wait_ready()
        one, other = live.replies(), simulated.replies()
        assert [reply.uplink_bytes for reply in one] == [reply.uplink_bytes for reply in other] == sizes
        assert [reply.downlink_bytes for reply in one] == [reply.downlink_bytes for reply in other]
        assert [seq for _, _, seq in cloud.chunks] == list(range(1, 7))
        network = [sum(reply.network_seconds for reply in replies) for replies in (one, other)]
        print(f"{precision}: network {1e3 * network[0]:.1f} ms live, {1e3 * network[1]:.1f} ms in replay")
