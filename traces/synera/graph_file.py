"""Graph files as bytes: safetensors with a description and a checksum of the whole file, memory-mapped when read.

What does not live here: what the description and the tensors mean (graph.py) and whether they fit together (graph_check.py).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from traces.errors import TraceError
from traces.files import replacing

FORMAT_VERSION = 3
_KEY = "synera_graphs"
_WAY_OUT = "synera record"
_UNSEALED = "0" * 64
_SEAL = re.compile(rb'sha256\\": \\"([0-9a-f]{64})\\"')
"""The checksum as it stands in the header: within JSON within JSON, before anything else of the description."""
_TYPES = {"I32": np.int32, "I64": np.int64, "F32": np.float32, "F16": np.float16}


def save(arrays: dict[str, NDArray[Any]], description: dict[str, Any], path: str | Path, key: str = _KEY) -> None:
    """Write a file whole or not at all; `key` tells kinds of graphs apart."""
    stated = json.dumps({"sha256": _UNSEALED, "format_version": FORMAT_VERSION, "description": description})
    with replacing(path) as part:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, part, metadata={key: stated})
        seal(part)


def seal(path: Path) -> None:
    """Write the checksum into a file: the SHA-256 of all its bytes, with zeros in the place of the checksum itself."""
    place, _, digest = _sealed(np.memmap(path, dtype=np.uint8, mode="r"))
    with path.open("r+b") as opened:
        opened.seek(place)
        opened.write(digest)


def load(path: Path, key: str = _KEY, way_out: str = _WAY_OUT) -> tuple[str, dict[str, NDArray[Any]]]:
    """Read a file; return its description as JSON text, and its tensors as read-only views of the mapped file.

    Args:
        path: the file.
        key: of the kind of graphs that it must hold.
        way_out: the command that records such graphs.

    Raises:
        TraceError: the file is missing, of another format, or not byte for byte what was written.
    """
    if not path.is_file():
        raise TraceError(f"no graph file at {path}; record one with: {way_out}")
    try:
        with safe_open(path, framework="np") as opened:  # holds the header to the size of the file
            stated = (opened.metadata() or {}).get(key)
        if stated is None:
            raise TraceError(
                f"{path} is a safetensors file, but holds no token graphs of this kind; record some with: {way_out}"
            )
        fields = from_json(stated)
        version = fields.get("format_version") if isinstance(fields, dict) else None
        if version != FORMAT_VERSION:
            raise TraceError(f"{path} is of graph format {version!r}, this version reads {FORMAT_VERSION}; record it again")
        # A plain view of the map: indexing numpy's own subclass costs several times as much.
        data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        _, found, wanted = _sealed(data)
        if found != wanted:
            raise ValueError("its checksum is not that of its bytes")
        return json.dumps(fields["description"]), _tensors(data)
    except TraceError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise damaged(path, str(error), way_out) from None


def holds(path: Path, key: str) -> bool:
    """Whether a file says that it holds graphs of a kind; whatever else may be wrong with it is for :func:`load` to say."""
    try:
        with safe_open(path, framework="np") as opened:
            return key in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return False


def put_back(tensors: dict[str, NDArray[Any]]) -> None:
    """Let go of the memory of a mapped file that was read from end to end; what is read again comes back from the page cache."""
    owner: Any = next(iter(tensors.values()))
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


def damaged(path: Path | None, reason: str, way_out: str = _WAY_OUT) -> TraceError:
    """Return the error of a file, or of graphs made in Python, that cannot be used."""
    return TraceError(f"{path or 'the graph set'} is damaged ({reason}); record it again with: {way_out}")


def _header(data: NDArray[np.uint8]) -> bytes:
    return data[8 : 8 + int.from_bytes(data[:8].tobytes(), "little")].tobytes()


def _sealed(data: NDArray[np.uint8]) -> tuple[int, bytes, bytes]:
    """Where a file's checksum stands, what it is, and what it should be."""
    found = _SEAL.search(_header(data))
    if found is None:
        raise ValueError("it has no checksum")
    place = 8 + found.start(1)
    digest = hashlib.sha256(data[:place].data)
    digest.update(_UNSEALED.encode())
    digest.update(data[place + len(_UNSEALED) :].data)
    return place, found[1], digest.hexdigest().encode()


def _tensors(data: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    header = _header(data)
    values = data[8 + len(header) :]
    arrays = {}
    for name, entry in from_json(header).items():
        if name != "__metadata__":
            if entry["dtype"] not in _TYPES:
                raise ValueError(f"{name} is stored as {entry['dtype']}")
            start, stop = entry["data_offsets"]
            arrays[name] = values[start:stop].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays
