"""What a device guesses of a check that is in flight, so that it can draft on meanwhile; the rule is ours.

What does not live here: the drafting on, and what becomes of it once the verdict is known (session.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from runtime.session import Ahead
from runtime.synera.chunk import Draft, DraftToken
from runtime.values import value

BONUS_MARGIN = 0.8
"""A bonus token is only guessed, so it is drafted with this exit margin, if the knobs have a higher one: at the first exit that
is fairly sure of it. In replays of the bundled pair it hits as often as the whole depth does, and the cut in seconds grows by 1 to 2
hundredths of an answer."""
_LEAST_PROBABILITY = 1e-6


@value()
class Guess:
    """How a check may end."""

    accepted: int
    """Draft tokens that the LLM will let stand."""
    correction: int | None
    """Its token after them; None is the bonus after the whole draft, which is guessed by drafting one token more."""
    probability: float
    """That the check ends just so."""


class Agreement:
    """How far the LLM has gone along with the draft's own confidences in an answer.

    A token of confidence c is taken to be accepted with probability c^k: each token is a risk of -ln c, and the LLM rejects k
    times as often as the SLM expects. k has a Gamma(1, 1) prior, and its mean after the tokens judged so far is used:
    (1 + rejections) / (1 + sum of their risks).
    """

    def __init__(self) -> None:
        self._rejections = self._risk = 1.0

    @property
    def exponent(self) -> float:
        """k; 1 before the first verdict."""
        return self._rejections / self._risk

    def saw(self, draft: Draft, accepted: int) -> None:
        """A draft was judged; nothing is learned of the tokens after the first rejected one."""
        self._rejections += accepted < len(draft.tokens)
        self._risk += risk_of([t.confidence for t in draft.tokens], accepted + 1)


GuessRule = Callable[[Draft, Agreement], Guess]
"""Guesses how the check of a draft ends."""


def likeliest(draft: Draft, agreement: Agreement) -> Guess:
    """Guess that all is accepted, or that the least confident token is rejected; whichever is likelier.

    All accepted: the product of the tokens' acceptance probabilities, times their geometric mean for the bonus, which is not
    drafted yet. Rejected at the least confident token: that those before it stand and it does not, times the runner-up's
    share of the SLM's probability outside the token itself.

    Under sampling the rule is the same, and rougher: a token is accepted with min(1, p / q), of which the device knows no p, and
    a drawn token may be the runner-up itself, in which case a rejection is guessed in vain.
    """
    tokens = draft.tokens
    accepted, probability = likeliest_end(agreement.exponent, [t.confidence for t in tokens], [t.margin for t in tokens])
    return Guess(accepted, tokens[accepted].runner_up if accepted < len(tokens) else None, probability)


def likeliest_end(exponent: float, confidences: Sequence[float], margins: Sequence[float]) -> tuple[int, float]:
    """Return how many draft tokens stand by :func:`likeliest`, and how probable that end of the check is.

    Args:
        exponent: of the answer's :class:`Agreement`.
        confidences: of the draft tokens, at least one.
        margins: likewise.
    """
    at, total, before, risked = 0, 0.0, 0.0, 0.0
    for place in range(len(confidences)):
        risk = exponent * token_risk(confidences[place])
        if place == 0 or confidences[place] < confidences[at]:
            at, before, risked = place, total, risk
        total += risk
    whole = math.exp(-total * (1 + 1 / len(confidences)))
    rest = 1.0 - confidences[at]
    share = min(1.0, (confidences[at] - margins[at]) / rest) if rest > _LEAST_PROBABILITY else 0.0
    rejected = math.exp(-before) * -math.expm1(-risked) * share
    return (len(confidences), whole) if whole >= rejected else (at, rejected)


def risk_of(confidences: Sequence[float], most: int) -> float:
    """Return the sum of the risks of the first tokens, at most so many."""
    total = 0.0
    for place in range(min(most, len(confidences))):
        total += token_risk(confidences[place])
    return total


def token_risk(confidence: float) -> float:
    """Return the risk of a token: -ln c."""
    return -math.log(min(1.0, max(confidence, _LEAST_PROBABILITY)))


@dataclass(slots=True)
class AheadRun:
    """What was drafted on from a guess."""

    guess: Guess
    assumed: tuple[int, ...]
    """Tokens after the history that the guess begins with: those it takes for accepted, and its correction."""
    tokens: list[DraftToken | None] = field(default_factory=list)
    """Drafted on from there; None where a replay does not know it. For a guess without a correction the first is the bonus."""
    seconds: list[float] = field(default_factory=list)
    """Device time of each."""

    @property
    def held(self) -> tuple[int | None, ...]:
        """Tokens after the history that the drafter now holds."""
        return (*self.assumed, *(None if t is None else t.token for t in self.tokens))

    @property
    def guessed(self) -> tuple[int | None, ...]:
        """What the check was taken to commit."""
        return self.held[: self.guess.accepted + 1]

    def follows(self, committed: Sequence[int]) -> list[DraftToken]:
        """What the next chunk begins with, given what the check committed: nothing unless the guess was right."""
        if self.guessed != tuple(committed):
            return []
        after = self.tokens[self._after_guess :]
        return [token for token in takewhile(lambda each: each is not None, after) if token is not None]

    def record(
        self, kept: int, committed: Sequence[int], late_seconds: float, wasted_joules: Callable[[float], float]
    ) -> Ahead:
        """Sum it up.

        Args:
            kept: tokens that the next chunk begins with.
            committed: what the check came to.
            late_seconds: the device was still at it so long after the verdict was known.
            wasted_joules: energy of so many seconds of drafting.
        """
        guessed, seconds = self.guessed, sum(self.seconds)
        useful = sum(self.seconds[self._after_guess : self._after_guess + kept])
        return Ahead(
            guess=guessed,
            probability=self.guess.probability,
            hit=guessed == tuple(committed),
            drafted=len(self.tokens),
            kept=kept,
            seconds=seconds,
            saved_seconds=useful - late_seconds,
            wasted_joules=wasted_joules(seconds - useful),
        )

    @property
    def _after_guess(self) -> int:
        """Where the next chunk begins in `tokens`."""
        return self.guess.accepted + 1 - len(self.assumed)
