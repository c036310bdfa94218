"""The transfer formula against the loop over samples that it replaced."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces.links.generators import markov_link
from traces.links.trace import LinkTrace
from traces.links.transfer import bits_passed, transfer_seconds

SECONDS = 1e-9
"""How far the formula may be from the loop."""


@dataclass(frozen=True)
class Link:
    step_seconds: float
    bits_per_second: list[float]

    def seconds(self, at_seconds: float, bits: float) -> float:
        """By the formula."""
        passed = bits_passed(self.bits_per_second, self.step_seconds)
        return transfer_seconds(at_seconds, bits, self.step_seconds, self.bits_per_second, passed)

    def loop_seconds(self, at_seconds: float, bits: float, number: type[float] | type[Fraction] = float) -> float:
        """By a loop over samples, in floats or exactly."""
        if bits <= 0:
            return 0.0
        at, left, step = number(at_seconds), number(bits), number(self.step_seconds)
        index, now = int(at_seconds / self.step_seconds), at
        while True:
            rate = number(self.bits_per_second[index % len(self.bits_per_second)])
            room = rate * ((index + 1) * step - now)
            if rate > 0 and left <= room:
                return float(now + left / rate - at)
            left, now, index = left - room, (index + 1) * step, index + 1

    def require_agreement(self, at_seconds: float, bits: float, number: type[float] | type[Fraction] = float) -> None:
        """The formula is within a nanosecond of the loop, for a message that is larger or smaller by a rounding error.

        That is what the fastest rate carries in the clock's last places. It matters where a message ends with the very
        step that an outage follows: there rounding decides whether its last piece waits for the outage's end.
        """
        found = self.seconds(at_seconds, bits)
        piece = max(self.bits_per_second) * 32 * math.ulp(at_seconds + found)
        least, most = (self.loop_seconds(at_seconds, bits + change, number) for change in (-piece, piece))
        assert least - SECONDS <= found <= most + SECONDS


steps = st.sampled_from([0.1, 0.5, 1.0, 0.03])
rates = st.lists(st.sampled_from([0.0, 1e5, 1e6, 3e7]) | st.floats(1e5, 1e8), min_size=1, max_size=8)
links = st.builds(Link, steps, rates.filter(any))
sizes_bits = st.integers(0, 4_000).map(lambda n: 8.0 * n) | st.integers(0, 2_000_000).map(lambda n: 8.0 * n)


GENERATED = [markov_link(seed) for seed in range(8)]


@settings(max_examples=200)
@given(trace=st.sampled_from(GENERATED), at=st.floats(0, 500), size_bytes=st.integers(1, 2_000) | st.integers(1, 4_000_000))
def test_on_a_generated_trace_the_formula_is_within_a_nanosecond_of_the_loop(
    trace: LinkTrace, at: float, size_bytes: int
) -> None:
    half_rtt = trace.rtt_ms[int(at / trace.step_seconds) % len(trace.rtt_ms)] / 2e3
    for mbps, found in (
        (trace.uplink_mbps, trace.uplink_seconds(at, size_bytes)),
        (trace.downlink_mbps, trace.downlink_seconds(at, size_bytes)),
    ):
        link = Link(trace.step_seconds, (mbps * 1e6).tolist())
        assert found == pytest.approx(half_rtt + link.loop_seconds(at, size_bytes * 8.0), abs=SECONDS, rel=0)


@settings(max_examples=400)
@given(link=links, at=st.floats(0, 5_000), bits=sizes_bits)
def test_the_formula_agrees_with_the_loop(link: Link, at: float, bits: float) -> None:
    link.require_agreement(at, bits)


@settings(max_examples=200)
@given(link=links, edge=st.integers(0, 20_000), steps_of_bits=st.integers(1, 40), data=st.data())
def test_the_formula_agrees_with_the_loop_from_edge_to_edge(
    link: Link, edge: int, steps_of_bits: int, data: st.DataObject
) -> None:
    """Sent at the very edge of a step, as large as whole steps carry: the worst place for rounding."""
    at = edge * link.step_seconds
    count = len(link.bits_per_second)
    carried = sum(link.bits_per_second[(edge + i) % count] * link.step_seconds for i in range(steps_of_bits))
    bits = carried + data.draw(st.sampled_from([0.0, 8.0, -8.0]))
    link.require_agreement(at, bits)


@settings(max_examples=200)
@given(link=links, at=st.floats(1e5, 1e6), periods=st.integers(0, 60), bits=sizes_bits)
def test_the_formula_is_exact_after_days_and_over_many_periods(link: Link, at: float, periods: int, bits: float) -> None:
    """Here a loop in floats errs by more than the formula does, so the loop is run in fractions."""
    bits += periods * bits_passed(link.bits_per_second, link.step_seconds)[-1]
    link.require_agreement(at, bits, Fraction)


@pytest.mark.parametrize("at", [0.0, 0.25, 1.0, 1.5, 7.75, 1e6 + 0.5])
def test_nothing_takes_no_time_even_in_an_outage(at: float) -> None:
    assert Link(1.0, [0.0, 1e6]).seconds(at, 0.0) == 0.0
    trace = LinkTrace("a", "b", 1.0, np.array([100.0, 40.0]), np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    half_rtt = 0.05 if int(at) % 2 == 0 else 0.02
    assert trace.uplink_seconds(at, 0) == trace.downlink_seconds(at, 0) == half_rtt


def test_a_message_ends_with_its_last_bit_and_not_with_the_outage_after_it() -> None:
    link = Link(1.0, [8.0, 0.0])
    assert link.seconds(0.0, 8.0) == 1.0
    assert link.seconds(0.0, 8.0 * 1000) == 1999.0
    assert link.seconds(1.5, 8.0) == 1.5
    assert link.seconds(0.5, 8.0) == 2.0


def test_the_last_sample_is_followed_by_the_first() -> None:
    link = Link(0.5, [1e6, 2e6, 4e6])
    assert link.seconds(1.25, 1e6) == 0.25  # fits its step to the bit
    assert link.seconds(1.25, 1.25e6) == 0.5
    assert link.seconds(1.25, 1.75e6) == pytest.approx(0.25 + 0.5 + 0.125)


def test_the_edges_count_what_has_passed() -> None:
    assert bits_passed([8.0, 0.0, 2.0], 0.5) == [0.0, 4.0, 4.0, 5.0]


def test_arrays_serve_as_well_as_lists() -> None:
    """Compiled code will hand in arrays."""
    rates = [1e6, 0.0, 3e6]
    passed = bits_passed(rates, 0.1)
    for bits in (8.0, 2.4e5, 3.9e5, 4e6):
        expected = transfer_seconds(0.05, bits, 0.1, rates, passed)
        assert transfer_seconds(0.05, bits, 0.1, np.array(rates), np.array(passed)) == expected  # type: ignore[arg-type]
