"""The replayed HAT device: what its draft model and the model say is read off a graph, what it costs is told by a profile.

What does not live here: the graph (traces/hat/graph.py), the replayed cloud (middle.py), the session (runtime/hat/session.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.clock import SimulatedClock
from runtime.hat.ledger import Ledger, MedusaLedger, Work
from runtime.hat.values import DraftToken
from traces.hat.graph import HatGraph
from traces.profile import DeviceProfile


class ReplayEnds:
    """Implements :class:`runtime.hat.parts.Ends` over the graph of a prompt in the precision of its answer."""

    def __init__(
        self,
        graph: HatGraph,
        first_layers: int,
        last_layers: int,
        clock: SimulatedClock,
        profile: DeviceProfile,
        eos_ids: frozenset[int],
    ) -> None:
        self.graph = graph
        self._ledger, self._clock, self._profile = Ledger(first_layers, last_layers), clock, profile
        self._eos_ids, self._prompt = eos_ids, len(graph.prompt_tokens)
        self._committed = 0  # tokens of the answer
        self._branches = 0

    def begin(self, prompt: Sequence[int]) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        self._ledger.begin(len(prompt))
        self._committed = self._branches = 0

    def read(self, length: int) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        self._charge(self._ledger.run(length), 0)

    def ready_to_draft(self) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        self._charge(self._ledger.adapt(self._ledger.length), 0)

    def states(self, first: int, stop: int) -> None:
        """See :class:`runtime.hat.parts.Ends`: their time alone."""
        self.read(stop)

    def draft(self) -> DraftToken | None:
        """See :class:`runtime.hat.parts.Ends`."""
        place = self._ledger.length - self._prompt - self._committed
        self._charge(self._ledger.draft(), 1)
        return self._drafted(self._committed, place)

    def branch(self, candidates: int) -> int:
        """See :class:`runtime.hat.parts.Ends`."""
        self._ledger.branch()
        self._branches = candidates
        return candidates

    def step_branches(self) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        self._charge(self._ledger.step(self._branches), 1)

    def choose(self, states: Sequence[Any], wanted: int) -> list[int]:
        """See :class:`runtime.hat.parts.Ends`; right up to the first draft token that does not stand, and none is looked at behind it."""
        rows = self._ledger.length - self._prompt - self._committed + 1 if self._committed else self._prompt
        self._charge(self._ledger.choose(rows), 1)
        said: list[int] = self.graph.token[self._committed : self._committed + wanted].tolist()
        return said + [next(iter(self._eos_ids), 0)] * (wanted - len(said))  # what comes behind the end is cut off

    def commit(self, length: int, token: int) -> tuple[DraftToken, ...]:
        """See :class:`runtime.hat.parts.Ends`."""
        before, branches, self._branches = self._committed, self._branches, 0
        base, steps = self._ledger.base, self._ledger.steps
        self._committed = length + 1 - self._prompt
        kept = self._led_to(before, length - base, token, branches, steps) if branches and length >= base else ()
        self._ledger.commit(length, len(kept))
        return kept

    def trim(self, tokens: int) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        self._ledger.keep(self._ledger.length - tokens)

    def _led_to(self, before: int, stood: int, token: int, branches: int, steps: int) -> tuple[DraftToken, ...]:
        """What the branch says that leads to where the answer now is; the draft's last token stood, or did not."""
        tail = self._ledger.base - self._prompt - before  # place of the draft's last token
        if stood == 0:  # it was another of its candidates
            if token not in self.graph.draft[before, tail, :branches].tolist():
                return ()
            count = steps
        else:  # and what was drafted behind it, too
            if not steps or token != self._drafted(self._committed - 1, 0).token:
                return ()
            count = steps - 1
        kept: list[DraftToken] = []
        for place in range(min(count, len(self.graph.draft[0]))):
            drafted = self._drafted(self._committed, place)
            if drafted.token < 0:
                break
            kept.append(drafted)
        return tuple(kept)

    def _drafted(self, committed: int, place: int) -> DraftToken:
        graph = self.graph
        candidates = tuple(graph.draft[committed, place].tolist())
        return DraftToken(
            candidates[0], float(graph.confidence[committed, place]), float(graph.margin[committed, place]), candidates
        )

    def _charge(self, works: Sequence[Work], heads: int) -> None:
        self._clock.charge(self._profile.draft_seconds(works, heads), since=self._clock.now())


class ReplayMedusaEnds(ReplayEnds):
    """The same where Medusa heads drafted: they say a chain at once, and nothing ahead (`runtime.hat.medusa_ends`)."""

    def __init__(
        self,
        graph: HatGraph,
        first_layers: int,
        last_layers: int,
        clock: SimulatedClock,
        profile: DeviceProfile,
        eos_ids: frozenset[int],
        heads: int,
    ) -> None:
        super().__init__(graph, first_layers, last_layers, clock, profile, eos_ids)
        self._heads, self._ledger = heads, MedusaLedger(first_layers, last_layers, heads)

    def ready_to_draft(self) -> None:
        """See :class:`runtime.hat.parts.Ends`."""

    def draft(self) -> DraftToken | None:
        """See :class:`runtime.hat.parts.Ends`."""
        place = self._ledger.length - self._prompt - self._committed
        if place == self._heads:
            return None
        if works := self._ledger.draft():
            self._charge(works, 1)
        return self._drafted(self._committed, place)

    def branch(self, candidates: int) -> int:
        """See :class:`runtime.hat.parts.Ends`."""
        return 0
