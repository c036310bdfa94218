"""The generated world: fictional towns and their facts.

What does not live here: what is asked about it (tinyworld.py) and how it is told (answers.py, wording.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from traces.tasks import wording

_TOWNS = 400
_SEED = 7


@dataclass(frozen=True)
class World:
    """The towns and their facts."""

    facts: dict[str, dict[str, str]]
    """town -> attribute -> value."""

    @property
    def towns(self) -> tuple[str, ...]:
        """Town names, in generation order."""
        return tuple(self.facts)


def _names(rng: np.random.Generator, count: int, starts: str, middles: str, ends: str) -> list[str]:
    names = sorted({(a + b + c).capitalize() for a in starts.split() for b in middles.split() for c in ends.split()})
    return [names[i] for i in rng.permutation(len(names))[:count]]


@lru_cache(maxsize=1)
def world() -> World:
    """Return the one bundled world (seeded; the same on every machine)."""
    rng = np.random.default_rng(_SEED)
    towns = _names(
        rng,
        _TOWNS,
        "bel mar tor ves cal dun fen gar hol kes lor nim pel ros sal",
        "a e i o u",
        "mora dale wick stad burn ford ham",
    )
    rivers = _names(rng, 60, "sa vi lo ka mu ne ri to", "r l n s", "n a e ve th")
    pick = rng.choice
    facts = {
        town: {
            "river": str(pick(rivers)),
            "founding": str(rng.integers(1100, 1900)),
            "trade": str(pick(wording.TRADES)),
            "mayor": f"{pick(wording.FIRST)} {pick(wording.LAST)}",
            "neighbour": towns[(i + 1 + int(rng.integers(len(towns) - 1))) % len(towns)],
            "feast": str(pick(wording.FEASTS)),
        }
        for i, town in enumerate(towns)
    }
    return World(facts)
