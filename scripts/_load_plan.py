"""What a load test drives and with what: the verifier's addresses, and the plan of devices, arrivals and streams.

What does not live here: what an answer asks for (_load_answers.py), who asks (_load_actors.py), and the driving (_load.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.settings import whole, within
from runtime.synera.knobs import Knobs
from runtime.wire.address import Address
from traces import bundled
from traces.workload.trace import Workload

MOST_DEVICES, MOST_PROCESSES, MOST_CONNECTIONS = 4096, 64, 256
LONGEST_SECONDS = 3600.0
_DEVICES_PER_CONNECTION = 16
"""Below what servers allow at a time on a connection, as calls beyond that wait unseen. One connection each would cost twice the CPU."""
GRAPHS = bundled.graphs("train")
"""Walked by default: of the bundled ones those with most prompts, as answers to few are no load for who shares their beginnings."""
ALWAYS = Knobs(confidence_threshold=1.0, offload_budget=1.0)
"""Every chunk goes to the cloud."""
SHORT_PROMPTS = (48.0, 0.6, 32.0, 0.5)
"""Tokens of made-up answers: median and spread (of the logarithm) of prompts and of answers; about the bundled tasks' own."""


@dataclass(frozen=True)
class Target:
    """Where the verifier listens; several addresses are replicas, and devices are dealt out to them in turn.

    Raises:
        SettingError: there is no address, or one is not HOST:PORT.
    """

    addresses: tuple[str, ...]
    tls_ca: Path | None = None
    """PEM file of the authority that signed its certificate; None is plaintext."""
    pid: int | None = None
    """Its process, where that runs on this machine and its CPU time is to be told."""

    def __post_init__(self) -> None:
        if not self.addresses:
            raise SettingError("cloud='' names no verifier; give HOST:PORT, several with commas")
        for address in self.addresses:
            Address.parse(address)


@dataclass(frozen=True)
class Plan:
    """A load: a closed loop of devices, or answers that arrive when they do; and other users' streams beside either.

    Raises:
        SettingError: a setting is outside its range, or has no meaning with another.
    """

    devices: int = 8
    """Closed loop, 1..4096: each answers prompt after prompt. Not looked at where `arrivals` are given."""
    arrivals: Workload | None = None
    """Open loop: a device comes with each request, at its time, whoever is still waited for. Requests must fit the model."""
    prefill_share: float = 0.0
    """0..1: share of the arrivals that are Generate requests of their own lengths, instead of a device's answer."""
    streams: int = 0
    """Other users, 0..4096, who each have one Generate request answered after another, of the lengths of `stream_lengths`."""
    stream_lengths: Workload | None = None
    """Lengths of those requests, drawn from it at random; must fit the model."""
    seconds: float = 10.0
    """What is measured, 0.1..3600."""
    warmup_seconds: float = 1.0
    """What goes before it, 0..600."""
    seed: int = 0
    """Draws prompts, tokens and who starts when."""
    graphs: Path | None = GRAPHS
    """Recorded graphs whose prompts are answered, as far as the verifier serves the LLM that they were recorded with; None makes
    all drafts up."""
    knobs: Knobs = ALWAYS
    """What devices draft and offload; by default every chunk, of at most four tokens."""
    profile: Path | None = None
    """JSON device profile: how long a device drafts before each check; None drafts in no time."""
    pause_seconds: float = 0.0
    """0..600: how long a device does something else before each check, beside what its profile says."""
    processes: int = 1
    """That the load comes from, 1..64."""
    connections: int | None = None
    """Of each process, to each address, 1..256; None takes one for every 16 devices."""

    def __post_init__(self) -> None:
        whole("devices", self.devices, 1, MOST_DEVICES)
        whole("streams", self.streams, 0, MOST_DEVICES)
        whole("processes", self.processes, 1, MOST_PROCESSES)
        within("prefill_share", self.prefill_share, 0.0, 1.0)
        within("seconds", self.seconds, 0.1, LONGEST_SECONDS)
        within("pause_seconds", self.pause_seconds, 0.0, 600.0)
        within("warmup_seconds", self.warmup_seconds, 0.0, 600.0)
        whole("seed", self.seed, 0, 2**32 - 1)
        if self.connections is not None:
            whole("connections", self.connections, 1, MOST_CONNECTIONS)
        if self.prefill_share and self.arrivals is None:
            raise SettingError(
                f"prefill_share={self.prefill_share:g} is of answers that arrive: give --rate or --workload; beside a closed loop, "
                "take --streams"
            )
        if self.streams and self.stream_lengths is None:
            raise SettingError(f"streams={self.streams} need stream_lengths")

    @property
    def load(self) -> float:
        """Devices, or answers a second."""
        return float(self.devices) if self.arrivals is None else self.arrivals.rate

    def connections_of_a_process(self, addresses: int) -> int:
        """How many connections a process makes to each address."""
        if self.connections is not None:
            return self.connections
        most = self.devices if self.arrivals is None else 8 * _DEVICES_PER_CONNECTION
        return -(-most // (self.processes * addresses * _DEVICES_PER_CONNECTION))


def fitted(workload: Workload, context_tokens: int) -> Workload:
    """A workload whose requests a model holds: prompts of up to 3/4 of its context, answers of up to 1/8.

    The longest 5 % are cut to the 95th percentile first, as a single long one would make all others short. The rule is ours.
    """

    def cut(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.minimum(tokens, max(1, int(np.quantile(tokens, 0.95))))

    said = f"{workload.source} Lengths cut at their 95th percentiles."[:2000]
    context, generated = cut(workload.context_tokens), cut(workload.generated_tokens)
    whole = replace(workload, source=said, context_tokens=context, generated_tokens=generated)
    return whole.shrunk(max(1, context_tokens * 3 // 4), max(1, context_tokens // 8))


def at_rate(workload: Workload, rate: float, seconds: float) -> Workload:
    """As many requests of a workload's beginning as make up a rate, squeezed or stretched to take so long; gaps keep their ratios.

    A beginning may be quieter than the whole: taken as it is, a short load would be another than was asked for.
    """
    requests = max(1, round(rate * seconds))
    if requests < len(workload):
        workload = workload.first(max(float(workload.arrival_seconds[requests]), 1e-6))
    return workload.rescaled(rate).first(seconds)
