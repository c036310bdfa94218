"""The interface of an engine: forwards over ragged batches, and caches that roll back.

What does not live here: which requests share a batch (scheduler.py) and what the results mean (verification.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class EngineInfo:
    """What an engine serves."""

    engine: str
    """Its name."""
    model: str
    """Name of the model folder."""
    architecture: str
    fingerprint: str
    """Hash of config and weights."""
    vocab: int
    context_tokens: int
    eos_ids: tuple[int, ...]


class Cache(Protocol):
    """Keys and values of one sequence; only the engine that made it looks inside."""

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's part of a forward."""

    cache: Any
    """A Cache of this engine; the new positions are appended to it."""
    position: int
    """Positions that the cache holds: where the tokens go."""
    tokens: Sequence[int]
    """Token ids, at least one."""
    wanted: int
    """How many of the last positions need a choice, 1..len(tokens)."""


class Engine(Protocol):
    """Runs the LLM; called by one thread."""

    @property
    def info(self) -> EngineInfo:
        """What is served."""
        ...

    def new_cache(self) -> Cache:
        """Return an empty cache."""
        ...

    def forward(self, batch: Sequence[Work]) -> list[list[int]]:
        """Run one forward over a ragged batch.

        Returns:
            For each work the argmax ids after its last `wanted` positions, in order.
        """
        ...
