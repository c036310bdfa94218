"""Which positions the device has run, and so what each thing that it is asked for costs: one bookkeeping, live and in replay.

What does not live here: the models (ends.py), the recorded drafts (synera_env/hat/walk.py) and times (a device profile).
"""

from __future__ import annotations

from typing import NamedTuple

ADAPTER_LAYERS = 1 / 3
"""What the adapter costs, in layers of the model: its attention's weights, 4 d^2, of the usual layer's 12 d^2; ours."""
MEDUSA_LAYERS = 1 / 12
"""What a Medusa head costs before the output head, likewise: its d^2."""


class Work(NamedTuple):
    """A batch of positions through layers (`traces.profile.LayerWork`)."""

    layers: float
    positions: int


class Ledger:
    """Positions of the prefix: how many there are, and how many have been through the first layers and through the adapter."""

    def __init__(self, first_layers: int, last_layers: int) -> None:
        self._first, self._last = first_layers, last_layers
        self.begin(0)

    def begin(self, length: int) -> None:
        """Start from a prefix of which nothing was run."""
        self.length = length
        self.ran = self.adapted = 0
        self.base = self.steps = 0
        """Of the branches: positions that they share, and steps that were run of each."""

    def run(self, stop: int) -> list[Work]:
        """Run positions up to there through the first layers."""
        pending, self.ran = stop - self.ran, max(self.ran, stop)
        return [Work(self._first, pending)] if pending > 0 else []

    def adapt(self, stop: int) -> list[Work]:
        """Run them through the adapter as well."""
        works = self.run(stop)
        pending, self.adapted = stop - self.adapted, max(self.adapted, stop)
        return [*works, Work(ADAPTER_LAYERS, pending)] if pending > 0 else works

    def draft(self) -> list[Work]:
        """Say a token after the prefix, and append it."""
        works = self.adapt(self.length)
        self.length += 1
        return works

    def branch(self) -> None:
        """Begin branches in the place of the last token."""
        self.base, self.steps = self.length - 1, 0

    def step(self, branches: int) -> list[Work]:
        """Run a step of so many branches."""
        self.steps += 1
        return [Work(self._first, branches), Work(ADAPTER_LAYERS, branches)]

    def choose(self, rows: int) -> list[Work]:
        """Run positions that came back through the last layers."""
        return [Work(self._last, rows)] if self._last else []

    def keep(self, length: int) -> None:
        """Take all from there on off the prefix."""
        self.length = length
        self.ran, self.adapted = min(self.ran, length), min(self.adapted, length)

    def commit(self, length: int, kept: int) -> None:
        """Keep so many positions, append a token, and what `kept` tokens of a branch add."""
        self.keep(length)
        self.length += 1 + kept
        if kept:  # all but the last token of it have been run on the branch
            self.ran = self.adapted = self.length - 1
        self.steps = 0


class MedusaLedger(Ledger):
    """The same where Medusa heads draft: they run once, all together, when the first draft token after a commitment is asked for."""

    def __init__(self, first_layers: int, last_layers: int, heads: int) -> None:
        self._heads = heads
        super().__init__(first_layers, last_layers)

    def begin(self, length: int) -> None:
        """See :class:`Ledger`."""
        super().begin(length)
        self._said = False

    def draft(self) -> list[Work]:
        """See :class:`Ledger`; nothing is run for a token that the heads have said already."""
        works = [] if self._said else [Work(self._heads * MEDUSA_LAYERS, 1)]
        self._said = True
        self.length += 1
        return works

    def commit(self, length: int, kept: int) -> None:
        """See :class:`Ledger`."""
        super().commit(length, kept)
        self._said = False
