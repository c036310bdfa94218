"""What a forward takes by how many tokens are in it, as its last ones showed: HAT's g(tokens) = forward + token * tokens. Pure.

What does not live here: the forwards (engine/), the telling (forward.py) and who plans chunks by it (a device).
"""

from __future__ import annotations

from dataclasses import dataclass

from cloud.engine.base import Iteration
from cloud.engine.embedded.pace import Pace

LEVEL_HISTORY = 0.8
"""Weight of what was known of the level at each forward, as HAT's moving averages have it."""
SLOPE_HISTORY = 0.95
"""That of the slope. It needs forwards of several sizes: with 0.8 it would be drawn through the last five alone, whatever their sizes."""
_NEAR_TOKENS = 8.0
"""Sizes that differ by less than about so many tokens tell little of the slope: most of what they say is noise."""
_FEW_TOKENS, _MANY_TOKENS = 1, 512


@dataclass(frozen=True, slots=True)
class Estimate:
    """Duration of a forward: `forward_ms + token_ms * tokens`. Neither is negative; both are zero while nothing is known."""

    forward_ms: float = 0.0
    token_ms: float = 0.0

    def milliseconds(self, tokens: float) -> float:
        """Duration of a forward over so many tokens."""
        return self.forward_ms + self.token_ms * tokens


class Monitor:
    """Fits g online. `iterated` is called by one thread; `estimate` may be read by any.

    The slope is that of weighted least squares over all forwards, each of which weighs `SLOPE_HISTORY` as much as the one after it. It
    is taken over as far as the sizes in there spread: of a spread s a share s^2 / (s^2 + 8^2), so that forwards of one size leave
    it as it is. The level is the moving average of what the slope leaves unexplained. No forward takes less than nothing: a
    slope is at least zero, and at most what leaves the level zero at the average size.
    """

    def __init__(self, prior: Estimate | None = None) -> None:
        """Begin.

        Args:
            prior: what holds until a forward was seen; None is that nothing is known.
        """
        self.estimate = prior or Estimate()
        self._weight = self._tokens = self._ms = 0.0  # of all forwards, and their weighted means
        self._spread = self._together = 0.0  # weighted means of squares and products of what differs from those

    def iterated(self, forward: Iteration) -> None:
        """Take note of a forward; a watcher of an engine."""
        self.observe(forward.verify_tokens + forward.prefill_tokens + forward.decode_tokens, forward.seconds * 1e3)

    def observe(self, tokens: int, took_ms: float) -> None:
        """Take note of a forward over so many tokens."""
        first = not self._weight
        self._weight = SLOPE_HISTORY * self._weight + 1.0
        share = 1.0 / self._weight  # of this forward
        off_tokens, off_ms = tokens - self._tokens, took_ms - self._ms
        self._tokens += share * off_tokens
        self._ms += share * off_ms
        self._spread = (1 - share) * (self._spread + share * off_tokens * off_tokens)
        self._together = (1 - share) * (self._together + share * off_tokens * off_ms)
        near = _NEAR_TOKENS**2
        slope = (self._together + near * self.estimate.token_ms) / (self._spread + near)
        slope = min(max(slope, 0.0), self._ms / self._tokens if self._tokens > 0 else 0.0)
        # The level that the new slope would have had: what was known at the average size stays.
        known = took_ms - slope * tokens if first else self.estimate.milliseconds(self._tokens) - slope * self._tokens
        level = LEVEL_HISTORY * known + (1 - LEVEL_HISTORY) * (took_ms - slope * tokens)
        self.estimate = Estimate(max(level, 0.0), slope)


def of_pace(pace: Pace | None) -> Estimate:
    """What an emulated machine says of itself; nothing where none is emulated."""
    if pace is None:
        return Estimate()
    few, many = (pace.forward_seconds(tokens) * 1e3 for tokens in (_FEW_TOKENS, _MANY_TOKENS))
    token_ms = max(0.0, (many - few) / (_MANY_TOKENS - _FEW_TOKENS))
    return Estimate(max(0.0, few - token_ms * _FEW_TOKENS), token_ms)
