"""The contract: what a controller does live, against a real verifier, is what the replay said it would do, token by token.

Times may differ; tokens and, for controllers that look at no time, choices may not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

from agents.base import Controller
from agents.bundle import Bundle
from agents.evaluation import Answered, PlannedAnswer, answer, make_plan
from agents.fleet import run_fleet
from agents.policy import ControllerPolicy
from agents.rules import FixedRule, RandomRule
from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.device import Connection, Device
from runtime.policy import drive
from synera_env import Knobs, Outages, synera_schema
from synera_env.fidelity import same_tokens
from synera_env.synera.live import SyneraLiveEnv
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import ALWAYS, NEVER
from tests.support.engine import greedy
from tests.support.recorded import FREE_CLOUD, MAX_NEW_TOKENS, PHONE, Recorded, recorded, trained
from traces.links.generators import constant_link

SCHEMA = synera_schema(exits=2)
FAST_LINK = constant_link(rtt_ms=4.0, uplink_mbps=50.0, downlink_mbps=50.0)
TIME_BLIND = {
    "never": FixedRule(NEVER, SCHEMA),
    "always": FixedRule(ALWAYS, SCHEMA),
    "threshold": FixedRule(Knobs(confidence_threshold=0.09, offload_budget=1.0, draft_length=3), SCHEMA),
    "early exit": FixedRule(Knobs(confidence_threshold=0.09, exit_margin=0.03, offload_budget=0.5, draft_length=4), SCHEMA),
    "shallow": FixedRule(Knobs(confidence_threshold=1.0, importance_threshold=0.4, exit_index=0, draft_length=8), SCHEMA),
    "random": RandomRule(SCHEMA),
}


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def device(pair: Recorded) -> Device:
    return pair.device()


@pytest.fixture(scope="module")
def cloud(tiny_llm: Path) -> Iterator[CloudClient]:
    with running_server(ServerConfig(model=tiny_llm)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        yield client


@pytest.fixture(scope="module")
def live(pair: Recorded, device: Device, cloud: CloudClient) -> Iterator[SyneraLiveEnv]:
    env = SyneraLiveEnv(cloud, device, pair.prompts, pair.score, emulate_link=False)
    yield env
    env.close()


@pytest.fixture
def replay(pair: Recorded) -> SyneraReplayEnv:
    return pair.env()


def plans(env: SyneraReplayEnv, name: str) -> list[PlannedAnswer]:
    """Every prompt; three times where chance decides. On the first link, as the live world has only one."""
    return [replace(p, link=0, link_offset_seconds=0.0) for p in make_plan(env, 18 if name == "random" else 6, seed=1)]


def assert_identical(outcomes: list[Answered], plan: list[PlannedAnswer], replay: SyneraReplayEnv) -> None:
    for outcome, planned in zip(outcomes, plan, strict=True):
        check = same_tokens(outcome.records, replay, planned.prompt)
        assert check.identical, f"prompt {planned.prompt}, seed {planned.seed}: {check.first_difference}"


@pytest.mark.parametrize("name", TIME_BLIND)
def test_live_and_replay_do_the_same_by_themselves(live: SyneraLiveEnv, replay: SyneraReplayEnv, name: str) -> None:
    controller, plan = TIME_BLIND[name], plans(replay, name)
    real = [answer(live, controller, p) for p in plan]
    assert_identical(real, plan, replay)
    for one, other in zip(real, [answer(replay, controller, p) for p in plan], strict=True):
        assert [r.knobs for r in one.records] == [r.knobs for r in other.records]
        assert [r.offloaded for r in one.records] == [r.offloaded for r in other.records]
        assert [r.draft.ids for r in one.records] == [r.draft.ids for r in other.records]
        assert one.tokens == other.tokens
        assert one.metrics is not None
        assert other.metrics is not None
        assert one.metrics.quality == pytest.approx(other.metrics.quality)  # a graph keeps it in single precision
        assert one.metrics.lost_chunks == 0
        for a, b in zip(one.records, other.records, strict=True):
            assert (a.verdict is None) == (b.verdict is None)
            if a.verdict and b.verdict:
                assert (a.verdict.accepted, a.verdict.cloud_tokens) == (b.verdict.accepted, b.verdict.cloud_tokens)
                assert a.verdict.uplink_bytes == b.verdict.uplink_bytes
                unknown = 2 if a is one.records[-1] else 0  # what the LLM would say past the end is not recorded
                assert abs(a.verdict.downlink_bytes - b.verdict.downlink_bytes) <= unknown


def test_the_pair_exercises_the_contract(replay: SyneraReplayEnv) -> None:
    """Acceptance, rejection, both exits and kept chunks occur; with none of them the tests above would prove little."""
    records = [r for name, c in TIME_BLIND.items() for p in plans(replay, name) for r in answer(replay, c, p).records]
    verdicts = [(r.verdict.accepted, len(r.draft.tokens)) for r in records if r.verdict]
    assert {a == n for a, n in verdicts} == {True, False}
    assert any(0 < a < n for a, n in verdicts)
    assert {t.exit_index for r in records for t in r.draft.tokens} == {0, 1}
    assert {r.offloaded for r in records} == {True, False}
    assert {len(r.draft.tokens) for r in records} >= {1, 2, 3, 4, 8}


@pytest.mark.parametrize("emulated", [False, True])
def test_a_trained_bundle_gives_the_same_tokens_live(
    pair: Recorded, device: Device, cloud: CloudClient, replay: SyneraReplayEnv, tiny_llm: Path, emulated: bool
) -> None:
    """Its knobs may differ, as it looks at times; fed to the replay they must give the live tokens."""
    bundle, plan = Bundle.load(trained(tiny_llm) / "bundle"), plans(replay, "bundle")
    controller = bundle.controller(SCHEMA)
    env = SyneraLiveEnv(cloud, device, pair.prompts, pair.score, [FAST_LINK], emulate_link=emulated)
    try:
        bundle.require(env.deployment())
        assert_identical([answer(env, controller, p) for p in plan], plan, replay)
    finally:
        env.close()


class Watching:
    """Keeps what a controller saw."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.seen: list[NDArray[np.float32]] = []

    def predict(self, observation: Any, *arguments: Any, **named: Any) -> Any:
        self.seen.append(observation.copy())
        return self._controller.predict(observation, *arguments, **named)


