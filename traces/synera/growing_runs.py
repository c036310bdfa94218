"""The pair at hand, run over single nodes of many graphs at once; the caches of their prefixes are kept within a bound.

What does not live here: which nodes are wanted (growing.py), which slot holds which prefix (growing_slots.py), and the
forward itself (record_models.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.settings import whole
from runtime.synera.lens import SKETCH_SIZE
from traces.synera.growing_slots import Placed, SlotPool
from traces.synera.record_models import Models, PairTree, wave_rows
from traces.synera.record_texts import token_texts

if TYPE_CHECKING:
    from traces.synera.growing import LivingGraph

CACHE_BYTES = 2**30
"""Of the keys and values that are kept, unless another bound is given."""
Row = TypeVar("Row")

Want = tuple["LivingGraph", int]
"""A graph, and a node of it that is to be run."""


@dataclass(frozen=True)
class Counts:
    """What the models were run for, since they were loaded."""

    nodes: int = 0
    """Nodes run, each as often as it was given up."""
    prefix_tokens: int = 0
    """Tokens run for their keys and values alone: prompts, and prefixes whose slots had been given up."""
    waves: int = 0
    seconds: float = 0.0
    """In the models, and in preparing their input and writing down what they said."""

    @property
    def mean_wave(self) -> float:
        """Nodes in a wave; 0.0 before the first."""
        return self.nodes / max(1, self.waves)


class PairRuns:
    """Implements :class:`traces.synera.waves.Server` for the nodes of graphs; several sets of graphs may share one.

    Nodes further along the SLM's path, of walkers that do not wait, could ride along in a wave: tried with 1 to 8 of them, waves
    fell by 3 to 6 %, as those who draft longest are served last, and nodes rose by 8 to 56 %. So none do.
    """

    def __init__(self, models: Models, cache_bytes: int = CACHE_BYTES) -> None:
        """See the class.

        Args:
            models: the pair.
            cache_bytes: bound of the keys and values of both models, a token of which takes `Decoder.cached_bytes` of each. All of it is
                asked for at once; a CPU gives it as it is used.

        Raises:
            SettingError: the bound is out of range.
        """
        whole("cache_bytes", cache_bytes, 1, 2**50)
        self.models = models
        self._slot_bytes = models.slm.cached_bytes + models.llm.cached_bytes
        self._pool = SlotPool(cache_bytes // self._slot_bytes)
        self._tree = PairTree(models, self._pool.slots)
        self._most = wave_rows(models)
        self._counts = Counts()

    @property
    def counts(self) -> Counts:
        """So far."""
        return self._counts

    def require_room(self, tokens: int) -> None:
        """Do nothing where the caches of so long a prefix fit the bound.

        Raises:
            SettingError: they do not.
        """
        if tokens > self._pool.slots:
            raise SettingError(
                f"the caches of {self._pool.slots} tokens fit the bound, and the longest prompt with its answer has {tokens}; "
                f"give at least {tokens * self._slot_bytes} bytes"
            )

    def decode(self, answer: Sequence[int]) -> str:
        """Return the text of an answer, without special tokens, as it is scored."""
        return self.models.tokenizer.decode(list(answer), skip_special_tokens=True)

    def texts(self, tokens: Iterable[int]) -> tuple[dict[str, str], tuple[int, ...]]:
        """See :func:`traces.synera.record_texts.token_texts`."""
        return token_texts(self.models.tokenizer, tokens)

    def serve(self, wants: Sequence[Want]) -> None:
        """Run the nodes of a wave, those of them that were not run; see :class:`traces.synera.waves.Server`."""
        began = perf_counter()
        wanted = [(graph, node) for graph, node in dict.fromkeys(wants) if not graph.known(node)]
        if not wanted:
            return
        prefix_tokens = self._run(wanted)
        c = self._counts
        seconds = c.seconds + perf_counter() - began
        self._counts = Counts(c.nodes + len(wanted), c.prefix_tokens + prefix_tokens, c.waves + 1, seconds)

    def _run(self, nodes: Iterable[Want]) -> int:
        """Run nodes and write down what is said there; return how many tokens were run besides."""
        placed: list[tuple[Want, Placed]] = []
        prefix_tokens = 0
        self._pool.begin()
        try:
            for graph, node in nodes:
                place = self._pool.place(graph, graph.prefixes, node)
                if place is None:  # what this wave has so far fills the pool, or the node's own graph does
                    self._forward(placed)
                    self._pool.clear()
                    placed, place = [], self._pool.place(graph, graph.prefixes, node)
                assert place is not None  # `require_room` saw to it
                prefix_tokens += len(place.missing) - 1
                placed.append(((graph, node), place))
            self._forward(placed)
        except BaseException:
            self._pool.clear()  # slots may hold nothing
            raise
        return prefix_tokens

    def _forward(self, placed: Sequence[tuple[Want, Placed]]) -> None:
        """Run what nodes lack before them, then the nodes, and write down what is said there."""
        before = [(token, p.path[: at + 1]) for _, p in placed for token, at in zip(p.tokens[:-1], p.missing, strict=False)]
        for prefixes in self._parts(before):
            self._tree.fill(*_rows(prefixes))
        for part in self._parts(placed):
            figures = self._tree.run(*_rows([(p.tokens[-1], p.path) for _, p in part]))
            _write([want for want, _ in part], figures)

    def _parts(self, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
        """Rows, as many at a time as one forward takes."""
        return (rows[start : start + self._most] for start in range(0, len(rows), self._most))


def _rows(
    prefixes: Sequence[tuple[int, NDArray[np.int64]]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[NDArray[np.int64]]]:
    """The arguments of a forward: of each prefix its last token, and the slots of its path."""
    paths = [path for _, path in prefixes]
    return np.array([token for token, _ in prefixes], np.int64), np.array([path[-1] for path in paths]), paths


def _write(wants: Sequence[Want], figures: dict[str, NDArray[Any]]) -> None:
    """Write down what the models said at nodes, [nodes, ...] by name of the array, and `hidden` [nodes, exits, hidden]."""
    hidden = figures.pop("hidden")
    sketches = np.empty((*hidden.shape[:2], SKETCH_SIZE), np.float16)
    for lens in {id(graph.lens): graph.lens for graph, _ in wants}.values():
        rows = np.flatnonzero([graph.lens is lens for graph, _ in wants])
        for each in range(hidden.shape[1]):
            sketches[rows, each] = lens.sketch(hidden[rows, each], each)
    figures["sketch"] = sketches
    for row, (graph, node) in enumerate(wants):
        graph.write(node, {name: values[row] for name, values in figures.items()})
