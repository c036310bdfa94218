"""The graphs of some prompts while they are recorded side by side: the likeliest nodes of all of them, within one budget.

What does not live here: what likely is (record_habits.py), the forward (record_models.py), and what becomes of the graphs
(record.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.synera.lens import SKETCH_SIZE, Lens
from traces.synera.growing_graph import GrowingGraph, first_said
from traces.synera.record_habits import Mixture
from traces.synera.record_models import Models, PairTree, wave_rows
from traces.tasks.splits import Prompt

_WAVES = 16  # at the least: of fewer and larger ones, more nodes would sink below the budget after they were run
_FADING = 0.999  # of the likelihood with each token: of nodes that are equally likely the earlier comes first
_SHADE = 1e-9  # by which likelihoods differ, so that an order among equals does not depend on the budget


def cached_bytes(models: Models, prompt_tokens: int, nodes: int) -> int:
    """Return the most bytes of keys and values that a batch takes: those of its prompts, its budget and a wave.

    Args:
        models: the pair.
        prompt_tokens: of all its prompts.
        nodes: its budget.
    """
    return (prompt_tokens + nodes + wave_rows(models)) * (models.slm.cached_bytes + models.llm.cached_bytes)


class Batch:
    """Graphs that grow side by side.

    *Known* is a node that some node that was run leads to, ends aside; the frontier are those known that were not run. The
    nodes that are kept are those, of all that controllers could come to, that they come to likeliest, as many as the budget
    allows: no child is likelier than its node, so what is below the known node that is one past the budget is never run,
    and what was run and has sunk below it gives its slot back. So a larger budget keeps the same nodes and more.
    """

    def __init__(self, models: Models, lens: Lens | None, prompts: Sequence[Prompt], max_new_tokens: int, nodes: int) -> None:
        """Run the prompts.

        Args:
            models: the pair.
            lens: what sketches are made with; without one there are none, and hidden states are kept.
            prompts: at least one.
            max_new_tokens: where answers are cut.
            nodes: the budget of all together, at least one a prompt.
        """
        self._lens, self._nodes, self._max_new, self._eos = lens, nodes, max_new_tokens, np.array(sorted(models.eos_ids))
        exits = len(models.slm.config.exit_layers)
        encoded = [models.encode(prompt.text, max_new_tokens) for prompt in prompts]
        self.graphs = [GrowingGraph(p.text, p.kind, ids, exits) for p, ids in zip(prompts, encoded, strict=True)]
        self._mixture = Mixture(exits)
        self._rows = max(1, min(wave_rows(models), nodes // _WAVES))
        self._slots = _Slots(models, encoded, nodes + self._rows)
        self._frontier = np.zeros(len(prompts), _frontier_type(self._mixture))
        self._frontier["graph"] = np.arange(len(prompts))
        self._frontier["token"], self._frontier["above"] = [ids[-1] for ids in encoded], self._slots.prompts
        self._frontier["mass"], self._frontier["order"] = self._mixture.start, np.arange(len(prompts))
        self._rank(self._frontier)
        self._known, self._floor = self._frontier["likelihood"], -1.0
        self._ran = [self._frontier[:0]]
        self.waves = 0
        self.hidden: list[NDArray[np.float32]] = []
        """Without a lens, of the nodes of each wave [nodes, exits, hidden]."""

    def expand(self) -> list[GrowingGraph]:
        """Run all that is worth it; return the graphs, in which answers that end have no score yet."""
        while len(wave := self._next_wave()):
            self._expand(wave)
        ran = np.concatenate(self._ran)
        for node in ran[ran["likelihood"] <= self._floor]:
            self.graphs[node["graph"]].ran[node["node"]] = False
        return self.graphs

    @property
    def cached_bytes(self) -> int:
        """Bytes of keys and values that were made room for."""
        return self._slots.nbytes

    def ends(self, graph: GrowingGraph) -> NDArray[np.intp]:
        """Return the nodes of a graph at which an answer ends."""
        token, parent, depth = (values[: len(graph)] for values in (graph.token, graph.parent, graph.depth))
        return np.flatnonzero(graph.ran[parent] & (np.isin(token, self._eos) | (depth == self._max_new)))

    def _next_wave(self) -> NDArray[np.void]:
        """Take the likeliest nodes off the frontier, in the order of their graphs."""
        if len(self._known) > self._nodes:
            past = len(self._known) - self._nodes - 1
            self._floor = max(self._floor, float(np.partition(self._known, past)[past]))
            self._known = self._known[self._known > self._floor]
        frontier = self._frontier[self._frontier["likelihood"] > self._floor]
        if len(frontier) <= self._rows:
            wave, self._frontier = frontier, frontier[:0]
        else:
            order = np.argpartition(-frontier["likelihood"], self._rows)
            wave, self._frontier = frontier[order[: self._rows]], frontier[order[self._rows :]]
        return wave[np.lexsort((wave["node"], wave["graph"]))]

    def _expand(self, wave: NDArray[np.void]) -> None:
        """Run nodes, write them down, and make their children known."""
        self.waves += 1
        slots, figures = self._slots.run(wave, self._floor)
        hidden = figures.pop("hidden")
        if self._lens is None:
            self.hidden.append(hidden)
        else:
            figures["sketch"] = np.empty((*hidden.shape[:2], SKETCH_SIZE), np.float16)
            for exit_index in range(hidden.shape[1]):
                figures["sketch"][:, exit_index] = self._lens.sketch(hidden[:, exit_index], exit_index)
        said = np.concatenate([figures["exit_token"], figures["llm_token"][:, None]], 1)
        nodes = np.empty(said.shape, np.int32)
        starts = np.flatnonzero(np.diff(wave["graph"], prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(wave)], strict=True):
            rows, graph = slice(start, stop), self.graphs[wave["graph"][start]]
            nodes[rows] = graph.expand(wave["node"][rows], {name: values[rows] for name, values in figures.items()})
        told = (figures[name] for name in ("exit_token", "llm_token", "confidence", "margin"))
        masses = self._mixture.children(wave["mass"], *told)
        new = first_said(said[:, :-1], said[:, -1]) == np.arange(said.shape[1])
        new &= ~np.isin(said, self._eos) & (wave["depth"] + 1 < self._max_new)[:, None]
        row, source = np.nonzero(new)
        children = np.zeros(len(row), wave.dtype)
        children["graph"], children["node"], children["token"] = wave["graph"][row], nodes[new], said[new]
        children["above"], children["depth"], children["mass"] = slots[row], wave["depth"][row] + 1, masses[row, source]
        children["order"] = wave["order"][row] * np.uint64(0x9E3779B97F4A7C15) + said[new].astype(np.uint64) + np.uint64(1)
        self._rank(children)
        self._frontier = np.concatenate([self._frontier, children])
        self._known = np.concatenate([self._known, children["likelihood"]])
        self._ran.append(wave)

    def _rank(self, nodes: NDArray[np.void]) -> None:
        """Say how likely nodes are, by their mass."""
        shade = (nodes["order"] * np.uint64(0xD1342543DE82EF95) >> np.uint64(40)) / 2.0**24
        nodes["likelihood"] = nodes["mass"].sum((1, 2)) * _FADING ** nodes["depth"] * (1 - _SHADE * shade)


def _frontier_type(mixture: Mixture) -> np.dtype[np.void]:
    """A node that is known: where it is, the slot of what is before it, and how likely it is."""
    fields = [("graph", "i8"), ("node", "i8"), ("token", "i8"), ("above", "i8"), ("depth", "i8"), ("order", "u8")]
    return np.dtype([*fields, ("likelihood", "f8"), ("mass", "f8", mixture.start.shape)])


class _Slots:
    """The caches of a batch: a slot for each token of the prompts and for each node that is run, given back below the floor."""

    def __init__(self, models: Models, encoded: Sequence[Sequence[int]], nodes: int) -> None:
        """Run all tokens of the prompts but their last, which are nodes."""
        before = [np.array(ids[:-1], np.int64) for ids in encoded]
        lengths = np.array([len(ids) for ids in before])
        used = int(lengths.sum())
        self._tree = PairTree(models, used + nodes)
        self._likelihood = np.full(used + nodes, -1.0)
        self._likelihood[:used] = np.inf
        self._above = np.full(used + nodes + 1, -1)  # the last stands for what is before a prompt
        self._length = np.zeros(used + nodes + 1, np.int64)
        ends = np.cumsum(lengths)
        self.prompts = np.where(lengths > 0, ends - 1, -1)
        """The slot before each prompt's last token; -1 where there is none."""
        slots, places = np.arange(used), np.arange(used) - np.repeat(ends - lengths, lengths)
        self._above[:used], self._length[:used] = np.where(places > 0, slots - 1, -1), places + 1
        tokens, rows = np.concatenate([*before, np.empty(0, np.int64)]), wave_rows(models)
        for first in range(0, used, rows):
            part = slots[first : first + rows]
            self._tree.fill(tokens[part], part, self._paths(part))

    @property
    def nbytes(self) -> int:
        return self._tree.nbytes

    def run(self, nodes: NDArray[np.void], floor: float) -> tuple[NDArray[np.int64], dict[str, NDArray]]:
        """Run nodes of the frontier; return their slots, and what :meth:`PairTree.run` does."""
        slots = np.flatnonzero(self._likelihood <= floor)[: len(nodes)]
        self._likelihood[slots] = nodes["likelihood"]
        self._above[slots], self._length[slots] = nodes["above"], self._length[nodes["above"]] + 1
        return slots, self._tree.run(nodes["token"].copy(), slots, self._paths(slots))

    def _paths(self, slots: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The slots from the start of each prefix to its own."""
        lengths = self._length[slots]
        aligned, at = np.empty((len(slots), lengths.max()), np.int64), slots
        for back in range(aligned.shape[1]):
            aligned[:, -1 - back], at = at, self._above[at]
        return [row[len(row) - length :] for row, length in zip(aligned, lengths, strict=True)]
