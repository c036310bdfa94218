"""Room for the answers of chunks, in bytes: taken before they are made, given back when nobody keeps or reads them any more.

What does not live here: how much there is (admission.py), and what a repeat is told whose answer was forgotten (numbered.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cloud.shared import Shared
from runtime.errors import CloudBusyError


@dataclass(slots=True)
class _Account:
    bytes: int = 0
    """Of its places, which are none of no size."""
    busy_bytes: int = 0
    """Of those, what is not unused."""
    unused: dict[Place, None] = field(default_factory=dict)
    """Those that nobody makes or waits for: they can be forgotten. The longest unused comes first."""


class Place:
    """The room of one answer: from before it is made until its session keeps it no more, and nobody waits for it."""

    __slots__ = ("_busy", "_forget", "_given_back", "_kept", "_room", "account", "answer", "size_bytes")

    def __init__(self, room: AnswerRoom, account: str, size_bytes: int, forget: Callable[[], object]) -> None:
        self._room, self.account, self.size_bytes, self._forget = room, account, size_bytes, forget
        self._busy = self._kept = True
        self._given_back = False
        self.answer: Shared[Any] | None = None
        """None before it is begun."""

    def changed(self) -> None:
        """Somebody waits for the answer, or nobody does any more; or it is made, or will not be."""
        if self._given_back:
            return
        busy = self.answer is None or not self.answer.over or self.answer.waiting > 0
        if busy != self._busy:
            self._busy = busy
            self._room.turned(self, busy=busy)
        if not (busy or self._kept):
            self._given_back = True
            self._room.gives_back(self)

    def leave(self) -> None:
        """Its session keeps it no longer."""
        if self._kept:
            self._kept = False
            self.changed()

    def forgotten(self) -> None:
        """It must make way."""
        self._forget()
        self.leave()


class AnswerRoom:
    """Room that all sessions share. Used on one event loop.

    What is made, waited for or read is never forgotten; of that an account gets no more than stays free for others. Who needs more room
    than there is gets it from what is unused: of the account that holds most, the longest unused first.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes, self.forgotten = most_bytes, 0, 0
        self._busy_bytes = 0
        self._accounts: dict[str, _Account] = {}

    def take(self, account: str, size_bytes: int, forget: Callable[[], object]) -> Place:
        """Take the room of another answer.

        Args:
            account: whose.
            size_bytes: most that it may take.
            forget: called when it must make way; its session then keeps it no longer.

        Raises:
            CloudBusyError: too much of it waits to be read.
        """
        mine = self._accounts.get(account) or _Account()
        if mine.busy_bytes + size_bytes > self.most_bytes - self._busy_bytes:
            raise CloudBusyError(
                f"{self._busy_bytes} of at most {self.most_bytes} bytes of answers are made or wait to be read, {mine.busy_bytes} of them this account's, and as many as it holds must stay free for others; read your answers, or raise --max-answer-bytes"
            )
        while self.bytes + size_bytes > self.most_bytes:
            fullest = max((each for each in self._accounts.values() if each.unused), key=lambda each: each.bytes)
            self.forgotten += 1
            next(iter(fullest.unused)).forgotten()
        mine = self._accounts.setdefault(account, mine)  # it may have been the fullest, and emptied
        self.bytes += size_bytes
        mine.bytes += size_bytes
        self._busier(mine, size_bytes)
        return Place(self, account, size_bytes, forget)

    def turned(self, place: Place, *, busy: bool) -> None:
        """A place has become busy, or unused; for places."""
        mine = self._accounts[place.account]
        if busy:
            del mine.unused[place]
        else:
            mine.unused[place] = None
        self._busier(mine, place.size_bytes if busy else -place.size_bytes)

    def gives_back(self, place: Place) -> None:
        """A place that is unused is free again; for places."""
        mine = self._accounts[place.account]
        del mine.unused[place]
        mine.bytes -= place.size_bytes
        self.bytes -= place.size_bytes
        if not mine.bytes:
            del self._accounts[place.account]

    def _busier(self, account: _Account, size_bytes: int) -> None:
        account.busy_bytes += size_bytes
        self._busy_bytes += size_bytes
