"""HAT's token graphs: of each prompt what the model answers, by the precision of the states that travel, and all drafts beside that way.

Drafts are wrong or right, but what is committed is always the model's own answer, so a graph is a path with a branch at each of its places:
small, and always closed. Format, writer and reader. What does not live here: the recorder (record.py) and the walk (synera_env/hat/walk.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from traces.errors import TraceError
from traces.schemas import EXACT, Name, check_fields, parse_json
from traces.synera import graph_file

KEY, WAY_OUT = "synera_hat_graphs", "synera record --system hat"
DRAFTED = 8
"""Draft tokens at a place; one that ends the answer is the last, and -1 stands behind it."""
CANDIDATES = 4
"""Likeliest tokens at a draft token's place, itself first."""
_Token = Annotated[int, Field(ge=0, lt=2**31)]
_Tokens = Annotated[int, Field(ge=1, le=2**20)]
_Layers = Annotated[int, Field(ge=0, le=1024)]

# name -> (dtype, shape after [places])
PATH_ARRAYS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "token": (np.int32, ()),  # what the model says at a place of its answer; the last one ends it, or is where it was cut
    "draft": (np.int32, (DRAFTED, CANDIDATES)),  # after the tokens before: draft tokens, each with its candidates
    "confidence": (np.float32, (DRAFTED,)),  # top-1 probability
    "margin": (np.float32, (DRAFTED,)),  # top-1 minus top-2 probability
}
_REST: dict[str, type[np.generic]] = {
    "prompt_tokens": np.int32,
    "prompt_offsets": np.int64,  # [prompts + 1], into prompt_tokens
    "path_offsets": np.int64,  # [paths + 1], into the arrays of places
    "score": np.float32,  # [paths], of the whole answer
    "path_of": np.int32,  # [prompts * precisions]; precisions that give one answer and the same drafts share its path
}


@dataclass(frozen=True)
class HatMeta:
    """What a graph file says of itself.

    Raises:
        TraceError: a field that is out of the range that its type states.
    """

    __pydantic_config__ = EXACT

    first_layers: _Layers
    last_layers: _Layers
    hidden: Annotated[int, Field(ge=1, le=2**17)]
    """Numbers of a state."""
    precisions: Annotated[tuple[str, ...], Field(min_length=1, max_length=3)]
    """Of the states that travel, in the order of the wire's."""
    eos_ids: tuple[_Token, ...]
    max_new_tokens: _Tokens
    context: _Tokens
    model_fingerprint: Name
    adapter_fingerprint: Name
    """Of what drafted."""
    tokenizer_hash: Name
    split: Name
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    kinds: tuple[Name, ...]
    questions: tuple[str, ...]
    """What of each prompt is asked: its last exchange, by which the answer is scored."""
    notes: dict[str, str | int | float | None] = field(default_factory=dict)
    """How it was recorded, and what the precisions changed."""
    texts: dict[str, str] = field(default_factory=dict)
    """See :class:`traces.synera.graph.GraphMeta`, as `joined`, `scorer` and `frame`."""
    joined: tuple[_Token, ...] = ()
    scorer: Annotated[str, Field(max_length=200)] = ""
    frame: dict[str, str | bool | list[_Token]] = field(default_factory=dict)
    medusa_heads: Annotated[int, Field(ge=0, le=DRAFTED)] = 0
    """That drafted: so many tokens, and none at the first place of an answer, where no state has come back; 0: an adapter did.
    In fp32 they are the live ones; below, a live state may be rounded otherwise in some last bits, and a confidence with it."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not len(self.prompts) == len(self.kinds) == len(self.questions):
            raise TraceError(
                f"{len(self.prompts)} prompts, {len(self.kinds)} kinds and {len(self.questions)} questions; each prompt has one of each"
            )


@dataclass(frozen=True, eq=False)
class HatGraph:
    """The graph of a prompt in one precision. Arrays are those of :data:`PATH_ARRAYS`, [places, ...], read-only views."""

    prompt: str
    kind: str
    prompt_tokens: NDArray[np.int32]
    token: NDArray[np.int32]
    draft: NDArray[np.int32]
    confidence: NDArray[np.float32]
    margin: NDArray[np.float32]
    score: float

    def __len__(self) -> int:
        """Tokens of the answer."""
        return len(self.token)


class HatGraphs:
    """The graphs of a set of prompts, memory-mapped from one safetensors file."""

    def __init__(self, meta: HatMeta, arrays: dict[str, NDArray[Any]], path: Path | None = None) -> None:
        """See the class.

        Args:
            meta: the description.
            arrays: all paths, laid end to end; see :meth:`build`.
            path: the file that they come from.

        Raises:
            TraceError: they do not fit together.
        """
        self.meta, self.path, self._arrays = meta, path, arrays
        if reason := next(_faults(meta, arrays), None):
            raise graph_file.damaged(path, reason, WAY_OUT)

    def __len__(self) -> int:
        return len(self.meta.prompts)

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """All paths, as the file has them."""
        return self._arrays

    def graph(self, prompt: int, precision: int) -> HatGraph:
        """Return the graph of a prompt, by its index, in a precision, by its place among the meta's."""
        a, meta = self._arrays, self.meta
        path = int(a["path_of"][prompt * len(meta.precisions) + precision])
        places = slice(*a["path_offsets"][path : path + 2].tolist())
        parts = {name: a[name][places] for name in PATH_ARRAYS}
        return HatGraph(
            meta.prompts[prompt], meta.kinds[prompt], self.prompt_tokens(prompt), **parts, score=float(a["score"][path])
        )

    def prompt_tokens(self, prompt: int) -> NDArray[np.int32]:
        """Return the tokens of a prompt."""
        tokens: NDArray[np.int32] = self._arrays["prompt_tokens"][
            slice(*self._arrays["prompt_offsets"][prompt : prompt + 2].tolist())
        ]
        return tokens

    @classmethod
    def build(cls, meta: HatMeta, prompts: Sequence[Sequence[int]], paths: Sequence[Sequence[dict[str, Any]]]) -> HatGraphs:
        """Lay paths end to end.

        Args:
            meta: the description.
            prompts: tokens of each.
            paths: of each prompt one in each precision: arrays of :data:`PATH_ARRAYS`, and its `score`. Equal ones are kept once.
        """
        kept: list[dict[str, Any]] = []
        path_of: list[int] = []
        for by_precision in paths:
            mine: dict[bytes, int] = {}
            for path in by_precision:
                key = b"".join(np.asarray(path[name], dtype).tobytes() for name, (dtype, _) in PATH_ARRAYS.items())
                if key not in mine:
                    mine[key] = len(kept)
                    kept.append(path)
                path_of.append(mine[key])
        arrays: dict[str, NDArray[Any]] = {
            name: np.concatenate([np.asarray(path[name], dtype) for path in kept]) for name, (dtype, _) in PATH_ARRAYS.items()
        }
        arrays["prompt_tokens"] = np.concatenate([np.asarray(tokens, np.int32) for tokens in prompts])
        arrays["prompt_offsets"] = np.cumsum([0, *map(len, prompts)], dtype=np.int64)
        arrays["path_offsets"] = np.cumsum([0, *(len(path["token"]) for path in kept)], dtype=np.int64)
        arrays["score"] = np.array([path["score"] for path in kept], np.float32)
        arrays["path_of"] = np.array(path_of, np.int32)
        return cls(meta, arrays)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        graph_file.save(self._arrays, asdict(self.meta), path, KEY)

    @classmethod
    def load(cls, path: str | Path) -> HatGraphs:
        """Map a graph file.

        Raises:
            TraceError: the file is missing, damaged, or of another format.
        """
        path = Path(path)
        description, arrays = graph_file.load(path, KEY, WAY_OUT)
        return cls(parse_json(description, HatMeta, str(path)), arrays, path)


