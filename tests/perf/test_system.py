"""The benchmark of the whole system: what it chooses, compares and refuses; never how fast anything is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from runtime.client import CloudClient
from runtime.device import Connection
from runtime.errors import SyneraError
from scripts.benchmarks import system
from scripts.benchmarks.harness import Setting
from synera_env import SyneraReplayEnv
from synera_env.synera.live import load_device
from tests.support.process import Served, served
from traces import bundled

SETTING = Setting(bundled.PAIR, 1, 1)
TOKENS = 8


@pytest.fixture(scope="module")
def verifier() -> Iterator[Served]:
    with served(bundled.PAIR / "llm") as process:
        yield process


@pytest.fixture
def connection(verifier: Served) -> Iterator[Connection]:
    device = load_device(max_new_tokens=TOKENS, paced=False)
    with CloudClient(verifier.target) as client, Connection(device, client) as opened:
        yield opened


def test_both_sides_of_the_whole_system_give_the_llms_answers(connection: Connection) -> None:
    prompts = [connection.encode(text) for text in ("Describe Dunuham: river, feast, mayor, trade.", "What is the total?")]
    ours, peer = system._Ours(connection), system._Peer(connection, SETTING)
    wanted = peer.plain(prompts)
    assert all(0 < len(answer) <= TOKENS for answer in wanted)
    for length, margin in system._OURS:
        assert ours(prompts, length, margin) == wanted
    for drafted in system._PEERS:
        assert peer.assisted(prompts, drafted) == wanted


def test_the_assistants_settings_reach_transformers_and_last_for_one_answer(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, seen = system._Peer(connection, SETTING), []
    stated = peer._slm.generation_config

    def generate(*_: object, assistant_model: transformers.PreTrainedModel, **__: object) -> object:
        config = assistant_model.generation_config
        seen.append((config.num_assistant_tokens, config.num_assistant_tokens_schedule))
        config.num_assistant_tokens = 77  # as transformers does
        return system.torch.zeros(1, 5, dtype=int)

    monkeypatch.setattr(peer._llm, "generate", generate)
    peer.assisted([(5, 6), (5, 7)], 12)
    peer.assisted([(5, 6)], None)
    by_default = stated.num_assistant_tokens, stated.num_assistant_tokens_schedule
    assert seen == [(12, "constant"), (12, "constant"), by_default]
    assert by_default[0] != 77


def test_a_lost_check_ends_the_benchmark(verifier: Served) -> None:
    device = load_device(max_new_tokens=TOKENS, paced=False)
    with CloudClient(verifier.target) as client, Connection(device, client) as connection:
        ours, prompt = system._Ours(connection), connection.encode("What is the total?")
        client.close()
        with pytest.raises(SyneraError, match="a check was lost during the benchmark"):
            ours([prompt], 4, 1.0)


def test_different_answers_are_refused() -> None:
    system._require_alike([(1, 2), (3,)], [(1, 2), (3,)], [(1, 2), (3,)])
    with pytest.raises(SyneraError, match=re.escape("do not, so their times say nothing: (3,) and (4,)")):
        system._require_alike([(1, 2), (3,)], [(1, 2), (3,)], [(1, 2), (4,)])
    with pytest.raises(ValueError):
        system._require_alike([(1, 2), (3,)], [(1, 2)])


def test_the_setting_that_took_least_is_chosen_by_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(system, "perf_counter", lambda: now[0])

    def work(*seconds: float) -> object:
        left = iter(seconds)

        def run() -> None:
            now[0] += next(left)

        return run

    candidates = [("a", work(1, 9, 9)), ("b", work(4, 4, 4)), ("c", work(2, 99, 3))]
    assert system._fastest(candidates, 3) == "c"


def test_a_checks_overhead_is_beside_its_own_forward() -> None:
    checks = system._Checks(trip=[6.0, 9.0], compute=[5.0, 8.5], bare=[1.0, 1.0], empty=[0.5, 0.5])
    assert checks.overhead == [1.0, 0.5]


def test_checks_are_timed_beside_a_forward_and_an_empty_call(verifier: Served) -> None:
    with CloudClient(verifier.target) as client:
        found = system._timed_checks(client, SETTING)
        p50, p99 = system._check_overhead(client, SETTING)
    assert {len(found.trip), len(found.compute), len(found.bare), len(found.empty)} == {system._CHECKS_A_REPETITION}
    assert all(trip > compute > 0 for trip, compute in zip(found.trip, found.compute, strict=True))
    assert (p50.goal, p99.goal, p50.better) == (0.6, 2.0, "lower")
    assert p50.value <= p99.value
    assert "an empty call of the same server" in p50.peer


def test_decisions_are_taken_at_points_of_every_kind() -> None:
    env = SyneraReplayEnv(bundled.graphs("test"), bundled.links("test"))
    points = list(system._points(env))
    assert len(points) > 8
    assert [len(records) for _, records in points].count(0) == len(set(env.graphs.meta.kinds))  # each answer's first
    assert all(point.chunk == len(records) + 1 for point, records in points)


def test_what_transformers_may_say_is_restored(tmp_path: Path) -> None:
    before = transformers.utils.logging.get_verbosity()
    with system._quiet():
        assert transformers.utils.logging.get_verbosity() == transformers.logging.ERROR
    assert transformers.utils.logging.get_verbosity() == before
