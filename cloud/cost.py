"""What the work for one session or stream cost the cloud, summed up as it is done.

What does not live here: how a batch's time is shared out (the engine's), who is told (sessions.py and measured.py log it, service.py answers it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Done(Protocol):
    """A piece of work that an engine has done: a verdict, or a token of a stream."""

    @property
    def compute_share_ms(self) -> float:
        """Its share of its batch's forward."""
        ...

    @property
    def processed_tokens(self) -> int:
        """Tokens that the LLM processed for it."""
        ...


@dataclass(slots=True)
class Cost:
    """The sum over a session's checks, or a stream's tokens. Work whose result was never made, or was thrown away, is not in it."""

    answers: int = 0
    """Verdicts, or tokens of a stream."""
    compute_ms: float = 0.0
    """Shares of the batches' forwards, all together."""
    processed_tokens: int = 0

    def add(self, done: Done) -> None:
        """Charge a piece of work."""
        self.answers += 1
        self.compute_ms += done.compute_share_ms
        self.processed_tokens += done.processed_tokens

    def told(self) -> dict[str, object]:
        """Return it as fields of an event."""
        seconds = round(self.compute_ms / 1e3, 6)
        return {"answers": self.answers, "processed_tokens": self.processed_tokens, "compute_seconds": seconds}
