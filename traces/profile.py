"""Timing and energy profiles of a device and of a cloud, as JSON: what work costs, in one place for both worlds.

The replay charges these costs; a paced live run sleeps up to them. What does not live here: the measuring (measure.py).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from traces.errors import TraceError


class LayerWork(Protocol):
    """A batch of positions through some layers (`runtime.model.exits.Segment`)."""

    @property
    def layers(self) -> int:
        """Layers run."""
        ...

    @property
    def positions(self) -> int:
        """Positions in the batch."""
        ...


class _JsonProfile:
    """Reading and writing, shared by both profiles."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a profile.

        Raises:
            TraceError: the file is missing, or its fields are not this profile's.
        """
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        try:
            stated: dict[str, Any] = json.loads(Path(path).read_text())
            if unknown := set(stated) - known:
                raise TraceError(f"unknown fields {sorted(unknown)}; a {cls.__name__} has {sorted(known)}")
            return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in stated.items()})
        except TraceError as error:
            raise TraceError(f"{path}: {error}") from None
        except FileNotFoundError:
            raise TraceError(f"no profile at {path}; measure one with scripts/measure_profiles.py") from None
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise TraceError(f"{path} is not a {cls.__name__}: {error}") from None

    def save(self, path: Path) -> None:
        """Write the profile, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=2) + "\n")  # type: ignore[call-overload]
        os.replace(part, path)


def _require_finite(profile: object) -> None:
    for f in fields(profile):  # type: ignore[arg-type]
        value = getattr(profile, f.name)
        numbers = () if f.name in ("name", "source") else value if isinstance(f.default, tuple) else (value,)
        if not all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers):
            raise TraceError(f"{f.name}={value!r} must be a number that is not negative, or a list of such")


@dataclass(frozen=True)
class DeviceProfile(_JsonProfile):
    """A phone (or this machine): time by layers run, and energy. The cost formulas are ours."""

    name: str
    source: str
    """Where the numbers come from."""
    call_ms: float
    """Fixed cost of drafting one token."""
    layer_ms: float
    """One layer over one position (reading its weights)."""
    position_ms: float
    """Each further position of the same batch, by layer (arithmetic only)."""
    head_ms: float
    """One final norm, head and choice."""
    busy_watts: float = 0.0
    """Above idle, while drafting."""
    wait_watts: float = 0.0
    """Above idle, while waiting for the cloud with the radio up."""
    radio_joules_per_mb: float = 0.0

    def __post_init__(self) -> None:
        _require_finite(self)

    def draft_seconds(self, segments: Sequence[LayerWork], heads: int) -> float:
        """Time to run batches of positions through layers, and `heads` output heads, for one draft token."""
        layers = sum(s.layers * (self.layer_ms + (s.positions - 1) * self.position_ms) for s in segments)
        return (self.call_ms + layers + heads * self.head_ms) / 1e3

    def joules(self, busy_seconds: float, wait_seconds: float, radio_bytes: int) -> float:
        """Energy of drafting, waiting and sending."""
        return self.busy_watts * busy_seconds + self.wait_watts * wait_seconds + self.radio_joules_per_mb * radio_bytes / 1e6


@dataclass(frozen=True)
class CloudProfile(_JsonProfile):
    """A GPU (or this machine) that verifies: time of one batched forward, and the wait before it."""

    name: str
    source: str
    forward_ms: float
    """One forward (reading the weights)."""
    token_ms: float
    """Each token in it."""
    queue_ms_quantiles: tuple[float, ...] = (0.0,)
    """Wait of a request before its forward: evenly spaced quantiles from 0 to 1."""

    def __post_init__(self) -> None:
        _require_finite(self)
        if not self.queue_ms_quantiles or list(self.queue_ms_quantiles) != sorted(self.queue_ms_quantiles):
            raise TraceError(f"queue_ms_quantiles={self.queue_ms_quantiles} must be a rising list")

    def forward_seconds(self, tokens: int) -> float:
        """Time of one forward over `tokens` tokens of any number of requests."""
        return (self.forward_ms + tokens * self.token_ms) / 1e3

    def queue_seconds(self, uniform: float) -> float:
        """The wait at a quantile in 0..1."""
        points = np.linspace(0, 1, len(self.queue_ms_quantiles))
        return float(np.interp(uniform, points, self.queue_ms_quantiles)) / 1e3
