"""The bench of a verifier that many share: what it measures and says, on loads of a moment; never how fast anything is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloud.config import ServerConfig
from cloud.server import running_server
from scripts._load_plan import Plan, Target
from scripts._load_result import CheckSample, LoadResult, Measured, Samples, sum_up
from scripts.benchmarks import cloud
from scripts.benchmarks.harness import Setting


def drive(target: Target, plan: Plan) -> LoadResult:
    """What a load finds where a check takes 10 ms alone, and 20 ms beside others; each waits half of that."""
    rows, ms = [], 10.0 if plan.devices == 1 else 20.0
    for i in range(50):
        rows.append(CheckSample(100 + i / 10, 100 + i / 10 + ms / 1e3, ms / 2, ms / 2, ms / 4, 6, 3, 4, 2))
    samples = Samples(checks=rows, counts=Counter(answers=10, checked=50, stream_tokens=9, prompt_tokens=300))
    open_loop = plan.arrivals is not None
    told = Measured(plan.load, open_loop, "", began=100.0, seconds=5.0, cores=2, verifier_cores=None, machine_cores=None)
    return sum_up([samples], told)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything but the loads is real, and small; the policies that were asked for."""
    policies: list[str] = []

    @contextmanager
    def served(model: Path, setting: Setting, options: tuple[str, ...] = ()) -> Iterator[Target]:
        policy = options[1] if options else "verification_aware"
        policies.append(policy)
        with running_server(ServerConfig(model, policy=policy)) as port:
            yield Target((f"127.0.0.1:{port}",))

    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = cloud._RANDOM_LLAMA | tiny | {"num_key_value_heads": 2, "head_dim": 16}
    for name, value in {"_DEVICES": 2, "_SESSIONS": 12, "_ROOM": 3, "_RANDOM_LLAMA": sizes}.items():
        monkeypatch.setattr(cloud, name, value)
    monkeypatch.setattr(cloud, "_verifier", served)
    monkeypatch.setattr(cloud, "drive", drive)
    return policies


def test_the_area_measures_every_bar(small: list[str], tiny_llm: Path, tmp_path: Path) -> None:
    pair = tmp_path / "pair"
    pair.mkdir()
    (pair / "llm").symlink_to(tiny_llm)
    found = cloud.measure(Setting(pair, 1, 1))
    assert len({each.name for each in found}) == len(found) == 14
    assert all(math.isfinite(each.value) and each.value > 0 for each in found)
    assert small == ["verification_aware", "verification_aware", *["verification_aware", "fcfs", "edf", "mlfq", "fcfs_whole"]]
    [sessions] = [each for each in found if "12 open sessions on a pool for 3" in each.name]
    assert sessions.value == 1.0, sessions.peer
    [gain, *_] = [each for each in found if each.name.startswith("95th percentile of a check at half")]
    assert (gain.value, gain.met) == (pytest.approx(2.0), True)
    for each in found:
        if "fcfs over" in each.name:
            assert all(policy in each.peer for policy in ("verification_aware", "fcfs", "edf", "mlfq"))
