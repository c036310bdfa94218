"""Token graphs: everything that any controller can cause on a prompt, recorded. Format, writer and reader.

A node is a prefix (prompt + generated tokens). It stores what the SLM says there at every exit, what the LLM says, and
where each of these tokens leads. All choices are greedy; sampled answers cannot be replayed. What does not live here: the recorder (record.py) and the walk (synera_env/synera/walk.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from traces.errors import TraceError
from traces.schemas import EXACT, Name, check_fields, parse_json
from traces.synera import graph_file
from traces.synera.graph_check import LENS, NODE_ARRAYS, fault

_Token = Annotated[int, Field(ge=0, lt=2**31)]
_Layer = Annotated[int, Field(ge=1, le=1024)]
_Tokens = Annotated[int, Field(ge=1, le=2**20)]
_Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class GraphMeta:
    """What a graph file says of itself.

    Raises:
        TraceError: a field that is out of the range that its type states, or exits that are none of the SLM's.
    """

    __pydantic_config__ = EXACT

    exit_layers: Annotated[tuple[_Layer, ...], Field(min_length=1)]
    layers: _Layer
    """Layers of the SLM."""
    eos_ids: tuple[_Token, ...]
    max_new_tokens: _Tokens
    context: _Tokens
    slm_fingerprint: Name
    llm_fingerprint: Name
    tokenizer_hash: Name
    split: Name
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    kinds: tuple[Name, ...]
    coverage: dict[str, _Share]
    """Shares of answers: `closed`, of prompts whose graph has nothing left to record; `random`, `never` and `always`, of
    answers of that controller that stay inside from their first to their last token. `random_steps` is the share of the
    steps of `random` that stay inside; a share of steps near 1 may still be a small share of answers."""
    notes: dict[str, str | int | float | None] = field(default_factory=dict)
    """How it was recorded."""
    texts: dict[str, str] = field(default_factory=dict)
    """Text of each token that occurs, by its id, with the space before it: what a person is shown of an answer."""
    joined: tuple[_Token, ...] = ()
    """Tokens that are written without that space after one another, such as the digits of a number."""
    scorer: Annotated[str, Field(max_length=200)] = ""
    """What answers were scored by: a name of `traces.tasks.scoring`, or MODULE:FUNCTION; empty where it is not stated."""
    references: tuple[str, ...] = ()
    """What answers were compared with, one a prompt; empty where the scorer needs none."""
    frame: dict[str, str | bool | list[_Token]] = field(default_factory=dict)
    """How prompts became tokens: what `runtime.model.frame.Frame` states; empty for prompts that were read as they are."""

    def __post_init__(self) -> None:
        check_fields(self)
        if list(self.exit_layers) != sorted(set(self.exit_layers)) or self.exit_layers[-1] != self.layers:
            raise TraceError(f"exit_layers={self.exit_layers} must rise and end with the last layer, {self.layers}")
        if len(self.references) not in (0, len(self.prompts)):
            raise TraceError(
                f"references holds {len(self.references)} texts for {len(self.prompts)} prompts; give one each, or none"
            )


@dataclass(frozen=True, eq=False)
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
    llm_token: NDArray[np.int32]
    exit_child: NDArray[np.int32]
    llm_child: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.token)

    @property
    def closed(self) -> bool:
        """Every token of every node leads to a recorded node."""
        return nothing_is_left(self.score, self.exit_child, self.llm_child)

    def child(self, node: int, token: int) -> int:
        """Return the node that `token` leads to, or -1 where that was not recorded."""
        if token == self.llm_token.item(node):
            return self.llm_child.item(node)
        said = self.exit_token[node].tolist()
        return self.exit_child.item(node, said.index(token)) if token in said else -1

    reach = child  # a walk's word for it: graphs that grow have more to say

    def know(self, node: int) -> None:
        """Do nothing: what was recorded is all that there is to know of a node."""


class GraphSet:
    """The graphs of a set of prompts, memory-mapped from one safetensors file."""

    def __init__(self, meta: GraphMeta, arrays: dict[str, NDArray[Any]], path: Path | None = None) -> None:
        """See the class.

        Args:
            meta: the description.
            arrays: all graphs, laid end to end; see :meth:`build`.
            path: the file that they come from.

        Raises:
            TraceError: they do not fit together.
        """
        self.meta, self.path, self._arrays = meta, path, arrays
        self._graphs: dict[int, Graph] = {}
        if reason := fault(meta, arrays):
            raise graph_file.damaged(path, reason)

    def __len__(self) -> int:
        return len(self.meta.prompts)

    def __getitem__(self, index: int) -> Graph:
        if not -len(self) <= index < len(self):
            raise IndexError(f"graph {index} of {len(self)}")
        index %= len(self)
        if index not in self._graphs:
            self._graphs[index] = self._cut_out(index)
        return self._graphs[index]

    def _cut_out(self, index: int) -> Graph:
        nodes = slice(*self._arrays["node_offsets"][index : index + 2].tolist())
        tokens = slice(*self._arrays["prompt_offsets"][index : index + 2].tolist())
        parts = {name: self._arrays[name][nodes] for name in NODE_ARRAYS}
        return Graph(self.meta.prompts[index], self.meta.kinds[index], self._arrays["prompt_tokens"][tokens], **parts)

    def __iter__(self) -> Iterator[Graph]:
        return (self[i] for i in range(len(self)))

    def text(self, tokens: Sequence[int]) -> str:
        """Return what tokens say within an answer; one whose text is not stated is shown by its id."""
        return spoken(tokens, self.meta)

    @property
    def lens_tensors(self) -> dict[str, NDArray[np.float32]]:
        """The lens that sketches and importance were made with (see `runtime.synera.lens`)."""
        return {name: self._arrays[name] for name in LENS}

    def with_lens(self, lens: dict[str, NDArray[np.float32]]) -> GraphSet:
        """Return the same graphs with the tables of another lens; sketches stay what they are."""
        return GraphSet(self.meta, self._arrays | {name: np.asarray(lens[name], np.float32) for name in LENS}, self.path)

    def with_meta(self, meta: GraphMeta) -> GraphSet:
        """Return the same graphs with another description."""
        return GraphSet(meta, self._arrays, self.path)

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """All graphs, laid end to end, as the file has them; read-only where it is mapped."""
        return self._arrays

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
        return cls(meta, arrays | {name: np.asarray(lens[name], np.float32) for name in LENS})

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        graph_file.save(self._arrays, asdict(self.meta), path)

    @classmethod
    def load(cls, path: str | Path) -> GraphSet:
        """Map a graph file.

        Raises:
            TraceError: the file is missing, damaged, or of another format.
        """
        path = Path(path)
        description, arrays = graph_file.load(path)
        graphs = cls(parse_json(description, GraphMeta, str(path)), arrays, path)
        graphs.put_back()
        return graphs

    def put_back(self) -> None:
        """Let go of the memory that reading a mapped file took; what is read again comes back."""
        graph_file.put_back(self._arrays)


def nothing_is_left(score: NDArray[np.float32], exit_child: NDArray[np.int32], llm_child: NDArray[np.int32]) -> bool:
    """Whether every token of every node, by the arrays of a graph, leads to a recorded node."""
    inner = np.isnan(score)
    return bool((exit_child[inner] >= 0).all() and (llm_child[inner] >= 0).all())


class Worded(Protocol):
    """What tells how tokens are written."""

    @property
    def texts(self) -> Mapping[str, str]:
        """See :class:`GraphMeta`."""
        ...

    @property
    def joined(self) -> Sequence[int]:
        """See :class:`GraphMeta`."""
        ...


def spoken(tokens: Sequence[int], meta: Worded) -> str:
    """Return what tokens say within an answer; one whose text is not stated is shown by its id."""
    joined, said, before = frozenset(meta.joined), "", False
    for token in tokens:
        text = meta.texts.get(str(token), f"<{token}>")
        joins = token in joined
        said += text.removeprefix(" ") if before and joins else text
        before = joins
    return said
