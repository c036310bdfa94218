"""What a device makes of answers that come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.hat.estimates import HISTORY_WEIGHT, Measured
from runtime.hat.values import Reply


def reply(network: float = 0.05, uplink_bytes: int = 100_000, queue: float = 0.0, load: int = 1) -> Reply:
    return Reply(None, queue, 0.01, 0.01, 4, network, uplink_bytes, 200, 0.004, 0.0001, load)


def test_nothing_is_known_at_first_and_then_what_was_last_seen() -> None:
    measured = Measured()
    assert measured.estimates == (None, None, 0.0, 0.0, 0.0, None, None, 0)
    measured.replied(reply(queue=0.2, load=3))
    found = measured.estimates
    assert (found.rtt_seconds, found.queue_seconds, found.forward_seconds, found.token_seconds, found.load) == (
        0.05,
        0.2,
        0.004,
        0.0001,
        3,
    )
    assert found.uplink_bytes_per_second is None  # nothing shorter is known


def test_averages_weigh_what_was_before_with_hats_weight() -> None:
    measured = Measured()
    for away in (1.0, 2.0):
        measured.was_away(away)
    measured.drafted(0.6, 3)
    measured.drafted(1.0, 0)  # no step tells nothing
    measured.drafted(0.4, 1)
    assert measured.estimates.away_seconds == pytest.approx(HISTORY_WEIGHT * 1.0 + 0.2 * 2.0)
    assert measured.estimates.draft_seconds == pytest.approx(0.8 * 0.2 + 0.2 * 0.4)


def test_the_rate_is_that_of_what_takes_longer_than_the_shortest_exchange() -> None:
    measured = Measured()
    measured.probed(0.02)
    measured.replied(reply(network=0.12, uplink_bytes=1_000_000))
    assert measured.estimates.uplink_bytes_per_second == pytest.approx(1e7)
    measured.replied(reply(network=0.5, uplink_bytes=1023))  # too small to tell
    measured.replied(reply(network=0.02, uplink_bytes=500_000))  # took no longer
    assert measured.estimates.uplink_bytes_per_second == pytest.approx(1e7)
    measured.replied(reply(network=0.01, uplink_bytes=500_000))
    assert measured.estimates.rtt_seconds == 0.01
    measured.replied(reply(network=0.11, uplink_bytes=2_000_000))
    assert measured.estimates.uplink_bytes_per_second == pytest.approx(0.8 * 1e7 + 0.2 * 2e7)


@given(
    rtt=st.floats(0.001, 0.5),
    rate=st.floats(1e4, 1e8),
    sizes=st.lists(st.integers(1024, 5_000_000), min_size=1, max_size=20),
)
def test_a_steady_link_is_measured_as_it_is(rtt: float, rate: float, sizes: list[int]) -> None:
    measured = Measured()
    measured.probed(rtt)
    for size in sizes:
        measured.replied(reply(network=rtt + size / rate, uplink_bytes=size))
    found = measured.estimates.uplink_bytes_per_second
    assert measured.estimates.rtt_seconds == pytest.approx(rtt)
    if any(size / rate >= 2e-4 for size in sizes):
        assert found == pytest.approx(rate, rel=1e-3)
