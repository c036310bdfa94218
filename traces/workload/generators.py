"""Workloads that are made up: requests of many who know nothing of each other, and of a few who wait for their answers.

What does not live here: the workload itself (trace.py), and the cloud that a user waits for (serving.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.settings import above, within
from traces.workload.serving import Server
from traces.workload.trace import LONGEST_SECONDS, MOST_REQUESTS, MOST_TOKENS, Workload


@dataclass(frozen=True)
class Lengths:
    """Tokens of requests: log-normal around medians, rounded up to a token.

    The defaults have the medians and the 95th percentiles of the Azure LLM inference trace `conv` of 2023 (1020 and 4083 read, 129
    and 451 answered); that its lengths are log-normal is ours.

    Raises:
        SettingError: a value out of the range that is stated beside it.
    """

    context: float = 1020.0
    """Median, 1 to 1e5."""
    context_spread: float = 0.843
    """Standard deviation of the logarithm, 0 to 2: ln(p95 / p50) / 1.645."""
    generated: float = 129.0
    generated_spread: float = 0.761

    def __post_init__(self) -> None:
        for name in ("context", "generated"):
            within(name, getattr(self, name), 1.0, 1e5)
            within(f"{name}_spread", getattr(self, f"{name}_spread"), 0.0, 2.0)

    def draw(self, rng: np.random.Generator, requests: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw those read and those answered, [requests] each."""
        noise = rng.standard_normal((requests, 2))
        medians, spreads = np.array([self.context, self.generated]), np.array([self.context_spread, self.generated_spread])
        tokens = np.clip(np.ceil(medians * np.exp(spreads * noise)), 1, MOST_TOKENS).astype(np.int64)
        return tokens[:, 0], tokens[:, 1]

    def __str__(self) -> str:
        read, answered = f"{self.context:g} (spread {self.context_spread:g})", f"{self.generated:g} ({self.generated_spread:g})"
        return f"log-normal lengths of median {read} and {answered}"


def poisson(rate: float, seconds: float = 600.0, seed: int = 0, lengths: Lengths | None = None) -> Workload:
    """Requests that know nothing of each other: exponential times between them.

    Args:
        rate: requests a second, on the mean.
        seconds: the period.
        seed: makes the workload; the same seed, the same workload.
        lengths: of the requests.

    Raises:
        SettingError: an argument out of its range, or more requests than make sense.
        TraceError: no request came in so many seconds.
    """
    above("rate", rate, 0.0)
    _check(seconds, seed)
    within("rate times seconds", rate * seconds, 0.0, MOST_REQUESTS / 2)
    rng, lengths = np.random.default_rng([seed, 3]), lengths or Lengths()
    # Of a Poisson process in a given time the number is Poisson's, and the times are uniform.
    arrival = np.sort(rng.random(int(rng.poisson(rate * seconds)))) * seconds
    source = f"Generated: Poisson arrivals at {rate:g} requests/s, {lengths}, seed {seed}."
    return Workload(f"poisson-{rate:g}", source, seconds, arrival, *lengths.draw(rng, len(arrival)))


def closed_loop(
    users: int, think_seconds: float, server: Server, seconds: float = 600.0, seed: int = 0, lengths: Lengths | None = None
) -> Workload:
    """Requests of users who each wait for an answer, think (exponentially), and ask again.

    How long an answer takes is what the given server takes for it, with all the others beside it; so a workload of more users
    than it can serve settles at what it can. One whom it turns away thinks and asks again.

    Args:
        users: how many, 1 to 1e5.
        think_seconds: mean time between an answer's end and the next request, above 0.
        server: idle; it is used up.
        seconds: the period.
        seed: makes the workload; the same seed and server, the same workload.
        lengths: of the requests.

    Raises:
        SettingError: an argument out of its range.
        TraceError: no request came in so many seconds.
    """
    if not isinstance(users, int) or isinstance(users, bool) or not 1 <= users <= 100_000:
        raise SettingError(f"users={users!r} must be an integer in 1..100000")
    above("think_seconds", think_seconds, 0.0)
    _check(seconds, seed)
    rng, lengths = np.random.default_rng([seed, 4]), lengths or Lengths()
    asked: list[tuple[float, int, int]] = []

    def ask(at: float) -> tuple[float, int, int] | None:
        """The next request of somebody whose last one was over then."""
        at += float(rng.exponential(think_seconds))
        [context], [generated] = lengths.draw(rng, 1)
        return (at, int(context), int(generated)) if at < seconds else None

    waiting = [first for _ in range(users) if (first := ask(0.0)) is not None]
    for request in server.serve(waiting, ask):
        asked.append(request)
        if len(asked) > MOST_REQUESTS:
            raise SettingError(f"users={users} ask more than {MOST_REQUESTS} times in {seconds:g} s; take fewer, or less time")
    arrival, context, generated = (np.array(series) for series in zip(*asked, strict=True)) if asked else (np.empty(0),) * 3
    source = (
        f"Generated: {users} users who think for {think_seconds:g} s on the mean between an answer of {server.name!r} and the next "
        f"request, {lengths}, seed {seed}."
    )
    return Workload(f"closed-loop-{users}", source, seconds, arrival, context.astype(np.int64), generated.astype(np.int64))


def _check(seconds: float, seed: int) -> None:
    above("seconds", seconds, 0.0)
    within("seconds", seconds, 0.0, LONGEST_SECONDS)
    within("seed", seed, 0)
