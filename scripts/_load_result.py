"""What a load test finds: the samples that its processes write down, and the figures that are made of them.

What does not live here: who takes the samples (_load_actors.py) and how figures are shown (_load_view.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

BUSY_PROCESS, BUSY_MACHINE = 0.85, 0.95
"""Shares of a core, and of all cores, from which on the load generator's own times are not to be trusted."""
_LATE_MS = 5.0
"""So late may 5 % of the checks be sent; beyond, the load is another than was planned."""


class CheckSample(NamedTuple):
    """An answered check; times are monotonic seconds of this machine, durations in milliseconds are the cloud's."""

    meant_at: float
    """When it was meant to be sent."""
    answered_at: float
    queue_ms: float
    compute_ms: float
    share_ms: float
    processed_tokens: int
    load: int
    draft_tokens: int
    accepted: int


class StreamSample(NamedTuple):
    """A Generate request that was answered to its end."""

    meant_at: float
    first_at: float
    ended_at: float
    tokens: int


@dataclass
class Samples:
    """What one process wrote down in the measured time."""

    checks: list[CheckSample] = field(default_factory=list)
    late_seconds: list[float] = field(default_factory=list)
    """How long after its time each request was sent."""
    open_seconds: list[float] = field(default_factory=list)
    answer_seconds: list[float] = field(default_factory=list)
    """Of whole answers: from when one was meant to begin to its last verdict."""
    streams: list[StreamSample] = field(default_factory=list)
    gaps_seconds: list[float] = field(default_factory=list)
    """Between a stream's tokens."""
    counts: Counter[str] = field(default_factory=Counter)
    """`requests` that were sent; `answers` that came to their end, were `given_up`, or `cut` off by the load's own end; `stream_tokens`, and
    the `prompt_tokens` that they followed;
    sessions `reopened`; actors that still wait when the load is over and are `unanswered`; `checked` and `wrong` verdicts, of the
    warm-up, too."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Requests that a busy verifier refused for now, by status, and whether it said when to try again."""
    errors: Counter[str] = field(default_factory=Counter)
    """Other failures, by status."""
    cpu_seconds: float = 0.0
    """Of the process, in the measured time."""

    @classmethod
    def together(cls, parts: Sequence[Samples]) -> Self:
        """All that several processes wrote down; CPU time is added up."""
        whole = cls()
        for part in parts:
            for name in ("checks", "late_seconds", "open_seconds", "answer_seconds", "streams", "gaps_seconds"):
                getattr(whole, name).extend(getattr(part, name))
            for name in ("counts", "refusals", "errors"):
                getattr(whole, name).update(getattr(part, name))
            whole.cpu_seconds += part.cpu_seconds
        return whole


@dataclass(frozen=True)
class Quantiles:
    """How a quantity is distributed."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: ArrayLike, scale: float = 1.0) -> Quantiles | None:
        """Sum up values, each multiplied by `scale`; None where there are none."""
        array = np.asarray(values, np.float64) * scale
        if not array.size:
            return None
        p50, p95, p99 = np.quantile(array, [0.5, 0.95, 0.99]).tolist()
        return cls(array.size, float(array.mean()), p50, p95, p99, float(array.max()))


@dataclass(frozen=True)
class StreamFigures:
    """What other users had of their Generate requests."""

    requests: int
    ttft_ms: Quantiles | None
    """From when it was meant to be sent to its first token."""
    tbt_ms: Quantiles | None
    """Between tokens."""
    tokens_per_second: float


@dataclass(frozen=True)
class GeneratorFigures:
    """What the load generator itself took."""

    processes: int
    cpu_cores: float
    """CPU time of all its processes over the measured time."""
    busiest_cores: float
    """That of the busiest."""
    cpu_ms_per_request: float | None
    late_ms: Quantiles | None
    """How long after its time a request was sent."""
    warning: str
    """Why the figures are not to be trusted as the verifier's; empty where nothing speaks against them."""


@dataclass(frozen=True)
class LoadResult:
    """Figures of one load. Rates count what was answered within the measured time, latencies what was meant to be sent in it."""

    load: float
    """Devices, or answers a second."""
    open_loop: bool
    seconds: float
    drafts: str
    """Where they came from."""
    checks: int
    checks_per_second: float
    requests_per_second: float
    """Of every kind, sent."""
    verified_tokens_per_second: float
    """Draft tokens that had a verdict."""
    committed_tokens_per_second: float
    """Accepted ones, and the LLM's own after them."""
    processed_tokens_per_second: float
    """That the LLM processed, for checks, and of streams prompts and answers."""
    acceptance: float | None
    """Accepted of the verified tokens."""
    latency_ms: Quantiles | None
    """Of a check: from when it was meant to be sent to its verdict, refusals and waits between them included."""
    queue_ms: Quantiles | None
    """As the verifier answered."""
    compute_ms: Quantiles | None
    """Likewise."""
    other_ms: Quantiles | None
    """The rest of the latency: network, gRPC, the load generator."""
    open_ms: Quantiles | None
    answer_ms: Quantiles | None
    """Of a whole answer that came to its end: from when it was meant to begin to its last verdict."""
    cloud_load: Quantiles | None
    """Requests in the batch and behind it, as answered."""
    batch_tokens: Quantiles | None
    """Tokens of a check's batch: those processed for it over its share of the compute."""
    counts: dict[str, int]
    refusals: dict[str, int]
    errors: dict[str, int]
    streams: StreamFigures | None
    generator: GeneratorFigures
    verifier_cores: float | None
    """CPU time of the verifier's process over the measured time, where it is known."""
    machine_cores: float | None
    """That of everything on this machine."""

    @property
    def verifier_cpu_ms_per_check(self) -> float | None:
        """What a check, and all that went beside it, cost the verifier's process: on a machine that others use, too, this changes
        less than times do.
        """
        if self.verifier_cores is None or not self.checks:
            return None
        return 1e3 * self.verifier_cores * self.seconds / self.checks

    @property
    def wrong(self) -> int:
        """Verdicts that contradict the graph's LLM; must be 0."""
        return self.counts.get("wrong", 0)

    @property
    def checked(self) -> bool:
        """Whether verdicts could be held against anything."""
        return self.counts.get("checked", 0) > 0


