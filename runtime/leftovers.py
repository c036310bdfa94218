"""Sessions that the cloud may still hold though no device does: kept in mind, and released once the cloud answers again.

What does not live here: which sessions are abandoned, and when the cloud answers (synera/verifier.py, hat/opening.py).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from functools import partial

from runtime.client import Asked, CloudClient
from runtime.errors import CloudUnavailableError, SyneraError
from runtime.wire import synera_pb2 as pb

MOST = 256
"""Sessions kept in mind; of more the oldest are left to their lease."""
_AGAIN_SECONDS = 0.1


class Leftovers:
    """Of one device and one cloud. Thread-safe; nobody waits for a release but `settle`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Below: under its lock.
        self._left: deque[pb.CloseRequest] = deque(maxlen=MOST)
        self._closing = 0

    def __len__(self) -> int:
        with self._changed:
            return len(self._left) + self._closing

    def add(self, *, session_id: str = "", key: str = "") -> None:
        """Keep a session in mind, by its id or, where that never came, by the key of its Open."""
        with self._changed:
            self._left.append(pb.CloseRequest(session_id=session_id, key=key))

    def release(self, client: CloudClient) -> None:
        """Ask the cloud to release all of them, without waiting; those that it does not hear of are kept."""
        with self._changed:
            requests = list(self._left)
            self._left.clear()
            self._closing += len(requests)
        for request in requests:
            try:
                client.ask("Close", request, client.deadlines.close_seconds, partial(self._ended, request))
            except CloudUnavailableError:  # the client is closed
                self._heard(request, heard=False)

    def settle(self, seconds: float) -> None:
        """Wait until the cloud has answered to all that it was asked, but no longer than that."""
        ends = time.monotonic() + seconds
        with self._changed:
            while self._closing and (left := ends - time.monotonic()) > 0:
                self._changed.wait(left)

    def insist(self, client: CloudClient, seconds: float) -> None:
        """Ask the cloud to release all of them, again where it does not hear of it, and wait for that, but no longer than so long."""
        ends = time.monotonic() + seconds
        while len(self) and (left := ends - time.monotonic()) > 0:
            self.release(client)
            self.settle(left)
            if len(self):
                time.sleep(min(_AGAIN_SECONDS, max(0.0, ends - time.monotonic())))

    def _ended(self, request: pb.CloseRequest, asked: Asked) -> None:
        try:
            asked.answer()
        except CloudUnavailableError:
            self._heard(request, heard=False)
        except SyneraError:  # whatever else it says
            self._heard(request, heard=True)
        else:
            self._heard(request, heard=True)

    def _heard(self, request: pb.CloseRequest, *, heard: bool) -> None:
        with self._changed:
            self._closing -= 1
            if not heard:
                self._left.append(request)
            self._changed.notify_all()