@pytest.mark.parametrize("name", ["threshold", "early exit", "random"])
def test_a_controller_sees_the_same_in_both_worlds(live: SyneraLiveEnv, replay: SyneraReplayEnv, name: str) -> None:
    """Every entry of every observation but those that are measured times and load, and what is made of them."""
    measured = {"rtt", "rtt_known", "throughput", "queue", "compute", "load", "guess_hits"}
    keep = [i for i, entry in enumerate(SCHEMA.entries) if entry not in measured]
    for planned in plans(replay, name):
        views = [Watching(TIME_BLIND[name]) for _ in range(2)]
        for env, view in zip((live, replay), views, strict=True):
            answer(env, view, planned)
        one, other = (np.stack(view.seen)[:, keep] for view in views)
        np.testing.assert_allclose(one, other, atol=1e-2)  # both keep sketches in half precision


def test_always_is_the_llm_and_never_the_slm(
    live: SyneraLiveEnv, pair: Recorded, tiny_llm: Path, replay: SyneraReplayEnv
) -> None:
    for name, model in (("always", tiny_llm), ("never", pair.slm)):
        for planned in plans(replay, name):
            outcome = answer(live, TIME_BLIND[name], planned)
            prompt = live._encoded[planned.prompt]
            wanted = greedy(model, prompt, MAX_NEW_TOKENS)
            assert list(outcome.tokens) == (wanted[: wanted.index(2) + 1] if 2 in wanted else wanted)
            if name == "always":
                assert outcome.metrics is not None
                assert outcome.metrics.quality == 1.0


@pytest.mark.parametrize("name", ["early exit", "random"])
def test_a_policy_drives_a_live_session_as_it_drives_the_environment(
    device: Device, cloud: CloudClient, replay: SyneraReplayEnv, name: str
) -> None:
    """The same object; no environment is needed to deploy."""
    before = set(threading.enumerate())
    with Connection(device, cloud) as connection:
        for planned in plans(replay, name)[:6]:
            policy = ControllerPolicy(TIME_BLIND[name], SCHEMA, planned.preference)
            with connection.open() as session:
                tokens = connection.encode(replay.graphs.meta.prompts[planned.prompt])
                steps = list(drive(session, tokens, policy, planned.seed))
            wanted = answer(replay, TIME_BLIND[name], planned)
            assert session.answer == wanted.tokens
            assert [step.record.knobs for step in steps] == [r.knobs for r in wanted.records]
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("verifier")]


