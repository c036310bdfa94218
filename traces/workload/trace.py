"""Workloads: when requests reach a cloud, how many tokens each brings, and how many it is answered with.

What does not live here: files (store.py, readers.py), made-up ones (generators.py), what they do to a cloud (serving.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from runtime.settings import above, shown, whole, within
from traces.errors import TraceError

MOST_REQUESTS = 5_000_000
MOST_TOKENS = 10_000_000
"""Of a request, read or answered."""
LONGEST_SECONDS = 3.2e7
"""About a year."""
SERIES = ("arrival_seconds", "context_tokens", "generated_tokens")


@dataclass(frozen=True)
class Spread:
    """How many tokens requests have."""

    mean: float
    p50: float
    p95: float
    most: float

    @classmethod
    def of(cls, tokens: NDArray[np.int64]) -> Self:
        """Sum up a series."""
        p50, p95 = np.quantile(tokens, [0.5, 0.95])
        return cls(float(tokens.mean()), float(p50), float(p95), float(tokens.max()))


@dataclass(frozen=True)
class WorkloadFigures:
    """What a workload amounts to."""

    requests: int
    span_seconds: float
    """From the first arrival to the last."""
    rate: float
    """Requests a second, over its period."""
    gap_cv: float
    """Standard deviation of the times between arrivals over their mean: 1 for Poisson, more for bursts; NaN below two gaps."""
    context: Spread
    generated: Spread


@dataclass(frozen=True)
class Workload:
    """Requests in order of arrival; they repeat from the start when the period's end is reached.

    Raises:
        TraceError: a value that is out of the range stated beside it.
    """

    name: str
    """1 to 200 characters."""
    source: str
    """Where it comes from, and every rule that was applied to it; up to 2000 characters."""
    seconds: float
    """Its period, above 0; no arrival is later. Sources say when the last request came, not when the trace ended: readers
    let a mean gap follow it, which is ours."""
    arrival_seconds: NDArray[np.float64]
    """[requests], from 0, never falling; 1 to 5e6 of them."""
    context_tokens: NDArray[np.int64]
    """[requests], tokens that the request brings, 0 to 1e7."""
    generated_tokens: NDArray[np.int64]
    """[requests], tokens that it is answered with, likewise."""

    def __post_init__(self) -> None:
        for text, most in ((self.name, 200), (self.source, 2000)):
            if not isinstance(text, str) or not 1 <= len(text) <= most:
                raise TraceError(f"a workload's name and source must have 1 to 200 and 2000 characters, not {shown(text)}")
        for name in SERIES:
            object.__setattr__(self, name, self._series(name))
        lengths = {len(getattr(self, name)) for name in SERIES}
        if len(lengths) != 1:
            raise self._wrong(f"its three series have lengths {sorted(lengths)}; they must be equal")
        number = isinstance(self.seconds, int | float) and not isinstance(self.seconds, bool)
        if not number or not 0 < self.seconds <= LONGEST_SECONDS:
            raise self._wrong(f"seconds={shown(self.seconds)} must be a number above 0, at most {LONGEST_SECONDS:g}")
        self._require("arrival_seconds", self.arrival_seconds >= 0, "at least 0")
        self._require("arrival_seconds", self.arrival_seconds <= self.seconds, f"at most the period, {self.seconds:g} s")
        self._require("arrival_seconds", np.diff(self.arrival_seconds, prepend=0.0) >= 0, "at least the one before it")
        for name in SERIES[1:]:
            tokens = getattr(self, name)
            self._require(name, (tokens >= 0) & (tokens <= MOST_TOKENS), f"in 0..{MOST_TOKENS}")

    def __len__(self) -> int:
        return len(self.arrival_seconds)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self) / self.seconds

    @property
    def figures(self) -> WorkloadFigures:
        """What it amounts to."""
        gaps = np.diff(self.arrival_seconds)
        mean = float(gaps.mean()) if len(gaps) > 1 else 0.0
        cv = float(gaps.std() / mean) if mean > 0 else float("nan")
        span = float(self.arrival_seconds[-1] - self.arrival_seconds[0])
        return WorkloadFigures(len(self), span, self.rate, cv, Spread.of(self.context_tokens), Spread.of(self.generated_tokens))

    def same(self, other: Workload) -> bool:
        """Whether another has the same requests and period."""
        series = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in SERIES)
        return series and self.seconds == other.seconds

    # ------------------------------------------------------------ other rates, other sizes

    def thinned(self, rate: float, seed: int = 0) -> Workload:
        """Keep each request with the same probability, so that `rate` a second are left on the mean.

        Bursts longer than the new gaps, and the time of day, stay; times between single requests come nearer to Poisson's.
        It is what a device sees that shares a part of a service.

        Raises:
            SettingError: `rate` is not above 0, or above the workload's own.
            TraceError: none is left.
        """
        above("rate", rate, 0.0)
        within("rate", rate, 0.0, self.rate)
        kept = np.random.default_rng([seed, 2]).random(len(self)) < rate / self.rate
        if not kept.any():
            raise self._wrong(f"no request is left at {rate:g} a second; take a higher rate")
        return self._taken(kept, f"Thinned at random from {self.rate:.4g} to {rate:.4g} requests/s, seed {seed}.")

    def rescaled(self, rate: float) -> Workload:
        """Stretch or squeeze time so that `rate` requests a second are left: each gap keeps its ratio to the mean gap.

        Raises:
            SettingError: `rate` is not above 0.
        """
        above("rate", rate, 0.0)
        factor = self.rate / rate
        said = f"Time multiplied by {factor:.4g}, from {self.rate:.4g} to {rate:.4g} requests/s."
        # A product may end an ulp behind the period.
        seconds = self.seconds * factor
        return self._with(said, seconds=seconds, arrival_seconds=np.minimum(self.arrival_seconds * factor, seconds))

    def at_rate(self, rate: float, seed: int = 0) -> Workload:
        """The same at another rate: thinned where that is lower, squeezed in time where it is higher. The rule is ours."""
        return self.thinned(rate, seed) if rate < self.rate else self.rescaled(rate)

    def shrunk(self, most_context: int, most_generated: int) -> Workload:
        """Multiply lengths by one factor each, so that no request is longer than asked; none becomes shorter than a token.

        For a machine or a model that is too small for them; lengths keep their ratios to each other, but for rounding.
        """
        whole("most_context", most_context, 1, MOST_TOKENS)
        whole("most_generated", most_generated, 1, MOST_TOKENS)
        series, said = {}, []
        for name, most in (("context_tokens", most_context), ("generated_tokens", most_generated)):
            tokens = getattr(self, name)
            factor = min(1.0, most / max(1, int(tokens.max())))
            series[name] = np.maximum(1, np.floor(tokens * factor)).astype(np.int64)
            said.append(f"{name} multiplied by {factor:.4g}")
        return self._with(f"{', '.join(said)}.", **series)

    def first(self, seconds: float) -> Workload:
        """The requests of its first so many seconds.

        Raises:
            SettingError: `seconds` is not above 0.
            TraceError: none came by then.
        """
        above("seconds", seconds, 0.0)
        if seconds >= self.seconds:
            return self
        kept = self.arrival_seconds < seconds
        if not kept.any():
            raise self._wrong(f"its first request comes after {seconds:g} s; take more seconds")
        return replace(self._taken(kept, f"First {seconds:g} s."), seconds=seconds)

    def _taken(self, kept: NDArray[np.bool_], said: str) -> Workload:
        return self._with(said, **{name: getattr(self, name)[kept] for name in SERIES})

    def _with(self, said: str, **changes: object) -> Workload:
        """A copy whose source tells what was done, as much as has room."""
        return replace(self, source=f"{self.source} {said}"[:2000], **changes)  # type: ignore[arg-type]

    # ------------------------------------------------------------ checks

    def _wrong(self, reason: str) -> TraceError:
        return TraceError(f"workload {shown(self.name)}: {reason}")

    def _series(self, name: str) -> NDArray[np.float64] | NDArray[np.int64]:
        """Return a series as an array; its length is looked at before its values."""
        given = getattr(self, name)
        array = np.asarray(given) if isinstance(given, np.ndarray | list | tuple) else np.empty((0, 0))
        if array.ndim != 1 or not 1 <= len(array) <= MOST_REQUESTS:
            raise self._wrong(f"{name} must be a series of 1 to {MOST_REQUESTS} requests")
        real = name == "arrival_seconds"
        if array.dtype.kind not in ("fiu" if real else "iu"):
            raise self._wrong(f"{name} must be a series of {'numbers' if real else 'whole numbers'}")
        return array.astype(np.float64, copy=False) if real else array.astype(np.int64, copy=False)

    def _require(self, name: str, right: NDArray[np.bool_], allowed: str) -> None:
        if not right.all():
            place = int(np.argmin(right))
            raise self._wrong(f"{name}={getattr(self, name)[place].item()!r} of request {place + 1} must be {allowed}")


def plain_figures(workload: Workload) -> dict[str, object]:
    """The figures as plain values, for JSON."""
    return asdict(workload.figures)
