"""Files and folders that are written whole or not at all: made beside their target, then renamed over it.

What does not live here: what is written. A crash of the machine is not guarded against (nothing is flushed to the disk).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from traces.errors import TraceError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all; of several writers the last wins.

    Args:
        path: the file to make or replace; missing folders above it are made. A link is followed.

    Yields:
        A path of no file in the same folder, to write to. It is renamed to `path` when the block ends, and removed when
        the block fails.

    Raises:
        TraceError: `path` is something else than a regular file: a folder, a device.
    """
    target = _target(path, stat.S_ISREG, "a regular file")
    part = _beside(target, "part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder whole or not at all; all that the old one held goes.

    The old folder is moved aside, the new one takes its place, the old one is removed. So if the process is killed in
    between, both are there, named `.NAME.*.old` and `.NAME.*.part`.

    Args:
        path: the folder to make or replace; missing folders above it are made. A link is followed.

    Yields:
        A new empty folder beside it, to write into.

    Raises:
        TraceError: `path` is not a folder.
    """
    target = _target(path, stat.S_ISDIR, "a folder")
    part = _beside(target, "part")
    part.mkdir()
    try:
        yield part
        _swap(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file, whole or not at all; see :func:`replacing`."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all; see :func:`replacing`."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: object) -> None:
    """Write JSON, whole or not at all; see :func:`replacing`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _target(path: str | Path, wanted: Callable[[int], bool], kind: str) -> Path:
    """Follow links, make the folders above, and refuse what a rename would destroy or could not replace."""
    with suppress(FileNotFoundError):
        if not wanted(os.stat(path).st_mode):
            raise TraceError(f"cannot write to {path}: it is there and is not {kind}; name another path")
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _beside(target: Path, purpose: str) -> Path:
    """Return a hidden name in the same folder, so on the same file system, that no other writer has."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.{purpose}")


def _swap(new: Path, target: Path) -> None:
    """Put a folder in the place of another, or of nothing; if that fails, the other is put back."""
    aside = _beside(target, "old")
    while True:
        with suppress(FileNotFoundError):
            os.rename(target, aside)
        try:
            os.rename(new, target)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                if aside.exists():
                    os.rename(aside, target)
                raise
            # Another writer's folder came in between: it is moved aside in its turn.
            shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)
