"""The benchmark of the whole system: what it chooses, compares and refuses; never how fast anything is."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest
import transformers

from runtime.client import CloudClient
from runtime.device import Connection
from runtime.errors import SyneraError
from scripts.benchmarks import overheads, system
from scripts.benchmarks.harness import Setting
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


def test_the_setting_whose_quickest_work_took_least_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(overheads, "perf_counter", lambda: now[0])

    def work(*seconds: float) -> object:
        left = iter(seconds)

        def run() -> None:
            now[0] += next(left)

        return run

    candidates = [("a", work(1, 9, 9)), ("b", work(4, 4, 4)), ("c", work(99, 99, 3))]  # the first time warms up
    assert system._fastest(candidates, 2) == "c"


def test_what_libraries_may_say_is_restored() -> None:
    def levels() -> tuple[int, int]:
        return transformers.utils.logging.get_verbosity(), logging.getLogger("torch.onnx").level

    before = levels()
    with system._quiet():
        assert levels() == (logging.ERROR, logging.ERROR)
    assert levels() == before
