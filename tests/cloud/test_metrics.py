from __future__ import annotations

import threading

import pytest
from prometheus_client import generate_latest

from cloud.engine.base import Checked, Chunk, EngineUsage, Iteration, Ran, Streamed
from cloud.metrics import METHODS, POSITIONS, Metrics
from runtime.wire.statuses import STATUS
from tests.support.scripted import ScriptedEngine, of, samples


def made(max_draft_tokens: int = 4) -> tuple[Metrics, ScriptedEngine]:
    engine = ScriptedEngine()
    return Metrics(engine, max_draft_tokens=max_draft_tokens, max_sessions=9), engine


def read(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return samples(generate_latest(metrics.registry).decode())


def verdict(accepted: int) -> Checked:
    return Checked(accepted, 7, (), -0.5, queue_ms=30.0, compute_ms=8.0, compute_share_ms=5.0, processed_tokens=11, load=1)


def test_before_any_work_every_series_is_there_at_zero() -> None:
    """A rate is only right from the first event on when the series began at zero."""
    found = read(made()[0])
    for method in METHODS:
        assert found[of("synera_requests_total", method=method, code="OK")] == 0
        assert found[of("synera_requests_in_flight", method=method)] == 0
    for kind in STATUS:
        assert found[of("synera_rejections_total", reason=kind.__name__)] == 0
    assert found[of("synera_max_sessions")] == 9
    [build] = [labels for name, labels in found if name == "synera_build_info"]
    assert {("engine", "scripted"), ("model", "small"), ("architecture", "Scripted")} < build


def test_acceptance_is_told_by_position() -> None:
    metrics, _ = made()
    for drafted, accepted in ((4, 4), (4, 1), (2, 0), (0, 0)):
        metrics.checked(drafted, verdict(accepted))
    found = read(metrics)
    positions = [str(i) for i in range(1, 5)]
    assert [found[of("synera_verified_tokens_total", position=i)] for i in positions] == [3, 3, 2, 2]
    assert [found[of("synera_accepted_tokens_total", position=i)] for i in positions] == [2, 1, 1, 1]


def test_positions_are_bounded_and_no_token_is_forgotten() -> None:
    metrics, _ = made(max_draft_tokens=1000)
    metrics.checked(1000, verdict(500))
    metrics.checked(POSITIONS, verdict(POSITIONS))
    found = read(metrics)
    verified = [value for (name, _), value in found.items() if name == "synera_verified_tokens_total"]
    accepted = [value for (name, _), value in found.items() if name == "synera_accepted_tokens_total"]
    assert len(verified) == len(accepted) == POSITIONS
    assert (sum(verified), sum(accepted)) == (1000 + POSITIONS, 500 + POSITIONS)


def test_work_is_told_by_kind_in_seconds() -> None:
    metrics, _ = made()
    metrics.checked(2, verdict(1))
    for _ in range(3):
        metrics.streamed(Streamed(7, 0.0, 4.0, 2.0, 1))
    found = read(metrics)
    assert found[of("synera_queue_seconds_sum", kind="check")] == pytest.approx(0.03)
    assert found[of("synera_queue_seconds_bucket", kind="check", le="0.025")] == 0
    assert found[of("synera_queue_seconds_bucket", kind="check", le="0.05")] == 1
    assert found[of("synera_compute_seconds_count", kind="stream")] == 3
    assert found[of("synera_charged_compute_seconds_total", kind="check")] == pytest.approx(0.005)
    assert found[of("synera_charged_compute_seconds_total", kind="stream")] == pytest.approx(0.006)
    assert found[of("synera_processed_tokens_total", kind="check")] == 11
    assert found[of("synera_generated_tokens_total")] == 3


def test_chunks_are_told_with_their_rows_and_bytes_each_way() -> None:
    metrics, _ = made()
    for _ in range(2):
        metrics.forwarded(Chunk(0, 5, bytes(80), "fp32", 2), Ran(bytes(32), 30.0, 8.0, 5.0, 5, 1))
    found = read(metrics)
    assert [found[of("synera_chunk_rows_total", direction=way)] for way in ("in", "out")] == [10, 4]
    assert [found[of("synera_state_bytes_total", direction=way)] for way in ("in", "out")] == [160, 64]
    assert found[of("synera_processed_tokens_total", kind="chunk")] == 10
    assert found[of("synera_queue_seconds_count", kind="chunk")] == 2
    assert found[of("synera_processed_tokens_total", kind="check")] == 0


def test_forwards_are_counted_from_the_engines_thread() -> None:
    metrics, engine = made()
    told = Iteration(seconds=0.02, requests=3, verify_tokens=10, prefill_tokens=50, decode_tokens=2, waiting=4)
    thread = threading.Thread(target=lambda: [engine.iterate(told) for _ in range(2)])
    thread.start()
    thread.join()
    found = read(metrics)
    assert [found[of("synera_batch_tokens_total", kind=kind)] for kind in ("verify", "prefill", "decode")] == [20, 100, 4]
    assert found[of("synera_iteration_seconds_count")] == 2
    assert found[of("synera_batch_requests_sum")] == 6
    assert found[of("synera_batch_size_tokens_bucket", le="64.0")] == 2
    assert found[of("synera_batch_size_tokens_bucket", le="16.0")] == 0


def test_what_the_engine_holds_is_asked_at_each_reading() -> None:
    metrics, engine = made()
    engine.usage = EngineUsage(waiting=2, blocks=10, used_blocks=4, cached_blocks=5, evicted=1)
    first = read(metrics)
    assert [first[of("synera_kv_blocks", state=state)] for state in ("used", "cached", "free")] == [4, 5, 1]
    assert first[of("synera_waiting_requests")] == 2
    engine.usage = EngineUsage(0, 10, 0, 0, 8)
    assert read(metrics)[of("synera_kv_evictions_total")] == 8


def test_two_servers_count_apart() -> None:
    one, other = made()[0], made()[0]
    one.answered("Verify", "OK", 0.1, None)
    one.answered("Verify", "NOT_FOUND", 0.1, "SessionLostError")
    assert read(one)[of("synera_requests_total", method="Verify", code="OK")] == 1
    assert read(one)[of("synera_rejections_total", reason="SessionLostError")] == 1
    assert read(other)[of("synera_requests_total", method="Verify", code="OK")] == 0