@dataclass(frozen=True)
class Measured:
    """The circumstances of samples."""

    load: float
    open_loop: bool
    drafts: str
    began: float
    """Of the measured time, monotonic."""
    seconds: float
    cores: int
    verifier_cores: float | None
    machine_cores: float | None


def sum_up(parts: Sequence[Samples], measured: Measured) -> LoadResult:
    """Make figures of what processes wrote down."""
    whole, seconds = Samples.together(parts), measured.seconds
    ended = measured.began + seconds
    answered = [each for each in whole.checks if measured.began <= each.answered_at < ended]
    table = np.array([each for each in whole.checks if measured.began <= each.meant_at < ended]).reshape(
        -1, len(CheckSample._fields)
    )
    column = {name: table[:, place] for place, name in enumerate(CheckSample._fields)}
    latency = (column["answered_at"] - column["meant_at"]) * 1e3
    shared = column["share_ms"] > 0
    verified = sum(each.draft_tokens for each in answered)
    accepted = sum(each.accepted for each in answered)
    return LoadResult(
        load=measured.load,
        open_loop=measured.open_loop,
        seconds=seconds,
        drafts=measured.drafts,
        checks=len(answered),
        checks_per_second=len(answered) / seconds,
        requests_per_second=whole.counts["requests"] / seconds,
        verified_tokens_per_second=verified / seconds,
        committed_tokens_per_second=(accepted + len(answered)) / seconds,
        processed_tokens_per_second=(
            sum(each.processed_tokens for each in answered) + whole.counts["stream_tokens"] + whole.counts["prompt_tokens"]
        )
        / seconds,
        acceptance=accepted / verified if verified else None,
        latency_ms=Quantiles.of(latency),
        queue_ms=Quantiles.of(column["queue_ms"]),
        compute_ms=Quantiles.of(column["compute_ms"]),
        other_ms=Quantiles.of(latency - column["queue_ms"] - column["compute_ms"]),
        open_ms=Quantiles.of(whole.open_seconds, 1e3),
        answer_ms=Quantiles.of(whole.answer_seconds, 1e3),
        cloud_load=Quantiles.of(column["load"]),
        batch_tokens=Quantiles.of(
            column["processed_tokens"][shared] * column["compute_ms"][shared] / column["share_ms"][shared]
        ),
        counts=dict(whole.counts),
        refusals=dict(whole.refusals),
        errors=dict(whole.errors),
        streams=_streams(whole, seconds) if whole.streams or whole.gaps_seconds else None,
        generator=_generator(parts, whole, measured, Quantiles.of(latency)),
        verifier_cores=measured.verifier_cores,
        machine_cores=measured.machine_cores,
    )


def _streams(whole: Samples, seconds: float) -> StreamFigures:
    return StreamFigures(
        requests=len(whole.streams),
        ttft_ms=Quantiles.of([each.first_at - each.meant_at for each in whole.streams], 1e3),
        tbt_ms=Quantiles.of(whole.gaps_seconds, 1e3),
        tokens_per_second=whole.counts["stream_tokens"] / seconds,
    )


def _generator(parts: Sequence[Samples], whole: Samples, measured: Measured, latency: Quantiles | None) -> GeneratorFigures:
    busiest = max(part.cpu_seconds for part in parts) / measured.seconds
    requests, late = whole.counts["requests"], Quantiles.of(whole.late_seconds, 1e3)
    warnings = []
    if busiest >= BUSY_PROCESS:
        warnings.append(f"its busiest process takes {busiest:.0%} of a core: take more --processes, or another machine")
    if late is not None and late.p95 > max(_LATE_MS, 0.05 * (latency.p50 if latency else 0.0)):
        warnings.append(f"5 % of the requests are sent {late.p95:.1f} ms or more after their time")
    machine, own = measured.machine_cores, whole.cpu_seconds / measured.seconds
    if machine is not None and machine >= BUSY_MACHINE * measured.cores:
        others = (
            ""
            if measured.verifier_cores is None
            else f", {max(0.0, machine - own - measured.verifier_cores):.1f} with other work"
        )
        warnings.append(f"all {measured.cores} cores of this machine are busy{others}: what runs here waits for them")
    return GeneratorFigures(
        processes=len(parts),
        cpu_cores=own,
        busiest_cores=busiest,
        cpu_ms_per_request=1e3 * whole.cpu_seconds / requests if requests else None,
        late_ms=late,
        warning="; ".join(warnings),
    )
