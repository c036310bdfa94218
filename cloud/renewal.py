"""What is read from files that are renewed while the verifier runs: certificates, tokens.

What does not live here: what the files hold (security.py, tokens.py).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from cloud.log import fields
from runtime.errors import SettingError

_PAUSE_SECONDS = 1.0
_Value = TypeVar("_Value")
_log = logging.getLogger(__name__)


class Renewed(Generic[_Value]):
    """A value that files hold; thread-safe. `refresh` looks whether they have changed, at most once a second.

    What was read last stays while files cannot be used: they may be half-way through being replaced, and a mistake must not end
    a service. It is logged, and tried again as soon as a file changes.
    """

    def __init__(
        self,
        what: str,
        paths: Sequence[Path],
        read: Callable[[], _Value],
        *,
        now: Callable[[], float] = time.monotonic,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        """Read for the first time.

        Args:
            what: for the log.
            paths: the files.
            read: makes the value of what they hold.
            now: monotonic seconds.
            pause_seconds: between two looks.

        Raises:
            SettingError: they cannot be used.
        """
        self._what, self._paths, self._read, self._now, self._pause = what, tuple(paths), read, now, pause_seconds
        self._lock = threading.Lock()
        self._state = _state(self._paths)  # before the reading, so that what changes meanwhile is seen at the next look
        self.value = read()
        self._looked_at = now()

    def refresh(self) -> bool:
        """Read again if a file has changed; return whether the value is another now."""
        with self._lock:
            if self._now() - self._looked_at < self._pause:
                return False
            self._looked_at = self._now()
            state = _state(self._paths)
            if state == self._state:
                return False
            self._state = state
            try:
                self.value = self._read()
            except SettingError as error:
                _log.error(f"{self._what} not renewed", extra=fields(reason=str(error)))
                return False
        _log.info(f"{self._what} renewed", extra=fields(files=" ".join(map(str, self._paths))))
        return True


def _state(paths: Sequence[Path]) -> tuple[tuple[int, ...] | None, ...]:
    """What changes when a file is replaced or written to."""
    found: list[tuple[int, ...] | None] = []
    for path in paths:
        try:
            it = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((it.st_dev, it.st_ino, it.st_size, it.st_mtime_ns, it.st_ctime_ns))
    return tuple(found)
