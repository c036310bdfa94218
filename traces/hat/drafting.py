"""How long a draft of HAT's is and how much of it stands, as a law with the paper's accept length.

What does not live here: what drafting costs (testbed.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

from scipy.optimize import brentq

from runtime.errors import SettingError
from runtime.settings import shown, whole, within


class Draft(NamedTuple):
    """A draft and its verdict."""

    tokens: int
    """At least one."""
    accepted: int
    """Of them, from the first."""


@dataclass(frozen=True)
class DraftLaw:
    """Each token of a draft is *sure* (its top-1 probability reaches η) or not; the first that is not ends the draft.

    Raises:
        SettingError: a value out of the range that is stated beside it.
    """

    sure_share: float
    """0 to 1. Derived from the paper's accept length (`of`)."""
    sure_accepted: float = 0.8
    """Of sure tokens the share that stands where all before them do, 0 to 1. Ours: a calibrated model, evenly between η = 0.6 and 1."""
    unsure_accepted: float = 0.35
    """Likewise, of those that are not sure. Ours: most of them are not far below η."""
    longest: int = 8
    """Tokens, 1 to 100. Ours."""

    def __post_init__(self) -> None:
        within("sure_share", self.sure_share, 0, 1)
        within("sure_accepted", self.sure_accepted, 0, 1)
        within("unsure_accepted", self.unsure_accepted, 0, 1)
        whole("longest", self.longest, 1, 100)

    @classmethod
    def of(cls, accept_length: float) -> Self:
        """Return the law with that accept length.

        Raises:
            SettingError: none has it.
        """
        low, high = cls(0.0).accept_length, cls(1.0).accept_length
        if not low <= accept_length <= high:
            raise SettingError(f"accept_length={shown(accept_length)} must be a number in {low:.3g}..{high:.3g}")
        return cls(float(brentq(lambda share: cls(share).accept_length - accept_length, 0.0, 1.0)))

    @property
    def accept_length(self) -> float:
        """Tokens a verification on the mean: those of the draft that stand, and the middle's own."""
        first = self.sure_share * self.sure_accepted + (1 - self.sure_share) * self.unsure_accepted
        return 1 + first * sum((self.sure_share * self.sure_accepted) ** n for n in range(self.longest))

    @property
    def mean_tokens(self) -> float:
        """Tokens of a draft on the mean."""
        return sum(self.sure_share**n for n in range(self.longest))

    def draw(self, uniform: Callable[[], float], most: int) -> Draft:
        """Draw a draft of at most so many tokens.

        Args:
            uniform: gives numbers from 0 to 1.
            most: at least 1.
        """
        tokens = accepted = 0
        stands = True
        while tokens < min(most, self.longest):
            sure = uniform() < self.sure_share
            stands &= uniform() < (self.sure_accepted if sure else self.unsure_accepted)
            tokens, accepted = tokens + 1, accepted + stands
            if not sure:
                break
        return Draft(tokens, accepted)
