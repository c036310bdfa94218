"""The recorder: runs both models over everything a controller can cause and writes token graphs.

All children of a frontier are expanded in one batched forward of each model, likeliest first, until the graph is closed
or its node budget is met. What does not live here: the models (record_models.py), the graph of one prompt while it grows
(record_builder.py), the format (graph.py) and the prompts (traces/tasks/).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.settings import shown, within
from runtime.synera.lens import Lens
from traces.synera.coverage import coverage
from traces.synera.graph import GraphMeta, GraphSet
from traces.synera.record_builder import GraphBuilder, fit_directions, said_tokens
from traces.synera.record_lens import fit_importance
from traces.synera.record_models import Models, PairTree
from traces.synera.record_texts import token_texts
from traces.tasks.splits import Prompt

_WAVE = 192  # nodes in one forward: enough to fill the cores, small enough for the attention gather


@dataclass(frozen=True)
class _Node:
    """A node that is known but not yet run."""

    graph: int
    index: int
    token: int
    path: NDArray[np.int64]  # slots from the start of the prompt to the parent
    depth: int
    likelihood: float  # log-probability under a controller that picks a source uniformly at each token


class Recorder:
    """Records the graphs of prompts, a batch of prompts at a time; owns its caches."""

    def __init__(
        self,
        models: Models,
        score: Callable[[str, str], float],
        max_new_tokens: int,
        node_budget: int = 6000,
        lens: Lens | None = None,
        keep_open: bool = True,
        workers: int = 1,
    ) -> None:
        """See the class.

        Args:
            models: the pair.
            score: (prompt, answer) to task score in 0..1.
            max_new_tokens: where answers are cut.
            node_budget: most nodes that are run for one prompt.
            lens: the lens to use; None fits one, its directions on the first batch, its importance on all that is recorded.
            keep_open: False leaves out the prompts whose graph is still open at its node budget.
            workers: batches of prompts run side by side, one thread each; set torch to one thread with more than one.

        Raises:
            SettingError: a limit is below 1.
            CheckpointError: the lens is for another SLM.
        """
        within("node_budget", node_budget, 1)
        within("max_new_tokens", max_new_tokens, 1)
        within("workers", workers, 1)
        if lens is not None:
            lens.require_fit(len(models.slm.config.exit_layers), models.slm.config.hidden)
        self._models, self._score = models, score
        self._max_new, self._budget, self._lens = max_new_tokens, node_budget, lens
        self._keep_open, self._workers = keep_open, workers
        self._eos = frozenset(models.llm.config.eos_ids) | frozenset(models.slm.config.eos_ids)
        self._exits = models.slm.config.exit_layers

    def record(self, prompts: Sequence[Prompt], split: str, batch: int = 16) -> Iterator[int | GraphSet]:
        """Record; yields the number of finished prompts after each batch, and last the graph set.

        Raises:
            ContextOverflowError: a prompt leaves no room for `max_new_tokens`.
            SettingError: there are no prompts, no graph closed, or a score is outside 0..1.
        """
        if not prompts:
            raise SettingError("no prompts to record")
        encoded = [self._models.encode(p.text, self._max_new) for p in prompts]
        order = np.random.default_rng(0).permutation(len(prompts))  # mixes kinds, so the first batch can fit the lens
        batches = [
            [GraphBuilder(prompts[i], encoded[i]) for i in order[start : start + batch]]
            for start in range(0, len(order), batch)
        ]
        graphs: list[dict[str, NDArray[Any]]] = []
        kept: list[GraphBuilder] = []
        done, fits = 0, self._lens is None
        with ThreadPoolExecutor(self._workers, thread_name_prefix="recorder") as pool:
            for builders in pool.map(self._expand, batches):
                if self._lens is None:
                    self._lens = fit_directions(builders, len(self._exits))
                for builder in builders:
                    if builder.dropped == 0 or self._keep_open:
                        graphs.append(builder.arrays(self._lens, len(self._exits)))
                        kept.append(builder)
                    builder.rows, builder.hidden = [], []  # large, and written down by now
                done += len(builders)
                yield done
        if not graphs or self._lens is None:
            raise SettingError(f"none of {len(prompts)} graphs closed within {self._budget} nodes; give a larger node budget")
        meta = self._meta([b.prompt for b in kept], graphs, split, sum(b.dropped == 0 for b in kept) / len(kept))
        meta.notes["left_out"] = len(prompts) - len(kept)
        graph_set = GraphSet.build(meta, graphs, self._lens.tensors())
        if fits:
            self._lens = fit_importance(self._lens, graph_set)
            graph_set = graph_set.with_lens(self._lens.tensors())
        meta.coverage.update(coverage(graph_set))
        yield graph_set

    def _meta(
        self, prompts: Sequence[Prompt], graphs: Sequence[dict[str, NDArray[Any]]], split: str, closed: float
    ) -> GraphMeta:
        m = self._models
        texts, joined = token_texts(m.tokenizer, self._eos.union(*(said_tokens(graph) for graph in graphs)))
        return GraphMeta(
            exit_layers=self._exits,
            layers=m.slm.config.layers,
            eos_ids=tuple(sorted(self._eos)),
            max_new_tokens=self._max_new,
            context=m.context,
            slm_fingerprint=m.slm_fingerprint,
            llm_fingerprint=m.llm_fingerprint,
            tokenizer_hash=m.tokenizer_hash,
            split=split,
            prompts=tuple(p.text for p in prompts),
            kinds=tuple(p.kind for p in prompts),
            coverage={"closed": closed},
            notes={"node_budget": self._budget, "device": m.placement.device, "dtype": m.placement.dtype},
            texts=texts,
            joined=joined,
        )

    # ------------------------------------------------------------ expansion

    def _expand(self, builders: list[GraphBuilder]) -> list[GraphBuilder]:
        tree, slots = PairTree(self._models), 0
        frontier: list[tuple[float, int, _Node]] = []
        for g, builder in enumerate(builders):
            *before, last = builder.tokens
            path = np.arange(slots, slots + len(before))
            slots += len(before)
            if before:
                tree.run(np.array(before), path, [path[: i + 1] for i in range(len(before))])
            heapq.heappush(frontier, (0.0, g, _Node(g, builder.add(-1, -1, 0), last, path, 0, 0.0)))
        pushed = len(builders)
        while wave := self._wave(builders, frontier):
            own = np.arange(slots, slots + len(wave))
            slots += len(wave)
            paths = [np.append(node.path, slot) for node, slot in zip(wave, own, strict=True)]
            figures = tree.run(np.array([n.token for n in wave]), own, paths)
            for row, (node, path) in enumerate(zip(wave, paths, strict=True)):
                for child in self._settle(builders[node.graph], node, path, figures, row):
                    pushed += 1
                    heapq.heappush(frontier, (-child.likelihood, pushed, child))
        return builders

    def _wave(self, builders: Sequence[GraphBuilder], frontier: list[tuple[float, int, _Node]]) -> list[_Node]:
        """Take the likeliest nodes off the frontier, and leave out those over their graph's budget."""
        wave: list[_Node] = []
        while frontier and len(wave) < _WAVE:
            node = heapq.heappop(frontier)[2]
            builder = builders[node.graph]
            if builder.expanded >= self._budget:
                builder.drop(node.index)
            else:
                builder.expanded += 1
                wave.append(node)
        return wave

    def _settle(
        self, builder: GraphBuilder, node: _Node, path: NDArray[np.int64], figures: dict[str, NDArray[Any]], row: int
    ) -> Iterator[_Node]:
        """Write a run node down and yield its children that must be run."""
        record = builder.write(node.index, figures, row)
        sources = [*(int(t) for t in record["exit_token"]), int(record["llm_token"])]
        children: dict[int, int] = {}
        for token in dict.fromkeys(sources):
            index = children[token] = builder.add(token, node.index, node.depth + 1)
            if token in self._eos or node.depth + 1 == self._max_new:
                builder.rows[index]["score"] = self._scored(builder, index)
            else:
                share = math.log(sources.count(token) / len(sources))
                yield _Node(node.graph, index, token, path, node.depth + 1, node.likelihood + share)
        record["exit_child"] = np.array([children[t] for t in sources[:-1]], np.int32)
        record["llm_child"] = children[sources[-1]]

    def _scored(self, builder: GraphBuilder, index: int) -> float:
        text = self._models.tokenizer.decode(builder.answer(index), skip_special_tokens=True)
        score = float(self._score(builder.prompt.text, text))
        within(f"the score of an answer to {shown(builder.prompt.text, 60)}", score, 0.0, 1.0)
        return score
