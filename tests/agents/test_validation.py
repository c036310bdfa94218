"""The replay held against the live runtime, over controllers and over devices that share a verifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.evaluation import make_plan
from agents.rules import FixedRule
from agents.validation import both_ways, validate
from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from synera_env import SyneraError, synera_schema
from synera_env.synera.live import SyneraLiveEnv
from synera_env.synera.schema import ALWAYS
from tests.support.recorded import LINKS, Recorded, recorded

SCHEMA = synera_schema(2)


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def cloud(tiny_llm: Path) -> Iterator[CloudClient]:
    with running_server(ServerConfig(model=tiny_llm)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        yield client


def test_every_rule_that_drafts_ahead_is_there_without_it_too() -> None:
    found = both_ways(SCHEMA)
    assert list(found) == ["never", "always", "always, stop-and-wait", "threshold", "threshold, stop-and-wait"]
    waiting = found["always, stop-and-wait"]
    assert isinstance(waiting, FixedRule)
    assert waiting.knobs == replace(ALWAYS, draft_ahead=1.0)


@pytest.mark.parametrize("devices", [1, 3])
def test_live_answers_are_held_against_the_replay_of_the_same_plan(pair: Recorded, cloud: CloudClient, devices: int) -> None:
    replay, device, done = pair.env(), pair.device(paced=True), list[int]()
    plan = make_plan(replay, 4)
    controllers = {name: each for name, each in both_ways(SCHEMA).items() if name.startswith("always")}

    def make_live() -> SyneraLiveEnv:
        return SyneraLiveEnv(cloud, device, pair.prompts, pair.score, LINKS, outages=replay.outages)

    found = validate(make_live, replay, controllers, plan, devices, lambda: done.append(1))
    assert [(v.controller, v.devices) for v in found] == [("always", devices), ("always, stop-and-wait", devices)]
    assert len(done) == 8
    for each in found:
        assert each.agreement.tokens_identical == 1.0
        assert len(each.live_seconds) == len(each.replay_seconds) == 4
        errors = [abs(a - b) / a for a, b in zip(each.live_seconds, each.replay_seconds, strict=True)]
        assert each.agreement.replay_error["seconds"]["mean"] == pytest.approx(sum(errors) / 4)
        assert each.agreement.replay_error["uplink_bytes"]["mean"] == 0.0


def test_a_world_that_cannot_be_made_is_told(pair: Recorded) -> None:
    def make_live() -> SyneraLiveEnv:
        raise SyneraError("no verifier answers")

    replay = pair.env()
    with pytest.raises(SyneraError, match="no verifier answers"):
        validate(make_live, replay, both_ways(SCHEMA), make_plan(replay, 2))
