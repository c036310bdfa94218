"""The knobs that a controller sets at each chunk.

What does not live here: the rule that they parametrise (runtime/rules.py), how an action vector becomes knobs
(synera_env/synera/schema.py) and who chooses them (agents/).
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import SettingError
from runtime.rules import wants_offload

MAX_DRAFT_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Knobs:
    """One setting of the controller; the defaults never offload and run the SLM whole.

    Thresholds and budget apply to the chunk in hand, exit and draft length to the next one, also where that is drafted ahead.
    """

    confidence_threshold: float = 0.0
    """0..1: a chunk whose least confident token is below it is uncertain; at 1 every chunk is."""
    importance_threshold: float = 0.0
    """0..1, a quantile: a chunk whose importance (how likely the LLM rejects a token of it) is at least this is important; at 0
    every chunk is."""
    exit_index: int = -1
    """Which of the SLM's exits is the deepest layer run for a draft token; -1 is the last."""
    exit_margin: float = 1.0
    """0..1: leave at the first exit whose margin (top-1 minus top-2 probability) reaches it; 1 never leaves early."""
    draft_length: int = 4
    """1..8: the most tokens in a chunk."""
    draft_ahead: float = 1.0
    """0..1: while a check is in flight, draft on where the guess of its outcome is at least so probable; 1 never does."""
    offload_budget: float = 0.0
    """0..1: chunk t (from 1) may be offloaded while offloaded + 1 <= ceil(budget * t); 0 never, 1 no limit."""

    def __post_init__(self) -> None:
        for name in ("confidence_threshold", "importance_threshold", "exit_margin", "draft_ahead", "offload_budget"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise SettingError(f"{name}={value} is outside 0..1")
        if not 1 <= self.draft_length <= MAX_DRAFT_LENGTH:
            raise SettingError(f"draft_length={self.draft_length} is outside 1..{MAX_DRAFT_LENGTH}")
        if self.exit_index < -1:
            raise SettingError(f"exit_index={self.exit_index} is below -1 (-1 is the last exit)")

    def wants_offload(self, confidence: float, importance: float, chunk: int, offloaded: int) -> bool:
        """Decide on the chunk in hand, by :func:`runtime.rules.wants_offload`.

        Args:
            confidence: top-1 probability of the chunk's least confident token.
            importance: how likely the LLM rejects a token of the chunk, as a quantile.
            chunk: number of this chunk in the answer, from 1.
            offloaded: chunks offloaded before it.
        """
        return wants_offload(
            confidence=confidence,
            importance=importance,
            chunk=chunk,
            offloaded=offloaded,
            confidence_threshold=self.confidence_threshold,
            importance_threshold=self.importance_threshold,
            budget=self.offload_budget,
        )
