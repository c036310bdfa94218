"""The recorder: runs both models over what controllers can cause on a set of prompts, and writes token graphs.

Prompts are recorded batch by batch, the likeliest nodes of a batch first, until its graphs are closed or its budget is
spent. What does not live here: the batch (record_batch.py), what likely is (record_habits.py), the models
(record_models.py), the format (graph.py) and the prompts (traces/tasks/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.settings import shown, within
from runtime.synera.lens import Lens
from traces.synera.coverage import coverage
from traces.synera.graph import GraphMeta, GraphSet, nothing_is_left
from traces.synera.growing_graph import GrowingGraph, said_tokens
from traces.synera.record_batch import Batch, cached_bytes
from traces.synera.record_lens import fit_directions, fit_importance
from traces.synera.record_models import Models
from traces.synera.record_texts import token_texts
from traces.tasks.splits import Prompt

_Arrays = dict[str, NDArray[Any]]
Batches = Sequence[Sequence[Prompt]]
FIT_NODES = 4096
"""Run for what sketches are made with, at most; their hidden states are kept for so long."""
_MOST_PROMPTS = 32  # of a batch: so many share a budget nearly as well as all would, and fewer leave workers idle
_CACHE_BYTES = 2**30  # of keys and values, of all batches that run side by side
_FIT_SHARE = 16  # of the budget, one part at most goes into that


class Ending(NamedTuple):
    """A graph that is recorded, but for what its answers are worth."""

    graph: GrowingGraph
    ends: NDArray[np.intp]
    """Its nodes at which an answer ends."""


Expand = Callable[[Lens, Batches], Iterator[list[Ending]]]
"""Records batches of prompts with a lens; yields each batch's graphs, in the order of the batches."""


def expanded(models: Models, max_new_tokens: int, node_budget: int, lens: Lens, prompts: Sequence[Prompt]) -> list[Ending]:
    """Record one batch; for the arguments see :class:`Recorder`."""
    batch = Batch(models, lens, prompts, max_new_tokens, node_budget * len(prompts))
    return [Ending(graph, batch.ends(graph)) for graph in batch.expand()]


class Recorder:
    """Records the graphs of prompts, a batch of prompts at a time; owns its caches."""

    def __init__(
        self,
        models: Models,
        score: Callable[[str, str], float],
        max_new_tokens: int,
        node_budget: int = 6000,
        lens: Lens | None = None,
        workers: int = 1,
        expand: Expand | None = None,
    ) -> None:
        """See the class.

        Args:
            models: the pair.
            score: (prompt, answer) to task score in 0..1.
            max_new_tokens: where answers are cut.
            node_budget: most nodes that are run for a prompt, on the mean of its batch: what one prompt does not need, or what
                is less likely there, goes to others.
            lens: the lens to use; None fits one, its directions on the likeliest nodes of some prompts, its importance on all
                that is recorded.
            workers: batches of prompts run side by side, one thread each; set torch to one thread with more than one.
            expand: how batches are run instead, by :func:`expanded` wherever that is; answers are scored here all the same.

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
        self._workers, self._expand = workers, expand or self._in_threads

    def record(self, prompts: Sequence[Prompt], split: str, batch: int | None = None) -> Iterator[int | GraphSet]:
        """Record; yields the number of finished prompts after each batch, and last the graph set.

        Args:
            prompts: at least one.
            split: what the graphs say that they are of.
            batch: prompts that share a budget; None takes as many as :meth:`batch_size` finds.

        Raises:
            ContextOverflowError: a prompt leaves no room for `max_new_tokens`.
            SettingError: there are no prompts, or a score is outside 0..1.
        """
        if not prompts:
            raise SettingError("no prompts to record")
        lengths = [len(self._models.encode(p.text, self._max_new)) for p in prompts]
        mixed = [prompts[i] for i in np.random.default_rng(0).permutation(len(prompts))]  # batches of all kinds
        longest = max(lengths)
        size = batch or self.batch_size(longest)
        batches = [mixed[first : first + size] for first in range(0, len(mixed), size)]
        lens = self._lens or self._directions(mixed, max(size, self._together(longest, _CACHE_BYTES)))
        graphs: list[_Arrays] = []
        for recorded in self._expand(lens, batches):
            for graph, ends in recorded:
                self._end(graph, ends)
                graphs.append(graph.arrays())
            yield len(graphs)
        meta = self._meta(mixed, graphs, split)
        graph_set = GraphSet.build(meta, graphs, lens.tensors())
        if self._lens is None:
            lens = fit_importance(lens, graph_set)
            graph_set = graph_set.with_lens(lens.tensors())
        self._lens = lens
        meta.coverage.update(coverage(graph_set))
        yield graph_set

    def batch_size(self, longest: int) -> int:
        """Return how many prompts are recorded together: as many as keep the caches of all workers below 1 GiB, 1..32.

        Args:
            longest: tokens of the longest prompt.
        """
        return self._together(longest, _CACHE_BYTES // self._workers)

    def _together(self, longest: int, limit: int) -> int:
        sizes = range(_MOST_PROMPTS, 1, -1)
        return next((n for n in sizes if cached_bytes(self._models, n * longest, n * self._budget) <= limit), 1)

    def _directions(self, prompts: Sequence[Prompt], together: int) -> Lens:
        """Fit what sketches are made with, at the cost of a small part of the budget, in caches no larger than those of all workers."""
        some = prompts[:_MOST_PROMPTS]
        nodes = max(len(some), min(FIT_NODES, self._budget * len(prompts) // _FIT_SHARE, self._budget * len(some)))
        return fit_directions(self._models, some, self._max_new, nodes, together)

    def _in_threads(self, lens: Lens, batches: Batches) -> Iterator[list[Ending]]:
        one = partial(expanded, self._models, self._max_new, self._budget, lens)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="recorder") as pool:
            yield from pool.map(one, batches)

    def _end(self, graph: GrowingGraph, nodes: NDArray[np.intp]) -> None:
        """Score the answers that end at some nodes."""
        answers = self._models.tokenizer.decode_batch(graph.answers(nodes), skip_special_tokens=True)
        scores, name = [float(self._score(graph.prompt, answer)) for answer in answers], shown(graph.prompt, 60)
        for score in scores:
            within(f"the score of an answer to {name}", score, 0.0, 1.0)
        graph.score = graph.score.copy()  # of a graph that came from elsewhere it may be read-only
        graph.score[nodes] = scores

    def _meta(self, prompts: Sequence[Prompt], graphs: Sequence[_Arrays], split: str) -> GraphMeta:
        m = self._models
        texts, joined = token_texts(m.tokenizer, m.eos_ids | said_tokens(graphs))
        return GraphMeta(
            exit_layers=m.slm.config.exit_layers,
            layers=m.slm.config.layers,
            eos_ids=tuple(sorted(m.eos_ids)),
            max_new_tokens=self._max_new,
            context=m.context,
            slm_fingerprint=m.slm_fingerprint,
            llm_fingerprint=m.llm_fingerprint,
            tokenizer_hash=m.tokenizer_hash,
            split=split,
            prompts=tuple(p.text for p in prompts),
            kinds=tuple(p.kind for p in prompts),
            coverage={"closed": sum(map(_closed, graphs)) / len(graphs)},
            notes={"node_budget": self._budget, "device": m.placement.device, "dtype": m.placement.dtype},
            texts=texts,
            joined=joined,
        )


def _closed(arrays: _Arrays) -> bool:
    return nothing_is_left(arrays["score"], arrays["exit_child"], arrays["llm_child"])
