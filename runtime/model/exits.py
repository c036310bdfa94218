"""Progressive early exit with exact completion: which positions must run through which layers, and when.

A token that leaves at a shallow exit has no keys and values above it. Its hidden state is kept, and the missing layers
are run for all pending positions in one batch when a deeper exit is needed. So the state of any position at any layer
depends on the prefix alone, never on the history of exits. The live drafter, which runs the segments, and the replay,
which charges for them, take the same walk. What does not live here: hidden states, caches and heads (their owners').
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from runtime.errors import SettingError
from runtime.values import value


@value()
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


class ExitWalk(NamedTuple):
    """What one token took: the exit it left at, what was run, and how many heads were asked."""

    exit_index: int
    segments: list[Segment]
    heads: int


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

    def walk(self, length: int, exit_index: int, exit_margin: float, run: Callable[[Segment, bool], float]) -> ExitWalk:
        """Take position `length - 1` from exit to exit, and leave at the first whose margin reaches `exit_margin`.

        The position is always run afresh, so that a token can be drafted from it at any exit. Heads are asked only where
        the answer matters: at the deepest exit, and before it unless `exit_margin` is 1.

        Args:
            length: positions of the prefix, at least 1.
            exit_index: the deepest exit; -1 is the last.
            exit_margin: 0..1, top-1 minus top-2 probability; 1 never leaves early.
            run: (segment, ask) runs the segment and, where `ask`, returns the margin at the exit it reaches.

        Raises:
            SettingError: there is no such exit.
        """
        deepest = resolve_exit(exit_index, len(self.exit_layers))
        self.truncate(length - 1)
        segments: list[Segment] = []
        heads = 0
        for segment in self.segments(length, deepest):
            last = segment.exit_index == deepest
            ask = last or exit_margin < 1.0
            margin = run(segment, ask)
            segments.append(segment)
            heads += ask
            if last or (ask and margin >= exit_margin):
                break
        return ExitWalk(segments[-1].exit_index, segments, heads)

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        for index, reached in enumerate(self.reached):
            if reached > length:
                self.reached[index] = length


def resolve_exit(exit_index: int, exits: int) -> int:
    """Turn the knob's exit index (-1 is the last) into 0..exits-1.

    Raises:
        SettingError: there is no such exit.
    """
    if exit_index >= exits:
        raise SettingError(f"exit_index={exit_index}, but the SLM has only {exits} exits (0..{exits - 1})")
    return exits - 1 if exit_index == -1 else exit_index
