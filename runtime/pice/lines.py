"""The lines of a sketch: cut from a text that is still being written, and put together to parts that one worker expands.

What does not live here: what a line looks like (form.py) and who expands it (workers.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.settings import whole


@dataclass(frozen=True)
class Line:
    """A point of a sketch."""

    text: str
    """What it says, without what marks it as a line."""
    heading: str = ""
    """What it stands under, such as a town; empty where nothing."""


class Lines:
    """Cuts a growing text into lines, each as soon as it is whole."""

    def __init__(self, end: re.Pattern[str], heading: re.Pattern[str] | None, mark: re.Pattern[str] | None) -> None:
        """Begin.

        Args:
            end: what a line ends with.
            heading: what a line may begin with that those after it stand under, too; its first group is the heading.
            mark: what a line may begin with that says nothing, such as a dash.
        """
        self._end, self._heading, self._mark = end, heading, mark
        self._read, self._under = 0, ""

    def read(self, text: str, over: bool = False) -> list[Line]:
        """Return the lines that became whole.

        Args:
            text: all of it so far; what was whole must not change any more.
            over: nothing follows.
        """
        found = list[Line]()
        while match := self._end.search(text, self._read):
            found += self._line(text[self._read : match.start()])
            self._read = match.end()
        if over:
            found += self._line(text[self._read :])
            self._read = len(text)
        return found

    def _line(self, text: str) -> list[Line]:
        text = text.strip()
        if self._mark is not None and (match := self._mark.match(text)):
            text = text[match.end() :].strip()
        if self._heading is not None and (match := self._heading.match(text)):
            self._under, text = match[1], text[match.end() :].strip()
        return [Line(text, self._under)] if text else []


@dataclass(frozen=True)
class Part:
    """Neighbouring lines that are expanded together."""

    number: int
    """Its place in the answer, from 0."""
    lines: tuple[Line, ...]


class Parts:
    """Puts lines together as they come, so that no more parts than wanted are expanded side by side."""

    def __init__(self, parts: int, expected_lines: int) -> None:
        """Begin.

        Args:
            parts: wanted at most, at least 1. Where a sketch has more lines than expected, there are more.
            expected_lines: of the sketch, at least 1.

        Raises:
            SettingError: a number is out of its range.
        """
        whole("parts", parts, 1, 1_000)
        whole("expected_lines", expected_lines, 1, 1_000_000)
        self._size = -(-expected_lines // parts)
        self._waiting: list[Line] = []
        self._made = 0

    def add(self, lines: Sequence[Line], over: bool = False) -> list[Part]:
        """Return the parts that became whole.

        Args:
            lines: that follow those before.
            over: none follow.
        """
        self._waiting += lines
        found = list[Part]()
        while len(self._waiting) >= self._size or (over and self._waiting):
            found.append(Part(self._made, tuple(self._waiting[: self._size])))
            self._made, self._waiting = self._made + 1, self._waiting[self._size :]
        return found