def _faults(meta: HatMeta, arrays: dict[str, NDArray[Any]]) -> Iterator[str]:
    """What is wrong with the arrays, as clauses; later ones rely on those before."""
    wanted = {name: (dtype, tail) for name, (dtype, tail) in PATH_ARRAYS.items()} | {
        name: (dtype, ()) for name, dtype in _REST.items()
    }
    if missing := wanted.keys() ^ arrays.keys():
        yield f"the tensor {min(missing)!r} is {'missing' if min(missing) in wanted else 'unknown'}"
        return
    for name, (dtype, tail) in wanted.items():
        if arrays[name].dtype != dtype or arrays[name].shape[1:] != tail:
            yield f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}"
            return
    prompts = len(meta.prompts)
    for name, count, of in (("prompt_offsets", prompts, "prompt_tokens"), ("path_offsets", len(arrays["score"]), "token")):
        offsets = arrays[name]
        if len(offsets) != count + 1 or offsets[0] != 0 or offsets[-1] != len(arrays[of]) or (np.diff(offsets) < 1).any():
            yield f"{name} does not divide {of}"
            return
    if any(len(arrays[name]) != len(arrays["token"]) for name in PATH_ARRAYS):
        yield "its paths differ in length"
        return
    path_of = arrays["path_of"]
    if len(path_of) != prompts * len(meta.precisions) or path_of.min() < 0 or path_of.max() >= len(arrays["score"]):
        yield "path_of leads to no path"
        return
    score, draft = arrays["score"], arrays["draft"]
    if not ((score >= 0) & (score <= 1)).all():
        yield "a score is outside 0..1"
    drafted = np.ones(len(draft), bool)
    drafted[arrays["path_offsets"][:-1]] = not meta.medusa_heads
    nothing_drafted = (draft[drafted, 0, 0] < 0).any()
    if min(arrays["token"].min(), arrays["prompt_tokens"].min()) < 0 or (draft < -1).any() or nothing_drafted:
        yield "a token is below 0"
    for name in ("confidence", "margin"):
        if not ((arrays[name] >= 0) & (arrays[name] <= 1 + 1e-5)).all():
            yield f"{name} is outside 0..1"
    if (np.diff(arrays["prompt_offsets"]) >= meta.context).any():
        yield "a prompt is longer than the context"
