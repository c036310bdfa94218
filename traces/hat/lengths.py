"""How long SpecBench's prompts are: a law with the paper's mean and 90th percentile, drawn evenly.

What does not live here: the other constants of the testbed (testbed.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import log

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from runtime.settings import above, whole, within

_BLOCK = 60
"""Prompts that are drawn together, one of each equal part of the law."""


@dataclass(frozen=True)
class PromptLengths:
    """Short and long prompts, log-normal each. Two of SpecBench's six categories, of a size, are long: summaries and RAG.

    The means of both kinds follow from the paper's mean and 90th percentile; no single log-normal law has both, as its 90th percentile
    is at most 2.27 times its mean and the paper's is 2.54 times.

    Raises:
        SettingError: a value out of the range that is stated beside it.
    """

    mean_tokens: float = 351.2
    """The paper's; above 1."""
    p90_tokens: float = 891.0
    """The paper's; above the mean."""
    long_share: float = 1 / 3
    """Two of six categories; 0.15 to 0.5."""
    long_spread: float = 0.25
    """Standard deviation of the logarithm, 0.01 to 0.5; ours."""
    short_spread: float = 0.9
    """Likewise, 0.01 to 1; ours."""
    most_tokens: int = 3_968
    """Longer ones are cut: what Vicuna's context of 4,096 leaves beside an answer."""

    def __post_init__(self) -> None:
        above("mean_tokens", self.mean_tokens, 1)
        above("p90_tokens", self.p90_tokens, self.mean_tokens)
        within("long_share", self.long_share, 0.15, 0.5)
        within("long_spread", self.long_spread, 0.01, 0.5)
        within("short_spread", self.short_spread, 0.01, 1)
        whole("most_tokens", self.most_tokens, 1, 100_000)

    @cached_property
    def long_mean(self) -> float:
        """Tokens of a long prompt on the mean: what makes the 90th percentile of all what it is."""

        def surplus(long_mean: float) -> float:
            short = self._below(self.p90_tokens, self._short_mean(long_mean), self.short_spread)
            long = self._below(self.p90_tokens, long_mean, self.long_spread)
            return (1 - self.long_share) * short + self.long_share * long - 0.9

        most = (self.mean_tokens - 1) / self.long_share
        return float(brentq(surplus, self.mean_tokens, most))

    @property
    def short_mean(self) -> float:
        """Tokens of a short prompt on the mean."""
        return self._short_mean(self.long_mean)

    def draws(self, rng: np.random.Generator) -> Iterator[int]:
        """Yield prompts' tokens without end; in each block of 60 each equal part of both kinds occurs once, in random order."""
        longs = round(_BLOCK * self.long_share)
        while True:
            block = []
            for number, mean, spread in (
                (longs, self.long_mean, self.long_spread),
                (_BLOCK - longs, self.short_mean, self.short_spread),
            ):
                quantiles = (np.arange(number) + rng.random(number)) / number
                block.append(mean * np.exp(spread * ndtri(quantiles) - spread**2 / 2))
            tokens = np.clip(np.rint(np.concatenate(block)), 1, self.most_tokens).astype(int)
            rng.shuffle(tokens)
            yield from tokens.tolist()

    def _short_mean(self, long_mean: float) -> float:
        return (self.mean_tokens - self.long_share * long_mean) / (1 - self.long_share)

    @staticmethod
    def _below(tokens: float, mean: float, spread: float) -> float:
        """Share of a log-normal law below so many tokens."""
        return float(ndtr((log(tokens / mean) + spread**2 / 2) / spread))
