from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.model.exits import ExitLedger, Segment

exit_layers = st.lists(st.integers(1, 12), min_size=1, max_size=4, unique=True).map(lambda found: tuple(sorted(found)))
# (grow by, deepest exit, exits really run, roll back by)
moves = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 4), st.integers(0, 6)), max_size=20)


@settings(max_examples=200, deadline=None)
@given(layers=exit_layers, moves=moves)
def test_every_position_runs_through_every_layer_once_and_in_order(
    layers: tuple[int, ...], moves: list[tuple[int, int, int, int]]
) -> None:
    """A model of the cache: how many positions each layer holds."""
    ledger, held, length = ExitLedger(layers), [0] * layers[-1], 0
    for grow, deepest, ran, back in moves:
        length += grow
        deepest = min(deepest, len(layers) - 1)
        reached = -1
        for segment in ledger.segments(length, deepest):
            assert segment.stop == length
            assert segment.positions > 0
            assert segment.stop_layer == layers[segment.exit_index]
            for layer in range(segment.start_layer, segment.stop_layer):
                assert held[layer] == segment.first, "a gap, or work done twice"
                assert layer == 0 or held[layer - 1] >= segment.stop, "the layer below has not run"
                held[layer] = segment.stop
            reached = segment.exit_index
            if segment.exit_index + 1 >= ran:
                break
        else:
            reached = deepest
        assert all(n == length for n in ledger.reached[: reached + 1])
        assert [held[layer - 1] for layer in layers] == ledger.reached
        assert all(shallow >= deep for shallow, deep in pairwise(ledger.reached))
        length = max(0, length - back)
        ledger.truncate(length)
        held = [min(n, length) for n in held]
        assert ledger.reached == [held[layer - 1] for layer in layers]


def test_a_deeper_run_completes_what_shallow_exits_left() -> None:
    ledger = ExitLedger((2, 4))
    assert list(ledger.segments(3, 0)) == [Segment(0, 0, 2, 0, 3)]
    assert list(ledger.segments(5, 0)) == [Segment(0, 0, 2, 3, 5)]
    assert list(ledger.segments(6, 1)) == [Segment(0, 0, 2, 5, 6), Segment(1, 2, 4, 0, 6)]
    assert list(ledger.segments(6, 1)) == []


def test_a_caller_that_stops_leaves_the_deeper_layers_pending() -> None:
    ledger = ExitLedger((1, 2, 3))
    next(ledger.segments(4, 2))
    assert ledger.reached == [4, 0, 0]


def test_a_segment_counts_its_layers_and_positions() -> None:
    segment = Segment(exit_index=1, start_layer=2, stop_layer=5, first=3, stop=10)
    assert (segment.layers, segment.positions) == (3, 7)


@pytest.mark.parametrize("layers", [(), (0, 2), (2, 1), (2, 2)])
def test_bad_exit_layers_are_shown(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="exit_layers="):
        ExitLedger(layers)


# ---------------------------------------------------------------- the walk of one token


def walked(
    margins: list[float], exit_index: int, exit_margin: float, length: int = 3
) -> tuple[int, list[int], int, list[bool]]:
    """Walk the last of some positions; return the exit, the exits run to, the heads, and where a head was asked."""
    ledger, asked = ExitLedger((2, 4, 6)), list[bool]()

    def run(segment: Segment, ask: bool) -> float:
        asked.append(ask)
        return margins[segment.exit_index] if ask else 0.0

    walk = ledger.walk(length, exit_index, exit_margin, run)
    return walk.exit_index, [s.exit_index for s in walk.segments], walk.heads, asked


@pytest.mark.parametrize(
    ("exit_index", "exit_margin", "wanted"),
    [
        (-1, 0.5, (1, [0, 1], 2, [True, True])),  # the second exit is sure enough
        (-1, 0.95, (2, [0, 1, 2], 3, [True, True, True])),  # none is: the deepest decides whatever its margin
        (-1, 1.0, (2, [0, 1, 2], 1, [False, False, True])),  # nobody asks on the way
        (0, 0.5, (0, [0], 1, [True])),
        (1, 1.0, (1, [0, 1], 1, [False, True])),
        (-1, 0.0, (0, [0], 1, [True])),
    ],
)
def test_a_token_leaves_at_the_first_exit_that_is_sure_enough(
    exit_index: int, exit_margin: float, wanted: tuple[int, list[int], int, list[bool]]
) -> None:
    assert walked([0.2, 0.6, 0.3], exit_index, exit_margin) == wanted


def test_a_margin_is_compared_in_double_precision() -> None:
    """A recorded 0.7 in single precision lies below 0.7; live and replay must agree on that."""
    recorded = float(np.float32(0.7))
    assert recorded < 0.7
    assert walked([recorded, 0.9, 0.9], -1, 0.7)[0] == 1


def test_the_last_position_is_always_run_afresh() -> None:
    ledger = ExitLedger((2, 4))
    ledger.walk(3, -1, 1.0, lambda segment, ask: 0.0)
    again = ledger.walk(3, -1, 1.0, lambda segment, ask: 0.0)
    assert [(s.first, s.stop) for s in again.segments] == [(2, 3), (2, 3)]
    with pytest.raises(ValueError, match="exit_index=2, but the SLM has only 2 exits"):
        ledger.walk(3, 2, 1.0, lambda segment, ask: 0.0)
