"""Progressive early exit with exact completion: which positions must run through which layers, and when.

A token that leaves at a shallow exit has no keys and values above it. Its hidden state is kept, and the missing layers
are run for all pending positions in one batch when a deeper exit is needed. So the state of any position at any layer
depends on the prefix alone, never on the history of exits. The bookkeeping is shared by the live drafter, which runs
the segments, and by the replay, which charges for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """A batch of consecutive positions that runs from one exit (or the embedding) to the next."""

    exit_index: int
    """The exit that the positions reach."""
    start_layer: int
    stop_layer: int
    first: int
    """First position."""
    stop: int
    """One past the last position."""

    @property
    def layers(self) -> int:
        """Layers run."""
        return self.stop_layer - self.start_layer

    @property
    def positions(self) -> int:
        """Positions in the batch."""
        return self.stop - self.first


class ExitLedger:
    """How many positions have reached each exit; never increasing from shallow to deep."""

    def __init__(self, exit_layers: tuple[int, ...]) -> None:
        if not exit_layers or list(exit_layers) != sorted(set(exit_layers)) or exit_layers[0] < 1:
            raise ValueError(f"exit_layers={exit_layers} must rise, from at least 1")
        self.exit_layers = exit_layers
        self.reached = [0] * len(exit_layers)

    def segments(self, length: int, exit_index: int) -> Iterator[Segment]:
        """Yield, shallow to deep, what must run so that the first `length` positions have reached an exit.

        A segment counts as run once it is yielded; a caller that stops at a confident exit leaves the deeper layers
        pending.
        """
        for index in range(exit_index + 1):
            first = self.reached[index]
            if first < length:
                start = self.exit_layers[index - 1] if index else 0
                self.reached[index] = length
                yield Segment(index, start, self.exit_layers[index], first, length)

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        self.reached = [min(n, length) for n in self.reached]


def resolve_exit(exit_index: int, exits: int) -> int:
    """Turn the knob's exit index (-1 is the last) into 0..exits-1.

    Raises:
        ValueError: there is no such exit.
    """
    if exit_index >= exits:
        raise ValueError(f"exit_index={exit_index}, but the SLM has only {exits} exits (0..{exits - 1})")
    return exits - 1 if exit_index == -1 else exit_index
