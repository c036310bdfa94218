"""The recorder: runs both models over everything a controller can cause and writes token graphs.

All children of a frontier are expanded in one batched forward of each model, likeliest first, until the graph is closed
or its node budget is met. What does not live here: the format (graph.py) and the tasks.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from runtime.errors import ContextOverflowError, TokenizerMismatchError
from runtime.model.decoder import Decoder
from runtime.model.loading import fingerprint, load_decoder
from runtime.model.tokenizer import load_tokenizer, tokenizer_hash
from runtime.model.tree_kv import TreeKV
from runtime.synera.drafter import predict
from runtime.synera.knobs import MAX_DRAFT_LENGTH
from runtime.synera.lens import Lens, chunk_importance
from traces.synera.coverage import coverage
from traces.synera.graph import NODE_ARRAYS, GraphMeta, GraphSet

_WAVE = 192  # nodes in one forward: enough to fill the cores, small enough for the attention gather
_LENS_CHUNKS = 2000  # chunks sampled for the importance table


@dataclass(frozen=True)
class Prompt:
    """One prompt to record."""

    text: str
    kind: str


@dataclass(frozen=True)
class Models:
    """The pair that is recorded."""

    slm: Decoder
    llm: Decoder
    tokenizer: Tokenizer
    slm_fingerprint: str
    llm_fingerprint: str
    tokenizer_hash: str

    @classmethod
    def load(cls, slm: Path, llm: Path) -> Models:
        """Load both folders.

        Raises:
            TokenizerMismatchError: the two do not share a tokenizer.
            CheckpointError: a folder cannot be loaded.
        """
        hashes = tokenizer_hash(slm), tokenizer_hash(llm)
        if hashes[0] != hashes[1]:
            raise TokenizerMismatchError(
                f"the tokenizers of {slm} ({hashes[0]}) and {llm} ({hashes[1]}) differ; device and cloud must read the same tokens"
            )
        tokenizer = load_tokenizer(slm)
        return cls(load_decoder(slm), load_decoder(llm), tokenizer, fingerprint(slm), fingerprint(llm), hashes[0])

    @property
    def context(self) -> int:
        """The shorter context of the two."""
        return min(self.slm.config.context, self.llm.config.context)


@dataclass
class _Node:
    """A node that is known but not yet run."""

    graph: int
    index: int
    token: int
    path: NDArray[np.int64]  # slots from the start of the prompt to the parent
    depth: int
    likelihood: float  # log-probability under a controller that picks a source uniformly at each token


@dataclass
class _Builder:
    """The growing graph of one prompt."""

    prompt: Prompt
    tokens: list[int]
    rows: list[dict[str, Any]] = field(default_factory=list)
    hidden: list[NDArray[np.float32]] = field(default_factory=list)  # [exits, hidden] of each row
    expanded: int = 0
    dropped: int = 0

    def add(self, token: int, parent: int, depth: int) -> int:
        self.rows.append({"token": token, "parent": parent, "depth": depth, "score": np.nan})
        self.hidden.append(np.zeros(0, np.float32))
        return len(self.rows) - 1

    def answer(self, index: int) -> list[int]:
        tokens: list[int] = []
        while index > 0:
            tokens.append(self.rows[index]["token"])
            index = self.rows[index]["parent"]
        return tokens[::-1]


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
            lens: the lens to use; None fits one on the first batch.
            keep_open: False leaves out the prompts whose graph is still open at its node budget.
            workers: batches of prompts run side by side, one thread each; set torch to one thread with more than one.

        Raises:
            ValueError: a limit is below 1.
        """
        if node_budget < 1 or max_new_tokens < 1:
            raise ValueError(f"node_budget={node_budget} and max_new_tokens={max_new_tokens} must be at least 1")
        self._models, self._score = models, score
        self._max_new, self._budget, self._lens = max_new_tokens, node_budget, lens
        self._keep_open, self._workers = keep_open, workers
        self._eos = frozenset(models.llm.config.eos_ids) | frozenset(models.slm.config.eos_ids)
        self._exits = models.slm.config.exit_layers

    def record(self, prompts: Sequence[Prompt], split: str, batch: int = 16) -> Iterator[int | GraphSet]:
        """Record; yields the number of finished prompts after each batch, and last the graph set.

        Raises:
            ContextOverflowError: a prompt leaves no room for `max_new_tokens`.
            ValueError: there are no prompts.
        """
        if not prompts:
            raise ValueError("no prompts to record")
        encoded = [self._encode(p) for p in prompts]
        order = np.random.default_rng(0).permutation(len(prompts))  # mixes kinds, so the first batch can fit the lens
        batches = [
            [_Builder(prompts[i], encoded[i]) for i in order[start : start + batch]] for start in range(0, len(order), batch)
        ]
        graphs: list[dict[str, NDArray[Any]]] = []
        kept: list[_Builder] = []
        done = 0
        with ThreadPoolExecutor(self._workers, thread_name_prefix="recorder") as pool:
            for builders in pool.map(self._expand, batches):
                if self._lens is None:
                    self._lens = _fit_lens(builders, len(self._exits))
                for builder in builders:
                    if builder.dropped == 0 or self._keep_open:
                        graphs.append(self._finish(builder, self._lens))
                        kept.append(builder)
                    builder.rows, builder.hidden = [], []  # large, and written down by now
                done += len(builders)
                yield done
        if not graphs or self._lens is None:
            raise ValueError(f"none of {len(prompts)} graphs closed within {self._budget} nodes; give a larger node budget")
        meta = self._meta([b.prompt for b in kept], split, sum(b.dropped == 0 for b in kept) / len(kept))
        meta.notes["left_out"] = len(prompts) - len(kept)
        graph_set = GraphSet.build(meta, graphs, self._lens.tensors())
        meta.coverage.update(coverage(graph_set))
        yield graph_set

    def _encode(self, prompt: Prompt) -> list[int]:
        ids: list[int] = self._models.tokenizer.encode(prompt.text).ids
        room = self._models.context - self._max_new
        if not 0 < len(ids) <= room:
            raise ContextOverflowError(
                f"the prompt {prompt.text[:60]!r} has {len(ids)} tokens; with answers of {self._max_new} the context of "
                f"{self._models.context} takes 1 to {room}"
            )
        return ids

    def _meta(self, prompts: Sequence[Prompt], split: str, closed: float) -> GraphMeta:
        m = self._models
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
            notes={"node_budget": self._budget},
        )

    # ------------------------------------------------------------ expansion

    @torch.inference_mode()
    def _expand(self, builders: list[_Builder]) -> list[_Builder]:
        caches = (
            TreeKV(self._models.slm.config.kv_shape, probe_layer=self._exits[0] - 1),
            TreeKV(self._models.llm.config.kv_shape),
        )
        slots = 0
        frontier: list[tuple[float, int, _Node]] = []
        for g, builder in enumerate(builders):
            *before, last = builder.tokens
            path = np.arange(slots, slots + len(before))
            slots += len(before)
            if before:
                rows = [path[: i + 1] for i in range(len(before))]
                self._forward(caches, np.array(before), path, rows)
            heapq.heappush(frontier, (0.0, g, _Node(g, builder.add(-1, -1, 0), last, path, 0, 0.0)))
        pushed = len(builders)
        while frontier:
            wave: list[_Node] = []
            while frontier and len(wave) < _WAVE:
                node = heapq.heappop(frontier)[2]
                builder = builders[node.graph]
                if builder.expanded >= self._budget:
                    self._drop(builder, node)
                    continue
                builder.expanded += 1
                wave.append(node)
            if not wave:
                break
            own = np.arange(slots, slots + len(wave))
            slots += len(wave)
            paths = [np.append(node.path, slot) for node, slot in zip(wave, own, strict=True)]
            figures = self._forward(caches, np.array([n.token for n in wave]), own, paths)
            for row, (node, path) in enumerate(zip(wave, paths, strict=True)):
                for child in self._settle(builders[node.graph], node, path, figures, row):
                    pushed += 1
                    heapq.heappush(frontier, (-child.likelihood, pushed, child))
        return builders

    def _forward(
        self,
        caches: tuple[TreeKV, TreeKV],
        tokens: NDArray[np.int64],
        slots: NDArray[np.int64],
        paths: Sequence[NDArray[np.int64]],
    ) -> dict[str, NDArray[Any]]:
        """Run both models over rows that end the given paths; arrays are [rows, ...]."""
        lengths = np.array([len(p) for p in paths])
        padded = np.zeros((len(paths), lengths.max()), np.int64)
        for row, path in enumerate(paths):
            padded[row, : len(path)] = path
        ids, positions = torch.from_numpy(tokens), torch.from_numpy(lengths - 1)
        for cache in caches:
            cache.place(torch.from_numpy(slots), torch.from_numpy(padded), torch.from_numpy(lengths))
        slm, llm = self._models.slm, self._models.llm
        hidden, start, guesses, states = slm.embed(ids), 0, [], []
        for layer in self._exits:
            hidden, start = slm.run(hidden, positions, caches[0], start, layer), layer
            guesses.append(predict(slm.logits(hidden)))
            states.append(hidden)
        judged = predict(llm.logits(llm.run(llm.embed(ids), positions, caches[1])))
        exit_token = torch.stack([g.token for g in guesses], 1)
        assert caches[0].probed is not None
        return {
            "exit_token": exit_token.numpy(),
            "confidence": torch.stack([g.confidence for g in guesses], 1).numpy(),
            "margin": torch.stack([g.margin for g in guesses], 1).numpy(),
            "entropy": torch.stack([g.entropy for g in guesses], 1).numpy(),
            "runner_up": torch.stack([g.runner_up for g in guesses], 1).numpy(),
            "llm_probability": judged.probabilities.gather(1, exit_token).numpy(),
            "llm_token": judged.token.numpy(),
            "attention": caches[0].probed.numpy(),
            "hidden": torch.stack(states, 1).numpy(),
        }

    def _settle(
        self, builder: _Builder, node: _Node, path: NDArray[np.int64], figures: dict[str, NDArray[Any]], row: int
    ) -> Iterator[_Node]:
        """Write a run node down and yield its children that must be run."""
        record = builder.rows[node.index]
        record.update({name: figures[name][row] for name in figures if name != "hidden"})
        builder.hidden[node.index] = figures["hidden"][row].copy()
        sources = [*(int(t) for t in figures["exit_token"][row]), int(figures["llm_token"][row])]
        children: dict[int, int] = {}
        for token in dict.fromkeys(sources):
            index = children[token] = builder.add(token, node.index, node.depth + 1)
            if token in self._eos or node.depth + 1 == self._max_new:
                text = self._models.tokenizer.decode(builder.answer(index), skip_special_tokens=True)
                builder.rows[index]["score"] = self._score(builder.prompt.text, text)
            else:
                share = math.log(sources.count(token) / len(sources))
                yield _Node(node.graph, index, token, path, node.depth + 1, node.likelihood + share)
        record["exit_child"] = np.array([children[t] for t in sources[:-1]], np.int32)
        record["llm_child"] = children[sources[-1]]

    @staticmethod
    def _drop(builder: _Builder, node: _Node) -> None:
        """Over budget: mark a child as not recorded. Its row is removed when the graph is finished."""
        builder.dropped += 1
        builder.rows[node.index]["dropped"] = True

    def _finish(self, builder: _Builder, lens: Lens) -> dict[str, NDArray[Any]]:
        """Turn rows into arrays; dropped rows go, and what pointed at them becomes -1."""
        kept = [i for i, r in enumerate(builder.rows) if not r.get("dropped")]
        renumber = np.full(len(builder.rows) + 1, -1, np.int32)  # the last entry keeps -1 at -1
        renumber[kept] = np.arange(len(kept))
        exits = len(self._exits)
        arrays: dict[str, NDArray[Any]] = {"prompt_tokens": np.array(builder.tokens, np.int32)}
        for name, (dtype, tail) in NODE_ARRAYS.items():
            shape = (len(kept), *(exits if s == "exits" else int(s) for s in tail))
            empty = -1 if np.issubdtype(dtype, np.integer) else 0
            arrays[name] = np.full(shape, empty, dtype)
        for new, old in enumerate(kept):
            row = builder.rows[old]
            for name in NODE_ARRAYS.keys() & row.keys():
                arrays[name][new] = row[name]
            if builder.hidden[old].size:
                arrays["sketch"][new] = [lens.sketch(builder.hidden[old][e], e) for e in range(exits)]
        for name in ("parent", "exit_child", "llm_child"):
            arrays[name] = renumber[arrays[name]]
        return arrays


