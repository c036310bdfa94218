"""Chance without state: every draw of an answer is a pure function of the answer's seed, what it is for, and its number.

So nothing that is drawn depends on what was drawn before it, and compiled code, which shares these sources, draws the same.
What does not live here: what is drawn (episode.py, radio.py, reward.py), and where the seeds come from (base.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

PROMPT, LINK, OFFSET, WEIGHT, OUTAGE, BLIP, BUSY = range(1, 8)
"""What a draw is for. Of OUTAGE and BLIP, number 0 says whether the answer starts within one; the others are stays, in order.
Of BUSY, the number is that of the check, and 0 says from which time of a workload on."""
_WORD = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15


def uniform(seed: int, purpose: int, number: int) -> float:
    """Return a uniform in [0, 1), of 53 bits: the hash of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
    generators, 2014) over seed and purpose, then over that and the number.

    Args:
        seed: of the answer, 0..2^64 - 1.
        purpose: what it is for.
        number: which of these draws, from 0. In compiled code all three are uint64.
    """
    return (_mixed((_mixed((seed + _STEP * purpose) & _WORD) + _STEP * number) & _WORD) >> 11) * 2.0**-53


def uniforms(seed: int, purpose: int) -> Iterator[float]:
    """Yield :func:`uniform` of each number, from 0 on."""
    state = _mixed((seed + _STEP * purpose) & _WORD)
    while True:
        yield (_mixed(state) >> 11) * 2.0**-53
        state = (state + _STEP) & _WORD


def _mixed(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def choice(uniform: float, count: int) -> int:
    """Return one of 0..count - 1."""
    return min(int(uniform * count), count - 1)


def exponential(uniform: float, mean: float) -> float:
    """Return an exponential time, at least 0, by the inverse of its distribution."""
    return -mean * math.log1p(-uniform)
