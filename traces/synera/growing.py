"""Graphs that grow: a node that was not recorded is run the moment a walk needs it, together with those that others need.

What does not live here: the models (growing_runs.py), who walks (synera_env/synera/walk.py), and how walkers wait for one
another (waves.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.settings import shown, whole, within
from runtime.synera.lens import Lens
from traces.errors import TraceError
from traces.synera.graph import Graph, GraphMeta, GraphSet, nothing_is_left, spoken
from traces.synera.graph_check import NODE_ARRAYS
from traces.synera.growing_graph import GrowingGraph, said_tokens
from traces.synera.growing_slots import Prefixes
from traces.synera.waves import wait_for

if TYPE_CHECKING:
    from traces.synera.growing_runs import PairRuns

NODE_LIMIT = 2_000_000
"""Nodes that are held, unless another limit is given. With two exits one takes 145 bytes, those of a graph file and one more
(:func:`traces.synera.graph_check.node_bytes`); a graph has room for up to twice as many as it holds, and 8 bytes each for slots."""


@dataclass(frozen=True)
class Growth:
    """What a set of graphs has grown by since it was opened; what the models did is of all sets that share them."""

    nodes: int
    """Of all graphs, recorded and grown."""
    nodes_run: int
    """Added to this set, those that were given up again included."""
    waves: int
    mean_wave: float
    """Nodes in a wave."""
    prefix_tokens: int
    """Run for their keys and values alone."""
    model_seconds: float


class LivingGraph(GrowingGraph):
    """The graph of one prompt that is taken up: what is not known of it is found out when it is asked for."""

    home: GrowingGraphs
    lens: Lens
    seed_nodes: int
    """Nodes that it began with."""

    def __init__(self, prompt: str, kind: str, prompt_tokens: Sequence[int], exits: int) -> None:
        super().__init__(prompt, kind, prompt_tokens, exits)
        self.prefixes = Prefixes()

    def write(self, nodes: NDArray[np.integer] | int, figures: Mapping[str, NDArray[Any]]) -> None:
        """See :class:`GrowingGraph`; counted."""
        super().write(nodes, figures)
        self.home.nodes_run += np.size(nodes)

    def know(self, node: int) -> None:
        """See that all is known of a node: the models are run where it is not, with the next wave."""
        if not self.ran[node] and not self.known(node):
            wait_for(self.home.runs, (self, node))

    def reach(self, node: int, token: int) -> int:
        """Return the node that a token leads to, with its score where the answer ends there; -1 where nobody says the token."""
        self.know(node)
        child = self.child(node, token)
        if child >= 0 or (token != self.llm_token[node] and token not in self.exit_token[node]):
            return child
        child = self.step(node, token)
        if self.home.ends(token, int(self.depth[child])):
            self.end(child, self.home.score(self, child))
        return child


class GrowingGraphs:
    """A set of graphs over a pair of models that is at hand; reads as a :class:`traces.synera.graph.GraphSet`.

    It begins as a recorded set, the seed, of which only the prompts, the lens and the description need to be there. The
    graph of a prompt is taken up when it is first asked for. While more nodes are held than `node_limit`, the graphs of
    the prompts that were asked for least recently go back to what the seed has of them; an answer that is under way in
    one keeps it to its end.
    """

    def __init__(
        self,
        seed: GraphSet,
        runs: PairRuns,
        score: Callable[[str, str], float],
        node_limit: int = NODE_LIMIT,
    ) -> None:
        """See the class.

        Args:
            seed: recorded with the same pair.
            runs: the pair; several sets may share one.
            score: (prompt, answer) to task score in 0..1.
            node_limit: most nodes held, those of the prompt asked for last left aside.

        Raises:
            TraceError: the seed was recorded with another pair.
            SettingError: a limit is out of range.
        """
        whole("node_limit", node_limit, 1, 2**40)
        require_pair(seed, runs)
        runs.require_room(max(len(graph.prompt_tokens) for graph in seed) + seed.meta.max_new_tokens)
        self.meta, self.path, self.runs = seed.meta, seed.path, runs
        self.seed = seed
        """What it began with."""
        self._score, self._limit = score, node_limit
        self._lens = Lens.from_tensors(seed.lens_tensors)
        self._eos = frozenset(seed.meta.eos_ids)
        self.nodes_run = 0
        """Since the set was opened."""
        self._held: dict[int, LivingGraph] = {}  # least recently asked for first

    def __len__(self) -> int:
        return len(self.seed)

    def __getitem__(self, index: int) -> LivingGraph:
        if not -len(self) <= index < len(self):
            raise IndexError(f"graph {index} of {len(self)}")
        index %= len(self)
        self._held[index] = graph = self._held.pop(index, None) or self._take_up(index)
        while len(self._held) > 1 and sum(map(len, self._held.values())) > self._limit:
            del self._held[next(iter(self._held))]
        return graph

    def holds(self, index: int, graph: LivingGraph) -> bool:
        """Whether this is the graph of a prompt, and not one that was given up."""
        return self._held.get(index) is graph

    def __iter__(self) -> Iterator[LivingGraph]:
        return (self[i] for i in range(len(self)))

    @property
    def lens_tensors(self) -> dict[str, NDArray[np.float32]]:
        """See :class:`traces.synera.graph.GraphSet`."""
        return self.seed.lens_tensors

    @property
    def nodes(self) -> int:
        """Nodes of all graphs, recorded and grown."""
        return self.seed.nodes + sum(len(graph) - graph.seed_nodes for graph in self._held.values())

    @property
    def growth(self) -> Growth:
        """So far."""
        c = self.runs.counts
        return Growth(self.nodes, self.nodes_run, c.waves, c.mean_wave, c.prefix_tokens, c.seconds)

    def text(self, tokens: Sequence[int]) -> str:
        """Return what tokens say within an answer."""
        if unknown := {token for token in tokens if str(token) not in self.meta.texts}:
            self.meta = self._with_texts(unknown)
        return spoken(tokens, self.meta)

    def ends(self, token: int, depth: int) -> bool:
        """Whether an answer ends with a token, as its so many-th."""
        return token in self._eos or depth == self.meta.max_new_tokens

    def score(self, graph: LivingGraph, node: int) -> float:
        """The task score of the answer that ends at a node.

        Raises:
            SettingError: the scorer gives none in 0..1.
        """
        score = float(self._score(graph.prompt, self.runs.decode(graph.answer(node))))
        within(f"the score of an answer to {shown(graph.prompt, 60)}", score, 0.0, 1.0)
        return score

    def known(self) -> GraphSet:
        """Return all that is known by now, as a recorded set; what is found out later does not show in it.

        Of its coverage it says what is known without a walk: the share of graphs that are `closed`.
        """
        graphs = [self._held[i].arrays() if i in self._held else _arrays(self.seed[i]) for i in range(len(self))]
        closed = np.mean([nothing_is_left(each["score"], each["exit_child"], each["llm_child"]) for each in graphs])
        nodes = sum(len(arrays["token"]) for arrays in graphs)
        notes = self.meta.notes | {"grown_nodes": int(self.meta.notes.get("grown_nodes") or 0) + nodes - self.seed.nodes}
        meta = replace(self.meta, coverage={"closed": float(closed)}, notes=notes)
        return GraphSet.build(meta, graphs, self.lens_tensors)

    def save(self, path: Path) -> None:
        """Write what is known by now as an ordinary graph file, whole or not at all; a set that begins with it goes on from here."""
        known = self.known()
        texts = self._with_texts(said_tokens([known.arrays]) - set(map(int, self.meta.texts)))
        known.with_meta(replace(known.meta, texts=texts.texts, joined=texts.joined)).save(path)

    def _take_up(self, index: int) -> LivingGraph:
        recorded = self.seed[index]
        graph = LivingGraph.of(recorded)
        graph.home, graph.lens, graph.seed_nodes = self, self._lens, len(recorded)
        return graph

    def _with_texts(self, tokens: set[int]) -> GraphMeta:
        texts, joined = self.runs.texts(tokens)
        return replace(self.meta, texts=self.meta.texts | texts, joined=tuple(sorted({*self.meta.joined, *joined})))


def require_pair(seed: GraphSet, runs: PairRuns) -> None:
    """Do nothing where graphs were recorded with a pair.

    Raises:
        TraceError: they were recorded with another one.
    """
    m, where = runs.models, seed.path or "the graphs given"
    for what, recorded, here in (
        ("tokenizer", seed.meta.tokenizer_hash, m.tokenizer_hash),
        ("SLM", seed.meta.slm_fingerprint, m.slm_fingerprint),
        ("LLM", seed.meta.llm_fingerprint, m.llm_fingerprint),
    ):
        if recorded != here:
            raise TraceError(
                f"{where} cannot grow with these models: recorded with the {what} {recorded}, this one is {here}; "
                "name the folders of the pair with --slm and --llm, or record again"
            )


def _arrays(graph: Graph) -> dict[str, NDArray[Any]]:
    return {name: getattr(graph, name) for name in (*NODE_ARRAYS, "prompt_tokens")}
