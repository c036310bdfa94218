"""The answer put together from parts that come in any order, some of them twice: text leaves in order, each part once.

What does not live here: who writes parts (workers.py) and which of several candidates is taken (ensemble.py).
"""

from __future__ import annotations

from runtime.settings import whole


class Assembly:
    """Parts of one answer."""

    def __init__(self, joint: str = " ") -> None:
        """Begin with no part.

        Args:
            joint: what stands between parts.
        """
        self._joint = joint
        self._parts: dict[int, str] = {}
        self._told = 0
        self._any = False

    def add(self, number: int, text: str) -> str:
        """Take a part; return what can be told now, which may be nothing. A part that was taken before is dropped.

        Args:
            number: of the part, from 0.
            text: all of it; an empty one takes no joint.

        Raises:
            SettingError: the number is out of its range.
        """
        whole("number", number, 0, 1_000_000)
        if number < self._told or number in self._parts:
            return ""
        self._parts[number] = text.strip()
        said = ""
        while self._told in self._parts:
            if part := self._parts.pop(self._told):
                said += f"{self._joint if self._any else ''}{part}"
                self._any = True
            self._told += 1
        return said

    @property
    def told(self) -> int:
        """Parts that were told, all before the first that is missing."""
        return self._told