# ---------------------------------------------------------------- the check itself


def test_the_check_finds_every_planted_difference(live: SyneraLiveEnv, replay: SyneraReplayEnv) -> None:
    planned = plans(replay, "always")[0]
    records = answer(live, TIME_BLIND["always"], planned).records
    assert same_tokens(records, replay, planned.prompt).identical
    first = records[0]
    draft = first.draft.tokens
    planted = {
        "chunk 1: draft": [replace(first, draft=replace(first.draft, tokens=draft[::-1])), *records[1:]],
        "chunk 1: offloaded": [replace(first, offloaded=False), *records[1:]],
        "chunk 1: committed": [replace(first, committed=first.committed[:-1]), *records[1:]],
        f"chunk {len(records) - 1}: the replay went on": list(records[:-1]),
    }
    assert draft[0].token != draft[-1].token
    for reason, wrong in planted.items():
        check = same_tokens(wrong, replay, planned.prompt)
        assert not check.identical
        assert check.first_difference.startswith(reason)
    assert not same_tokens(records, replay, (planned.prompt + 1) % replay.prompt_count).identical


# ---------------------------------------------------------------- the environment and the fleet


def test_gymnasium_accepts_the_live_environment(cloud: CloudClient, device: Device, pair: Recorded) -> None:
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make(
        "SyneraLive-v0",
        cloud=cloud.target,
        device=device,
        prompts=pair.prompts,
        scorer=pair.score,
        emulate_link=False,
        render_mode="ansi",
    )
    try:
        assert env.spec is not None
        assert env.spec.nondeterministic
        check_env(env.unwrapped, skip_render_check=True)
        env.reset(seed=0, options={"prompt": 2})
        _, _, terminated, truncated, info = env.step(SCHEMA.action(ALWAYS))
        assert not truncated
        assert info["offloaded"]
        rendered = env.render()
        assert isinstance(rendered, str)
        assert rendered.startswith("  1 offload confidence")
        while not terminated:
            _, _, terminated, truncated, info = env.step(SCHEMA.action(NEVER))
        assert info["episode_metrics"]["lost_chunks"] == 0
        with pytest.raises(RuntimeError, match="reset"):
            env.unwrapped.step(SCHEMA.action(NEVER))
    finally:
        env.close()


def test_four_devices_say_what_one_says(pair: Recorded, device: Device, cloud: CloudClient, replay: SyneraReplayEnv) -> None:
    def make_env() -> SyneraLiveEnv:
        return SyneraLiveEnv(cloud, device, pair.prompts, pair.score, emulate_link=False)

    plan = plans(replay, "random")
    for controller in (TIME_BLIND["random"], TIME_BLIND["always"]):
        four, one = (run_fleet(make_env, controller, plan, devices) for devices in (4, 1))
        assert [a.tokens for a in four] == [a.tokens for a in one]
        assert [[r.knobs for r in a.records] for a in four] == [[r.knobs for r in a.records] for a in one]
        assert_identical(four, plan, replay)


@pytest.mark.parametrize("controller", [FixedRule(NEVER, SCHEMA), FixedRule(ALWAYS, SCHEMA)], ids=["never", "always"])
def test_a_paced_device_is_never_faster_than_its_profile(pair: Recorded, cloud: CloudClient, controller: Controller) -> None:
    """The replay with a cloud that takes no time is the lower bound of every commit."""
    link = constant_link(rtt_ms=20.0)
    env = SyneraLiveEnv(cloud, pair.device(paced=True), pair.prompts[:2], pair.score, [link], outages=Outages.never())
    bound = SyneraReplayEnv(pair.graphs, [link], PHONE, FREE_CLOUD, outages=Outages.never())
    try:
        for prompt in range(2):
            planned = PlannedAnswer(prompt, 0, 0.0, seed=0)
            real, least = answer(env, controller, planned), answer(bound, controller, planned)
            assert real.tokens == least.tokens
            for a, b in zip(real.records, least.records, strict=True):
                assert a.committed_at >= b.committed_at - 1e-6
                assert a.draft.seconds >= b.draft.seconds - 1e-6
    finally:
        env.close()
