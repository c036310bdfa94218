"""What a check meets, held against the server with that very check in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba import njit

from runtime.errors import SettingError
from runtime.policies import POLICIES
from runtime.scheduling import Scheduler, Slice
from traces.profile import CloudProfile
from traces.workload import shared_cloud
from traces.workload.generators import Lengths, poisson
from traces.workload.meeting import meeting
from traces.workload.serving import Job, Request, Server
from traces.workload.shared_cloud import CHECK_TOKENS, SharedCloud
from traces.workload.trace import Workload

CLOUD = CloudProfile("test", "made up", 10.0, 0.25)
BUSY = poisson(8.0, 20.0, lengths=Lengths(context=100, context_spread=1.0, generated=6, generated_spread=1.0))

SERVED = [(rate, budget) for budget in (1, 60, 150, 512) for rate in (1.0, 4.0, 8.0, 16.0) if budget > 1 or rate < 8]
"""Requests a second, tokens in a forward. A token at a time is too slow for 4 requests already, and forwards of more take long to follow."""


class Witness:
    """Follows one check through a server."""

    def __init__(self, at: float) -> None:
        self.at, self.job = at, None
        self.began_at = self.end = 0.0
        self.there = 0

    def arrived(self, at: float, job: Job, scheduler: Scheduler) -> None:
        if at == self.at:
            self.job, job.check, job.tail = job, True, CHECK_TOKENS
        if self.began_at and at <= self.end:
            self.there += 1

    def plans(self, at: float, scheduler: Scheduler) -> None: ...

    def began(self, at: float, end: float, slices: Sequence[Slice], scheduler: Scheduler) -> None:
        if any(each.request is self.job for each in slices):
            self.began_at, self.end, self.there = at, end, len(scheduler)

    def idled(self, at: float, scheduler: Scheduler) -> None: ...


def witnessed(workload: Workload, at: float, budget: int, policy: str) -> tuple[float, float, int]:
    """Queue and compute seconds and load of a check in the server itself."""
    around = shared_cloud._around(workload)
    shifted = at + shared_cloud._WARM_SECONDS
    requests: list[Request] = [*around, (shifted, CHECK_TOKENS, 1)]
    witness = Witness(shifted)
    for _ in Server.of(CLOUD, budget, policy, places=1000).serve(requests, watch=witness):
        pass
    return witness.began_at - shifted, witness.end - witness.began_at, witness.there


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.floats(0.0, 3.9),
    served=st.sampled_from(SERVED),
    policy=st.sampled_from(sorted(POLICIES)),
)
def test_a_check_meets_what_it_would_in_the_server_itself(
    at: float, served: tuple[float, int], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_cloud, "_WARM_SECONDS", 4.0)
    rate, budget = served
    workload = BUSY.at_rate(rate).first(4.0)
    met = SharedCloud.of(workload, CLOUD, budget, policy, places=1000).meets(at, CHECK_TOKENS)
    queue, compute, load = witnessed(workload, at, budget, policy)
    assert met.queue_seconds == pytest.approx(queue, abs=1e-9)
    assert met.compute_seconds == pytest.approx(compute, abs=1e-9)
    assert met.load == load


def test_a_scheduler_that_knows_of_checks_has_them_wait_less() -> None:
    def waits(policy: str) -> float:
        shared = SharedCloud.of(BUSY, CLOUD, 60, policy, places=1000)
        return float(np.quantile([shared.meets(i / 50, CHECK_TOKENS).queue_seconds for i in range(1000)], 0.95))

    assert waits("verification_aware") < 0.5 * waits("fcfs")


def test_an_idle_cloud_has_the_check_alone_and_at_once() -> None:
    one = Workload("one", "made up", 100.0, np.array([50.0]), np.array([40]), np.array([1]))
    shared = SharedCloud.of(one, CLOUD)
    met = shared.meets(10.0, 6)
    assert met == (0.0, CLOUD.forward_seconds(6), CLOUD.forward_seconds(6), 1)
    inside = shared.meets(50.005, 6)  # its forward takes 20 ms; the check runs behind it, alone
    assert inside.queue_seconds == pytest.approx(0.015)
    assert (inside.compute_seconds, inside.load) == (CLOUD.forward_seconds(6), 1)
    before = shared.meets(49.995, 6)  # it comes during the check's own forward
    assert (before.queue_seconds, before.load) == (0.0, 2)


def test_the_forward_is_shared_by_tokens() -> None:
    long = Workload("long", "made up", 100.0, np.array([10.0]), np.array([1]), np.array([5000]))
    met = SharedCloud.of(long, CLOUD).meets(20.0, 3)
    assert met.compute_seconds == pytest.approx(CLOUD.forward_seconds(4))
    assert met.share_seconds == pytest.approx(met.compute_seconds * 3 / 4)
    assert met.load == 2
    assert 0 < met.queue_seconds < CLOUD.forward_seconds(1)


def test_it_repeats_and_begins_with_what_its_end_left() -> None:
    last = Workload("last", "made up", 10.0, np.array([9.9]), np.array([1]), np.array([100]))
    shared = SharedCloud.of(last, CLOUD)
    assert shared.meets(0.1, 4).load == 2, "the answer of the period before is still under way"
    for at in (0.0, 0.1, 3.0, 9.95):
        one, other = shared.meets(at, 4), shared.meets(at + 30.0, 4)
        assert one == pytest.approx(other, abs=1e-9)


def test_what_is_met_changes_little_in_a_short_time() -> None:
    """Unlike draws of their own: the load of two checks half a second apart is related, that of two far apart is not."""
    shared = SharedCloud.of(poisson(1.5, 600.0), CloudProfile("gpu", "made up", 30.0, 0.1))
    at = np.random.default_rng(0).random(3000) * 600

    def load(times: np.ndarray) -> list[int]:
        return [shared.meets(float(t), 6).load for t in times]

    now = load(at)
    assert np.corrcoef(now, load(at + 0.5))[0, 1] > 0.7
    assert abs(np.corrcoef(now, load(at + 211.0))[0, 1]) < 0.4


def test_those_who_find_no_place_are_counted() -> None:
    full = SharedCloud.of(BUSY.rescaled(100.0), CLOUD, places=3)
    assert 0 < full.refused < len(BUSY)
    assert max(full.meets(t / 10, 8).load for t in range(10)) <= 1 + 2 * 3  # those who left and those who came since
    assert SharedCloud.of(BUSY, CLOUD, places=1000).refused == 0


def test_more_than_can_be_worked_out_is_refused() -> None:
    with pytest.raises(SettingError, match="take its first seconds, or thin it"):
        SharedCloud.of(replace(BUSY, generated_tokens=BUSY.generated_tokens * 0 + 10_000_000), CLOUD)
    with pytest.raises(SettingError, match="takes no time"):
        SharedCloud.of(BUSY, CloudProfile("none", "made up", 0.0, 0.0))


def test_compiled_code_shares_the_formula() -> None:
    shared = SharedCloud.of(BUSY, CLOUD)
    compiled = njit(meeting)
    series = (shared.edges, shared.starts, shared.beside_tokens, shared.beside_jobs, shared.arrived)
    for at in np.random.default_rng(0).random(300) * shared.seconds:
        assert compiled(at, 6, CLOUD.forward_ms, CLOUD.token_ms, *series) == tuple(shared.meets(at, 6))
