"""The replayed device: a walk through a token graph, and the drafter that takes it.

What does not live here: the graph (traces/synera/graph.py), the replayed cloud (verifier.py) and the session that both serve
(runtime/synera/session.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from runtime.clock import SimulatedClock
from runtime.errors import SettingError, UncoveredError
from runtime.model.exits import ExitLedger
from runtime.sampling import Sampling
from runtime.settings import shown
from runtime.synera.chunk import DraftToken
from runtime.synera.knobs import Knobs
from traces.profile import DeviceProfile
from traces.synera.graph import Graph, GraphMeta


class Walk:
    """The prefix as a path of nodes; shared by drafter and verifier."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.prompt_tokens = len(graph.prompt_tokens)
        self.nodes = [0]

    def follow(self, node: int, token: int) -> int:
        """Return the node that a token leads to.

        Raises:
            UncoveredError: it was not recorded.
        """
        child = self.graph.child(node, token)
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
        token = int(graph.exit_token[node, first.exit_index])
        node = graph.child(node, token)
        if node < 0:
            return False
        if token in meta.eos_ids or not np.isnan(graph.score[node]):
            break
    return True


class ReplayDrafter:
    """Implements :class:`runtime.synera.session.Drafter` over a graph; charges what the same work costs by the profile."""

    def __init__(self, walk: Walk, exit_layers: tuple[int, ...], clock: SimulatedClock, profile: DeviceProfile) -> None:
        self._walk, self._clock, self._profile = walk, clock, profile
        self._ledger = ExitLedger(exit_layers)
        self._beyond = 0  # guessed tokens at the end of the prefix that lead out of the graph

    def begin(self, prompt: Sequence[int], sampling: Sampling | None = None) -> None:
        """Start from the graph's prompt.

        Raises:
            SettingError: tokens were to be drawn.
        """
        if sampling is not None:
            raise SettingError(
                "a graph holds greedy choices alone, so a replay cannot sample; sample live, or give no sampling"
            )
        self._walk.nodes, self._beyond = [0], 0
        self._ledger.truncate(0)

    def push(self, token: int) -> None:
        """Append a token that stands."""
        self._walk.nodes.append(self._walk.follow(self._walk.nodes[-1], token))

    def push_guessed(self, token: int) -> None:
        """Append a token that may lead out of the graph."""
        child = -1 if self._beyond else self._walk.graph.child(self._walk.nodes[-1], token)
        if child < 0:
            self._beyond += 1
        else:
            self._walk.nodes.append(child)

    def rollback(self, length: int) -> None:
        """Keep the first `length` tokens of the prefix."""
        recorded = self._walk.prompt_tokens + len(self._walk.nodes) - 1
        self._beyond = max(0, length - recorded)
        del self._walk.nodes[1 + length - self._walk.prompt_tokens :]
        self._ledger.truncate(length)

    def next(self, exit_index: int, exit_margin: float) -> DraftToken:
        """Read the next token off the graph; leave at the first exit whose margin reaches `exit_margin`."""
        said = self._read(exit_index, exit_margin)
        self.push(said.token)
        return said

    def next_guessed(self, exit_index: int, exit_margin: float) -> DraftToken | None:
        """As `next`. Out of the graph a token, of which nothing is known, takes the time of the deepest exit that it may; it is
        wasted in any case, as a guess that holds and leaves the graph ends the episode there.
        """
        if self._beyond:
            self._walk_exits(exit_index, exit_margin, lambda exit_index: 0.0)
            self._beyond += 1
            return None
        said = self._read(exit_index, exit_margin)
        self.push_guessed(said.token)
        return said

    def _walk_exits(self, exit_index: int, exit_margin: float, margin: Callable[[int], float]) -> int:
        """Take the last position from exit to exit; charge it and return the exit that it left at."""
        began = self._clock.now()
        length = self._walk.prompt_tokens + len(self._walk.nodes) - 1 + self._beyond
        walk = self._ledger.walk(
            length, exit_index, exit_margin, lambda segment, ask: margin(segment.exit_index) if ask else 0.0
        )
        self._clock.charge(self._profile.draft_seconds(walk.segments, walk.heads), since=began)
        return walk.exit_index

    def _read(self, exit_index: int, exit_margin: float) -> DraftToken:
        graph, node = self._walk.graph, self._walk.nodes[-1]
        left = self._walk_exits(exit_index, exit_margin, lambda at: float(graph.margin[node, at]))
        return DraftToken(
            token=int(graph.exit_token[node, left]),
            exit_index=left,
            confidence=float(graph.confidence[node, left]),
            margin=float(graph.margin[node, left]),
            entropy=float(graph.entropy[node, left]),
            runner_up=int(graph.runner_up[node, left]),
            sketch=graph.sketch[node, left].astype(np.float32),
        )
