"""Timing and energy profiles of a device and of a cloud, as JSON: what work costs, in one place for both worlds.

The replay charges these costs; a paced live run sleeps up to them. The cost formulas are ours, and functions of plain
numbers, so that compiled code can share them. What does not live here: the measuring (record_profile.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self

from traces.errors import TraceError
from traces.files import write_json


def segment_ms(layers: int, positions: int, layer_ms: float, position_ms: float) -> float:
    """Time of a batch of positions through layers: the first position reads the weights, each further one only computes."""
    return layers * (layer_ms + (positions - 1) * position_ms)


def draft_seconds(call_ms: float, segments_ms: float, heads: int, head_ms: float) -> float:
    """Time of drafting a token: the call, the segments that it runs, and its output heads."""
    return (call_ms + segments_ms + heads * head_ms) / 1e3


def energy_joules(
    busy_watts: float,
    wait_watts: float,
    radio_joules_per_mb: float,
    busy_seconds: float,
    wait_seconds: float,
    radio_bytes: int,
) -> float:
    """Energy above idle of drafting, waiting and sending."""
    return busy_watts * busy_seconds + wait_watts * wait_seconds + radio_joules_per_mb * radio_bytes / 1e6


def forward_seconds(forward_ms: float, token_ms: float, tokens: int) -> float:
    """Time of one batched forward over `tokens` tokens."""
    return (forward_ms + tokens * token_ms) / 1e3


def interpolated_quantile(values: Sequence[float], uniform: float) -> float:
    """Return the value at a quantile in 0..1; `values` are evenly spaced quantiles from 0 to 1, between them it is linear."""
    last = len(values) - 1
    if last == 0 or uniform <= 0.0:
        return values[0]
    if uniform >= 1.0:
        return values[last]
    spacing = 1.0 / last
    below = min(int(uniform * last), last - 1)
    # The product rounds, so the place found may be one off.
    if uniform < below * spacing:
        below -= 1
    elif below + 1 < last and uniform >= (below + 1) * spacing:
        below += 1
    left = below * spacing
    right = (below + 1) * spacing if below + 1 < last else 1.0
    slope = (values[below + 1] - values[below]) / (right - left)
    return slope * (uniform - left) + values[below]


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
            raise TraceError(f"no profile at {path}; measure one with: synera measure-profiles") from None
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise TraceError(f"{path} is not a {cls.__name__}: {error}") from None

    def save(self, path: Path) -> None:
        """Write the profile, whole or not at all."""
        write_json(path, asdict(self))  # type: ignore[call-overload]


def _require_finite(profile: object) -> None:
    for f in fields(profile):  # type: ignore[arg-type]
        value = getattr(profile, f.name)
        numbers = () if f.name in ("name", "source") else value if isinstance(f.default, tuple) else (value,)
        if not all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers):
            raise TraceError(f"{f.name}={value!r} must be a number that is not negative, or a list of such")


@dataclass(frozen=True)
class DeviceProfile(_JsonProfile):
    """A phone (or this machine): time by layers run, and energy."""

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
        ran_ms = 0.0
        for s in segments:
            ran_ms += segment_ms(s.layers, s.positions, self.layer_ms, self.position_ms)
        return draft_seconds(self.call_ms, ran_ms, heads, self.head_ms)

    def joules(self, busy_seconds: float, wait_seconds: float, radio_bytes: int) -> float:
        """Energy of drafting, waiting and sending."""
        powers = (self.busy_watts, self.wait_watts, self.radio_joules_per_mb)
        return energy_joules(*powers, busy_seconds, wait_seconds, radio_bytes)


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
    load_quantiles: tuple[float, ...] = (0.0,)
    """Requests of others that run or wait beside it: evenly spaced quantiles from 0 to 1. A request that waits long meets
    many: its wait and its load are taken at the same quantile, which is ours."""

    def __post_init__(self) -> None:
        _require_finite(self)
        for name in ("queue_ms_quantiles", "load_quantiles"):
            values = getattr(self, name)
            if not values or list(values) != sorted(values):
                raise TraceError(f"{name}={values} must be a rising list")

    def forward_seconds(self, tokens: int) -> float:
        """Time of one forward over `tokens` tokens of any number of requests."""
        return forward_seconds(self.forward_ms, self.token_ms, tokens)

    def queue_seconds(self, uniform: float) -> float:
        """The wait at a quantile in 0..1."""
        return interpolated_quantile(self.queue_ms_quantiles, uniform) / 1e3

    def background_load(self, uniform: float) -> int:
        """Requests of others at a quantile in 0..1."""
        return round(interpolated_quantile(self.load_quantiles, uniform))
