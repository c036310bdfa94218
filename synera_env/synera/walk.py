"""The replayed device: a walk through a token graph, and the drafter that takes it.

What does not live here: the graph (traces/synera/graph.py), the replayed cloud (verifier.py) and the session that both serve
(runtime/synera/session.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

import numpy as np

from runtime.clock import SimulatedClock
from runtime.errors import SettingError, UncoveredError
from runtime.model.exits import ExitLedger, Segment
from runtime.sampling import Sampling
from runtime.settings import shown
from runtime.synera.chunk import DraftToken
from runtime.synera.knobs import Knobs
from runtime.synera.lens import Lens
from traces.profile import DeviceProfile
from traces.synera.graph import Graph, GraphMeta
from traces.synera.growing import LivingGraph

_REMEMBERED = 2**14
"""Tokens of recorded graphs that are read once, as answers come by the same nodes again and again; they take 10 MB."""


class Walk:
    """The prefix as a path of nodes; shared by drafter and verifier.

    It may lead out of the graph: a node need only be there once something is read at it.
    """

    def __init__(self, graph: Graph | LivingGraph) -> None:
        self.graph = graph
        self.prompt_tokens = len(graph.prompt_tokens)
        self.nodes = [0]
        self.beyond: list[int | None] = []
        """Tokens at the end of the prefix, from the one on that leads out of the graph; None is one that nobody knows."""

    @property
    def tokens(self) -> int:
        """Length of the prefix."""
        return self.prompt_tokens + len(self.nodes) - 1 + len(self.beyond)

    @property
    def node(self) -> int:
        """Of the whole prefix.

        Raises:
            UncoveredError: it leads out of the graph.
        """
        if self.beyond and self.beyond[0] is not None:
            return self.follow(self.nodes[-1], self.beyond[0])
        return self.nodes[-1]

    def push(self, token: int | None) -> None:
        """Append a token to the prefix."""
        child = -1 if self.beyond or token is None else self.graph.reach(self.nodes[-1], token)
        if child < 0:
            self.beyond.append(token)
        else:
            self.nodes.append(child)

    def rollback(self, length: int) -> None:
        """Keep the first `length` tokens of the prefix."""
        del self.beyond[max(0, length - (self.prompt_tokens + len(self.nodes) - 1)) :]
        del self.nodes[1 + length - self.prompt_tokens :]

    def follow(self, node: int, token: int) -> int:
        """Return the node that a token leads to.

        Raises:
            UncoveredError: it was not recorded, in a graph that does not grow.
        """
        child = self.graph.reach(node, token)
        if child < 0:
            raise UncoveredError(
                f"the recorded graph of {shown(self.graph.prompt, 60)} does not know token {token} at depth {int(self.graph.depth[node])}; "
                "record with a larger node budget"
            )
        return child


def covers_start(graph: Graph, meta: GraphMeta, first: Knobs) -> bool:
    """Say whether what is drafted before the first decision was recorded; `first` must leave at no earlier exit."""
    node = 0
    for _ in range(min(first.draft_length, meta.max_new_tokens)):
        if node < 0:
            return False
        token = int(graph.exit_token[node, first.exit_index])
        if token in meta.eos_ids:
            break
        node = graph.child(node, token)
    return True


class ReplayDrafter:
    """Implements :class:`runtime.synera.session.Drafter` over a graph; charges what the same work costs by the profile."""

    def __init__(self, walk: Walk, exit_layers: tuple[int, ...], clock: SimulatedClock, profile: DeviceProfile) -> None:
        self._walk, self._clock, self._profile = walk, clock, profile
        self._ledger = ExitLedger(exit_layers)
        # A graph that grows may be given up, and is not to be held for what was said in it.
        self._said = _remembered if isinstance(walk.graph, Graph) else _said

    def begin(self, prompt: Sequence[int], sampling: Sampling | None = None) -> None:
        """Start from the graph's prompt.

        Raises:
            SettingError: tokens were to be drawn.
        """
        if sampling is not None:
            raise SettingError(
                "a graph holds greedy choices alone, so a replay cannot sample; sample live, or give no sampling"
            )
        self._walk.rollback(self._walk.prompt_tokens)
        self._ledger.truncate(0)

    def push(self, token: int) -> None:
        """Append a token that stands; it may lead out of the graph."""
        self._walk.push(token)

    push_guessed = push

    def rollback(self, length: int) -> None:
        """Keep the first `length` tokens of the prefix."""
        self._walk.rollback(length)
        self._ledger.truncate(length)

    def next(self, exit_index: int, exit_margin: float) -> DraftToken:
        """Read the next token off the graph; leave at the first exit whose margin reaches `exit_margin`.

        The token may be one that leads out of the graph.

        Raises:
            UncoveredError: the prefix leads out of it already, so that nothing is known of its next token.
        """
        graph, node = self._walk.graph, self._walk.node
        graph.know(node)
        left = self._walk_exits(exit_index, exit_margin, lambda segment, ask: graph.margin.item(node, segment.exit_index))
        said = self._said(graph, node, left)
        self._walk.push(said.token)
        return said

    def next_guessed(self, exit_index: int, exit_margin: float) -> DraftToken | None:
        """As `next`. Out of the graph a token, of which nothing is known, takes the time of the deepest exit that it may; it is
        wasted in any case, as a guess that holds and leaves the graph ends the episode there.
        """
        if self._walk.beyond:
            self._walk_exits(exit_index, exit_margin, lambda segment, ask: 0.0)
            self._walk.push(None)
            return None
        return self.next(exit_index, exit_margin)

    def _walk_exits(self, exit_index: int, exit_margin: float, run: Callable[[Segment, bool], float]) -> int:
        """Take the last position from exit to exit; charge it and return the exit that it left at."""
        began = self._clock.now()
        walk = self._ledger.walk(self._walk.tokens, exit_index, exit_margin, run)
        self._clock.charge(self._profile.draft_seconds(walk.segments, walk.heads), since=began)
        return walk.exit_index


def _said(graph: Graph | LivingGraph, node: int, exit_index: int) -> DraftToken:
    """What the SLM says at an exit of a node."""
    return DraftToken(
        token=graph.exit_token.item(node, exit_index),
        exit_index=exit_index,
        confidence=graph.confidence.item(node, exit_index),
        margin=graph.margin.item(node, exit_index),
        entropy=graph.entropy.item(node, exit_index),
        runner_up=graph.runner_up.item(node, exit_index),
        sketch=graph.sketch[node, exit_index].astype(np.float32),
    )


_remembered = lru_cache(maxsize=_REMEMBERED)(_said)


class ReplayLens(Lens):
    """The lens of recorded graphs: it looks at a remembered token once."""

    def rejection_of(self, token: DraftToken) -> float:
        """See :class:`runtime.synera.lens.Lens`."""
        return self._rejection_of(token)

    @cached_property
    def _rejection_of(self) -> Callable[[DraftToken], float]:
        return lru_cache(maxsize=_REMEMBERED)(super().rejection_of)
