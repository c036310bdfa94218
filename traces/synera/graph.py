"""Token graphs: everything that any controller can cause on a prompt, recorded. Format, writer and reader.

A node is a prefix (prompt + generated tokens). It stores what the SLM says there at every exit, what the LLM says, and
where each of these tokens leads. What does not live here: the recorder (record.py) and the walk (synera_env/synera/replay.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from traces.errors import TraceError
from traces.files import replacing

FORMAT_VERSION = 1
_E = "exits"  # placeholder for the number of exits in the shapes below

# name -> (dtype, shape after [nodes]); the order is the file's.
NODE_ARRAYS: dict[str, tuple[type[np.generic], tuple[int | str, ...]]] = {
    "token": (np.int32, ()),  # token that leads here from the parent; -1 at the root
    "parent": (np.int32, ()),  # -1 at the root
    "depth": (np.int32, ()),  # generated tokens
    "score": (np.float32, ()),  # task score of a terminal node, NaN elsewhere
    "exit_token": (np.int32, (_E,)),
    "confidence": (np.float32, (_E,)),  # top-1 probability
    "margin": (np.float32, (_E,)),  # top-1 minus top-2 probability
    "entropy": (np.float32, (_E,)),  # nats
    "runner_up": (np.int32, (_E,)),
    "sketch": (np.float16, (_E, 16)),  # hidden state on the lens's principal directions
    "llm_probability": (np.float32, (_E,)),  # that the LLM gives to the exit's token
    "attention": (np.float32, (8,)),  # attention row of the node's last token
    "llm_token": (np.int32, ()),
    "exit_child": (np.int32, (_E,)),  # node reached by the exit's token; -1 where not recorded
    "llm_child": (np.int32, ()),
}
_LENS = ("lens.mean", "lens.directions", "lens.importance")


@dataclass(frozen=True)
class GraphMeta:
    """What a graph file says of itself."""

    exit_layers: tuple[int, ...]
    layers: int
    """Layers of the SLM."""
    eos_ids: tuple[int, ...]
    max_new_tokens: int
    context: int
    slm_fingerprint: str
    llm_fingerprint: str
    tokenizer_hash: str
    split: str
    prompts: tuple[str, ...]
    kinds: tuple[str, ...]
    coverage: dict[str, float]
    """Share of steps that stay inside, by controller; `closed` is the share of graphs with nothing left to record."""
    format_version: int = FORMAT_VERSION
    notes: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    """Text of each token that occurs, by its id: what a person is shown of an answer."""


@dataclass(frozen=True)
class Graph:
    """The graph of one prompt; node 0 is the prompt itself. Arrays are those of :data:`NODE_ARRAYS`, read-only views."""

    prompt: str
    kind: str
    prompt_tokens: NDArray[np.int32]
    token: NDArray[np.int32]
    parent: NDArray[np.int32]
    depth: NDArray[np.int32]
    score: NDArray[np.float32]
    exit_token: NDArray[np.int32]
    confidence: NDArray[np.float32]
    margin: NDArray[np.float32]
    entropy: NDArray[np.float32]
    runner_up: NDArray[np.int32]
    sketch: NDArray[np.float16]
    llm_probability: NDArray[np.float32]
    attention: NDArray[np.float32]
    llm_token: NDArray[np.int32]
    exit_child: NDArray[np.int32]
    llm_child: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.token)

    @property
    def closed(self) -> bool:
        """Every token of every node leads to a recorded node."""
        inner = np.isnan(self.score)
        return bool((self.exit_child[inner] >= 0).all() and (self.llm_child[inner] >= 0).all())

    def child(self, node: int, token: int) -> int:
        """Return the node that `token` leads to, or -1 where that was not recorded."""
        if token == self.llm_token[node]:
            return int(self.llm_child[node])
        found = np.flatnonzero(self.exit_token[node] == token)
        return int(self.exit_child[node, found[0]]) if found.size else -1


class GraphSet:
    """The graphs of a set of prompts, memory-mapped from one safetensors file."""

    def __init__(self, meta: GraphMeta, arrays: dict[str, NDArray[Any]], path: Path | None = None) -> None:
        self.meta, self.path = meta, path
        self._arrays = arrays
        _check(meta, arrays, path)

    def __len__(self) -> int:
        return len(self.meta.prompts)

    def __getitem__(self, index: int) -> Graph:
        if not -len(self) <= index < len(self):
            raise IndexError(f"graph {index} of {len(self)}")
        index %= len(self)
        nodes = slice(*self._arrays["node_offsets"][index : index + 2])
        tokens = slice(*self._arrays["prompt_offsets"][index : index + 2])
        parts = {name: self._arrays[name][nodes] for name in NODE_ARRAYS}
        return Graph(self.meta.prompts[index], self.meta.kinds[index], self._arrays["prompt_tokens"][tokens], **parts)

    def __iter__(self) -> Iterator[Graph]:
        return (self[i] for i in range(len(self)))

    def text(self, tokens: Sequence[int]) -> str:
        """Return what tokens say; one whose text is not stated is shown by its id."""
        return "".join(self.meta.texts.get(str(token), f"<{token}>") for token in tokens)

    @property
    def lens_tensors(self) -> dict[str, NDArray[np.float32]]:
        """The lens that sketches and importance were made with (see `runtime.synera.lens`)."""
        return {name: self._arrays[name] for name in _LENS}

    @property
    def nodes(self) -> int:
        """Nodes of all graphs."""
        return len(self._arrays["token"])

    @classmethod
    def build(
        cls, meta: GraphMeta, graphs: Sequence[dict[str, NDArray[Any]]], lens: dict[str, NDArray[np.float32]]
    ) -> GraphSet:
        """Lay the graphs end to end.

        Args:
            meta: the description; its prompts are in the order of `graphs`.
            graphs: one dict a prompt: the arrays of :data:`NODE_ARRAYS` and `prompt_tokens`.
            lens: the lens's tensors.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for name, (dtype, _) in NODE_ARRAYS.items():
            arrays[name] = np.concatenate([g[name] for g in graphs]).astype(dtype)
        arrays["prompt_tokens"] = np.concatenate([g["prompt_tokens"] for g in graphs]).astype(np.int32)
        arrays["node_offsets"] = np.cumsum([0, *(len(g["token"]) for g in graphs)], dtype=np.int64)
        arrays["prompt_offsets"] = np.cumsum([0, *(len(g["prompt_tokens"]) for g in graphs)], dtype=np.int64)
        return cls(meta, arrays | {name: np.asarray(lens[name], np.float32) for name in _LENS})

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        contiguous = {name: np.ascontiguousarray(a) for name, a in self._arrays.items()}
        with replacing(path) as part:
            save_file(contiguous, part, metadata={"synera_graphs": json.dumps(asdict(self.meta))})

    @classmethod
    def load(cls, path: str | Path) -> GraphSet:
        """Map a graph file.

        Raises:
            TraceError: the file is missing, damaged, or of another format.
        """
        path = Path(path)
        if not path.is_file():
            raise TraceError(f"no graph file at {path}; record one with: synera record")
        try:
            with safe_open(path, framework="np") as opened:
                stated = (opened.metadata() or {}).get("synera_graphs")
            if stated is None:
                raise TraceError(f"{path} is a safetensors file, but holds no token graphs")
            fields = json.loads(stated)
            version = fields.get("format_version")
            if version != FORMAT_VERSION:
                raise TraceError(f"{path} is of graph format {version}, this version reads {FORMAT_VERSION}; record it again")
            for name in ("exit_layers", "eos_ids", "prompts", "kinds"):
                fields[name] = tuple(fields[name])
            return cls(GraphMeta(**fields), _map(path), path)
        except TraceError:
            raise
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TraceError(f"{path} is damaged ({error}); record it again with: synera record") from None


