"""Files and folders that are written whole or not at all: made beside their target, then renamed over it.

What does not live here: what is written. A crash of the machine is not guarded against (nothing is flushed to the disk).
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.settings import shown
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
        TraceError: `path` is something else than a regular file (a folder, a device), or nothing can be written there.
    """
    target = _target(path, stat.S_ISREG, "a regular file")
    part = _beside(target, "part")
    with _refusing(path):  # now, and not after the work of the block
        part.touch(exist_ok=False)
        part.unlink()
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path, *, keep: bool = False, part: Path | None = None) -> Iterator[Path]:
    """Write a folder whole or not at all; all that the old one held goes.

    The old folder is moved aside, the new one takes its place, the old one is removed. So if the process is killed in
    between, both are there, the old one named `.NAME.*.old`.

    Args:
        path: the folder to make or replace; missing folders above it are made. A link is followed.
        keep: what the block wrote before it failed is left behind, to be looked at.
        part: what an earlier block left behind, to go on with.

    Yields:
        A new empty folder beside it, to write into: `.NAME.*.part`, or `NAME.part-*` where it is kept; or `part`.

    Raises:
        TraceError: `path` is not a folder, is one that the process works in, or nothing can be written there.
    """
    target = _target(path, stat.S_ISDIR, "a folder")
    if Path.cwd().is_relative_to(target):
        raise TraceError(f"cannot replace {shown(str(path), 200)}: it holds the folder that you work in; name one below it")
    if part is None:
        part = target.with_name(f"{_short(target)}.part-{uuid.uuid4().hex[:8]}") if keep else _beside(target, "part")
        with _refusing(path):
            part.mkdir()
    try:
        yield part
        _swap(part, target)
    except BaseException:
        if not keep or not any(part.iterdir()):
            shutil.rmtree(part, ignore_errors=True)
        raise


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, or leave the one that is there as it is.

    Raises:
        TraceError: something else is there, or the system refuses it.
    """
    with _refusing(path):
        Path(path).mkdir(parents=True, exist_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file, whole or not at all; see :func:`replacing`."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all; see :func:`replacing`."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: object) -> None:
    """Write JSON, whole or not at all; see :func:`replacing`. Figures that are not finite (unknown ones) become null."""
    write_text(path, json.dumps(_known(value), indent=2, allow_nan=False) + "\n")


def _known(value: object) -> object:
    """The same plain data without NaN and infinities, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    return [_known(each) for each in value] if isinstance(value, list | tuple) else value


@contextmanager
def _refusing(path: str | Path) -> Iterator[None]:
    """Say of a place that the system refuses which one was asked for."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a name that is none, such as one with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise TraceError(f"cannot write to {shown(str(path), 200)}: {reason}; name another path") from None


def _target(path: str | Path, wanted: Callable[[int], bool], kind: str) -> Path:
    """Follow links, make the folders above, and refuse what a rename would destroy or could not replace."""
    with _refusing(path):
        target = Path(os.path.realpath(path))
        there = _mode(target)
        if there is None:
            _make_above(target)
    if there is not None and not wanted(there):
        raise TraceError(f"cannot write to {shown(str(path), 200)}: it is there and is not {kind}; name another path")
    return target


def _mode(path: Path) -> int | None:
    """Return what is at a path, None for nothing."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _make_above(target: Path) -> None:
    """Make the folders above; those of a name that the system refuses go again."""
    made = [folder for folder in target.parents if _mode(folder) is None]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _mode(target)  # a name that is too long is found out where the folder above it is
    except OSError:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _beside(target: Path, purpose: str) -> Path:
    """Return a hidden name in the same folder, so on the same file system, that no other writer has."""
    return target.with_name(f".{_short(target)}.{uuid.uuid4().hex}.{purpose}")


def _short(target: Path) -> str:
    """As much of a name as leaves room for more in the 255 bytes that a name may have."""
    return os.fsdecode(os.fsencode(target.name)[:200])


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
