"""How every command ends: its exit code, and one line instead of a trace where the user can mend it.

What does not live here: the parsing of arguments and the console (_cli.py), which take longer to import.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from runtime.errors import SyneraError
from scripts._text import harmless

USER_ERROR = 2
"""Exit code of a user's mistake."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
OUTPUT_CLOSED = 141
"""Exit code when nobody reads the output any more (`| head`), as of a program that SIGPIPE ends."""

_WRONG_PATH = {
    errno.ENOENT: "there is no such file or folder",
    errno.EISDIR: "it is a folder where a file is wanted",
    errno.ENOTDIR: "a part of it is a file where a folder is wanted",
    errno.EEXIST: "it is there already, and is no folder",
    errno.EACCES: "you have no permission for it",
    errno.EPERM: "you have no permission for it",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EROFS: "it is on a file system that can only be read",
    errno.ELOOP: "its links lead in a circle",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def ending() -> Iterator[None]:
    """Turn a user's mistakes into `error: ...` and exit code 2, and Ctrl-C and a closed output into a quiet end.

    Whatever else is raised is a bug and passes, so that its trace is seen.
    """
    try:
        yield
        _flush()
    except SystemExit:
        _flush()
        raise
    except SyneraError as wrong:
        _refuse(str(wrong))
    except BrokenPipeError:
        _close_output()
        sys.exit(OUTPUT_CLOSED)
    except OSError as wrong:
        message = mistake(wrong)
        if message is None:
            raise
        _refuse(message)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


def mistake(error: OSError) -> str | None:
    """Return what a user did wrong in plain words, with the path; None when it is no mistake of a user's."""
    if error.errno in _FULL:
        where = f"{_name(error)}: " if error.filename is not None else ""
        return f"{where}nothing more can be written, as the disk is full or a quota is reached"
    if error.errno is None or error.filename is None or error.errno not in _WRONG_PATH:
        return None
    return f"{_name(error)}: {_WRONG_PATH[error.errno]}"


def _name(error: OSError) -> str:
    """The path that the user knows; of a rename, the target."""
    name = error.filename if error.filename2 is None else error.filename2
    return os.fsdecode(name) if isinstance(name, bytes | str) else str(name)


def _refuse(message: str) -> None:
    """End with one line, whatever the message reflects."""
    print(f"error: {harmless(' '.join(message.splitlines()))}", file=sys.stderr)
    sys.exit(USER_ERROR)


def _flush() -> None:
    """Write what is still held back now, while a closed output can be told from a bug."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _close_output()
            sys.exit(OUTPUT_CLOSED)


def _close_output() -> None:
    """Let what the interpreter still writes at its end go nowhere."""
    with suppress(OSError, ValueError):  # an output that is no file of the system
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
