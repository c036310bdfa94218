"""Timing and energy profiles of a device and of a cloud, as JSON: what work costs, in one place for both worlds.

The replay charges these costs; a paced live run sleeps up to them. The cost formulas are ours, and functions of plain
numbers, so that compiled code can share them. What does not live here: the measuring (record_profile.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Protocol, Self

from pydantic import FailFast, Field

from runtime.settings import shown
from traces.errors import TraceError
from traces.files import write_json
from traces.schemas import EXACT, Name, Prose, check_fields, read_json

Milliseconds = Annotated[float, Field(ge=0, le=1e6)]
Watts = Annotated[float, Field(ge=0, le=1e4)]
JoulesPerMegabyte = Annotated[float, Field(ge=0, le=1e6)]
Requests = Annotated[float, Field(ge=0, le=1e6)]
_QUANTILES = Field(min_length=1, max_length=10_001)


def segment_ms(layers: float, positions: int, layer_ms: float, position_ms: float) -> float:
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


@dataclass(frozen=True)
class FitError:
    """How well a fitted profile gives back a group of the timings that it was fitted to.

    Raises:
        TraceError: a figure that is out of the range that its type states.
    """

    __pydantic_config__ = EXACT

    group: Name
    """What the timings have in common: which coefficients they tell most of."""
    points: Annotated[int, Field(ge=1)]
    r_squared: Annotated[float, Field(le=1)] | None
    """Share of the timings' variance that the formula explains; below 0 it is worse than their mean. None where they do not vary."""
    mean_relative_error: Annotated[float, Field(ge=0)]
    """Mean of |formula - timing| / timing."""
    p95_relative_error: Annotated[float, Field(ge=0)]

    def __post_init__(self) -> None:
        check_fields(self)

    def __str__(self) -> str:
        explained = "R^2 -" if self.r_squared is None else f"R^2 {self.r_squared:.4f}"
        errors = f"relative error {self.mean_relative_error:.1%} mean, {self.p95_relative_error:.1%} p95"
        return f"{self.group}: {self.points} timings, {explained}, {errors}"


class LayerWork(Protocol):
    """A batch of positions through some layers (`runtime.model.exits.Segment`)."""

    @property
    def layers(self) -> float:
        """Layers run; a part of one counts as that."""
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
            TraceError: the file is missing, or it is not this profile; names the field, its value and what is allowed.
        """
        return read_json(path, cls, f"no profile at {path}; measure one with: synera measure-profiles")

    def save(self, path: Path) -> None:
        """Write the profile, whole or not at all."""
        write_json(path, asdict(self))  # type: ignore[call-overload]


@dataclass(frozen=True)
class DeviceProfile(_JsonProfile):
    """A phone (or this machine): time by layers run, and energy.

    Raises:
        TraceError: a figure that is out of the range that its type states.
    """

    __pydantic_config__ = EXACT

    name: Name
    source: Prose
    """Where the numbers come from."""
    call_ms: Milliseconds
    """Fixed cost of drafting one token."""
    layer_ms: Milliseconds
    """One layer over one position (reading its weights)."""
    position_ms: Milliseconds
    """Each further position of the same batch, by layer (arithmetic only)."""
    head_ms: Milliseconds
    """One final norm, head and choice."""
    busy_watts: Watts = 0.0
    """Above idle, while drafting."""
    wait_watts: Watts = 0.0
    """Above idle, while waiting for the cloud with the radio up."""
    radio_joules_per_mb: JoulesPerMegabyte = 0.0
    fit: tuple[FitError, ...] = ()
    """Of the times, by group; none where they were not fitted."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def has_energy(self) -> bool:
        """Whether it states any energy; without, a reward that weighs energy charges nothing for it."""
        return self.busy_watts > 0 or self.wait_watts > 0 or self.radio_joules_per_mb > 0

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
    """A GPU (or this machine) that verifies: time of one batched forward, and the wait before it.

    Raises:
        TraceError: a figure that is out of the range that its type states, or quantiles that fall.
    """

    __pydantic_config__ = EXACT

    name: Name
    source: Prose
    forward_ms: Milliseconds
    """One forward (reading the weights)."""
    token_ms: Milliseconds
    """Each token in it."""
    queue_ms_quantiles: Annotated[tuple[Milliseconds, ...], _QUANTILES, FailFast()] = (0.0,)
    """Wait of a request before its forward: evenly spaced quantiles from 0 to 1."""
    load_quantiles: Annotated[tuple[Requests, ...], _QUANTILES, FailFast()] = (0.0,)
    """Requests of others that run or wait beside it: evenly spaced quantiles from 0 to 1. A request that waits long meets
    many: its wait and its load are taken at the same quantile, which is ours."""
    fit: tuple[FitError, ...] = ()
    """Of the times, by group; none where they were not fitted."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("queue_ms_quantiles", "load_quantiles"):
            values = getattr(self, name)
            if list(values) != sorted(values):
                raise TraceError(f"{name}={shown(values)} must be a rising list")

    def forward_seconds(self, tokens: int) -> float:
        """Time of one forward over `tokens` tokens of any number of requests."""
        return forward_seconds(self.forward_ms, self.token_ms, tokens)

    def queue_seconds(self, uniform: float) -> float:
        """The wait at a quantile in 0..1."""
        return interpolated_quantile(self.queue_ms_quantiles, uniform) / 1e3

    def background_load(self, uniform: float) -> int:
        """Requests of others at a quantile in 0..1."""
        return round(interpolated_quantile(self.load_quantiles, uniform))
