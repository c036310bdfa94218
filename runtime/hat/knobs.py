"""The knobs of HAT that a controller sets before each upload.

What does not live here: the loop that they rule (session.py), the paper's rules for them (rules.py) and how an action vector becomes
knobs (synera_env/hat/schema.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import SettingError
from runtime.wire.sizes import PRECISIONS

MAX_DRAFT_LENGTH = 8
MAX_CANDIDATES = 4
LEAST_DOUBLINGS, MOST_DOUBLINGS = 3.0, 9.0


@dataclass(frozen=True, slots=True)
class Knobs:
    """One setting of the controller; the defaults are a plain U shape: the prompt in one piece, then a token at a time."""

    chunk_doublings: float = MOST_DOUBLINGS
    """3..9: of the prompt the next 2 to the power of this many tokens go as one chunk, so 8 to 512."""
    draft_threshold: float = 0.6
    """0..1: a draft ends with the first token whose top-1 probability is below it (eta); at 1 with its first."""
    draft_length: int = 0
    """0..8: the most tokens of a draft; 0 sends the last token alone."""
    candidates: int = 0
    """0..4: while a draft is away, draft on from so many candidates of its last token; 0 waits."""
    precision: int = 0
    """0..2: fp32, bf16, int8, of the states that travel. The first decision of an answer fixes it: the states that the cloud holds
    are those that it read."""

    def __post_init__(self) -> None:
        if not LEAST_DOUBLINGS <= self.chunk_doublings <= MOST_DOUBLINGS:
            raise SettingError(f"chunk_doublings={self.chunk_doublings} is outside {LEAST_DOUBLINGS:g}..{MOST_DOUBLINGS:g}")
        if not 0.0 <= self.draft_threshold <= 1.0:
            raise SettingError(f"draft_threshold={self.draft_threshold} is outside 0..1")
        for name, most in (
            ("draft_length", MAX_DRAFT_LENGTH),
            ("candidates", MAX_CANDIDATES),
            ("precision", len(PRECISIONS) - 1),
        ):
            if not 0 <= getattr(self, name) <= most:
                raise SettingError(f"{name}={getattr(self, name)} is outside 0..{most}")

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk of the prompt."""
        return round(2.0**self.chunk_doublings)

    @property
    def precision_name(self) -> str:
        """One of `runtime.wire.sizes.PRECISIONS`."""
        return PRECISIONS[self.precision]
