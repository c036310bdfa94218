"""Values: dataclasses that are made by the dozen in each step of an answer, and that nobody changes.

What does not live here: settings, tables and what systems add fields to, which are frozen dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

_Kind = TypeVar("_Kind")


@dataclass_transform(frozen_default=True)
def value(*, eq: bool = True) -> Callable[[type[_Kind]], type[_Kind]]:
    """Make a class a dataclass with slots; type checkers take it for a frozen one, and refuse what would change it.

    A frozen one also refuses it when it runs, for which it sets each field by a call: it takes three times as long to make, and
    a replayed step makes some thirty.
    """
    return dataclass(eq=eq, slots=True)
