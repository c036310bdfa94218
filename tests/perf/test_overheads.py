"""The benchmark of what is added to the models: what is timed beside what; never how fast anything is."""

from __future__ import annotations

from runtime.client import CloudClient
from scripts.benchmarks import overheads
from scripts.benchmarks.harness import Setting
from synera_env import SyneraReplayEnv
from tests.support.process import served
from traces import bundled

SETTING = Setting(bundled.PAIR, 1, 1)


def test_a_checks_overhead_is_beside_its_own_forward() -> None:
    checks = overheads._Checks(trip=[6.0, 9.0], compute=[5.0, 8.5], bare=[1.0, 1.0], empty=[0.5, 0.5])
    assert checks.overhead == [1.0, 0.5]


def test_checks_are_timed_beside_a_forward_and_an_empty_call() -> None:
    with served(bundled.PAIR / "llm") as verifier, CloudClient(verifier.target) as client:
        found = overheads._timed_checks(client, SETTING)
        p50, p99 = overheads.check_overhead(client, SETTING)
    assert {len(found.trip), len(found.compute), len(found.bare), len(found.empty)} == {overheads._CHECKS_A_REPETITION}
    assert all(trip > compute > 0 for trip, compute in zip(found.trip, found.compute, strict=True))
    assert (p50.goal, p99.goal, p50.better) == (0.6, 2.0, "lower")
    assert p50.value <= p99.value
    assert "an empty call of the same server" in p50.peer


def test_decisions_are_taken_at_points_of_every_kind() -> None:
    env = SyneraReplayEnv(bundled.graphs("test"), bundled.links("test"))
    points = list(overheads._points(env))
    assert len(points) > 8
    assert [len(records) for _, records in points].count(0) == len(set(env.graphs.meta.kinds))  # each answer's first
    assert all(point.chunk == len(records) + 1 for point, records in points)