def _map(path: Path) -> dict[str, NDArray[Any]]:
    """Memory-map every tensor; the header was checked by the safetensors library."""
    types = {"I32": np.int32, "I64": np.int64, "F32": np.float32, "F16": np.float16}
    with path.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    # A plain view of the map: indexing numpy's own subclass costs several times as much.
    data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r", offset=8 + size))
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            arrays[name] = data[start:stop].view(types[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def _check(meta: GraphMeta, arrays: dict[str, NDArray[Any]], path: Path | None) -> None:
    """Refuse arrays that do not fit together, so that a walk can trust every index."""
    where = str(path or "the graph set")

    def refuse(reason: str) -> TraceError:
        return TraceError(f"{where} is damaged ({reason}); record it again with: synera record")

    missing = {*NODE_ARRAYS, *_LENS, "prompt_tokens", "node_offsets", "prompt_offsets"} - set(arrays)
    if missing:
        raise refuse(f"it lacks {', '.join(sorted(missing))}")
    if len(meta.kinds) != len(meta.prompts):
        raise refuse(f"{len(meta.kinds)} kinds for {len(meta.prompts)} prompts")
    nodes, exits = len(arrays["token"]), len(meta.exit_layers)
    for name, (dtype, tail) in NODE_ARRAYS.items():
        shape = (nodes, *(exits if s == _E else s for s in tail))
        if arrays[name].shape != shape or arrays[name].dtype != dtype:
            raise refuse(f"{name} is {arrays[name].dtype}{list(arrays[name].shape)}, expected {np.dtype(dtype)}{list(shape)}")
    for name, stop in (("node_offsets", nodes), ("prompt_offsets", len(arrays["prompt_tokens"]))):
        offsets = arrays[name]
        if len(offsets) != len(meta.prompts) + 1 or offsets[0] != 0 or offsets[-1] != stop or (np.diff(offsets) < 1).any():
            raise refuse(f"{name} does not divide the {len(meta.prompts)} prompts")
    sizes = np.repeat(np.diff(arrays["node_offsets"]), np.diff(arrays["node_offsets"]))
    for name in ("exit_child", "llm_child", "parent"):
        index = arrays[name].reshape(nodes, -1)
        if (index < -1).any() or (index >= sizes[:, None]).any():
            raise refuse(f"{name} points outside its graph")