def _fit_lens(builders: Sequence[_Builder], exits: int) -> Lens:
    """Fit the lens on the nodes of a batch of graphs, each node once."""
    states = np.stack([h for b in builders for h in b.hidden if h.size])  # [nodes, exits, hidden]
    rng = np.random.default_rng(0)
    samples: dict[int, list[float]] = {n: [] for n in range(3, MAX_DRAFT_LENGTH + 1)}
    for _ in range(_LENS_CHUNKS):
        builder = builders[int(rng.integers(len(builders)))]
        index, rows = int(rng.integers(len(builder.rows))), []
        while index > 0:
            row = builder.rows[index]
            if "attention" in row:
                rows.append(row["attention"])
            index = row["parent"]
        for length in samples:
            if len(rows) >= length - 1:
                raw = chunk_importance(rows[: length - 1][::-1])
                if raw is not None:
                    samples[length].append(raw)
    return Lens.fit([states[:, e] for e in range(exits)], {n: v for n, v in samples.items()})


@torch.inference_mode()
def greedy_answers(model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int) -> dict[str, str]:
    """Return a model's own greedy answer to each prompt, at its last exit."""
    answers = {}
    for prompt in prompts:
        ids: list[int] = tokenizer.encode(prompt).ids
        cache, fresh, said = model.new_cache(), list(ids), list[int]()
        while len(said) < max_new_tokens and not (said and said[-1] in model.config.eos_ids):
            first = len(ids) + len(said) - len(fresh)
            hidden = model.run(model.embed(torch.tensor(fresh)), torch.arange(first, first + len(fresh)), cache)
            fresh = [int(model.logits(hidden[-1:]).argmax())]
            said += fresh
        answers[prompt] = tokenizer.decode(said, skip_special_tokens=True)
    return answers
