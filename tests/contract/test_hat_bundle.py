"""Rules and learned agents control HAT unchanged: trained in the replay, they act there, on a live device, and in its replay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO

from agents.base import Controller
from agents.bundle import Bundle, BundleError
from agents.evaluation import evaluate, make_plan
from agents.learning.recipe import AGENTS, Recipe
from agents.learning.run import train
from agents.learning.settings import OffPolicy, OnPolicy, Settings
from agents.learning.settings_file import tuned
from agents.policy import ControllerPolicy
from agents.registry import controller, rules
from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.hat.device import HatConnection, HatDevice
from runtime.policy import drive
from runtime.wire.sizes import PRECISIONS
from synera_env import Preference, SettingError, summarise, synera_schema
from synera_env.fidelity import same_tokens
from synera_env.hat.live import HatLiveEnv, hat_deployment_of
from synera_env.hat.replay import HatReplayEnv
from synera_env.hat.schema import hat_schema
from synera_env.radio import Outages, Radio
from synera_env.synera.live import LivePrompt
from tests.support.hat import SplitWorld, prompts, recorded_hat, save_adapter, split_world
from tests.support.recorded import GPU, PHONE
from traces.hat.graph import HatGraphs
from traces.links.generators import constant_link

SCHEMA = hat_schema()
LINK = constant_link(rtt_ms=4.0, uplink_mbps=20.0, downlink_mbps=20.0)
OTHERS = [name for name in AGENTS if name not in ("counterfactual", "ppo")]


@pytest.fixture(scope="module")
def world(tiny_deep: Path) -> SplitWorld:
    return split_world(tiny_deep)


@pytest.fixture(scope="module")
def graphs(tiny_deep: Path) -> HatGraphs:
    return recorded_hat(tiny_deep)


@pytest.fixture(scope="module")
def server(world: SplitWorld) -> Iterator[str]:
    with running_server(ServerConfig(model=world.model, split=world.split)) as port:
        yield f"127.0.0.1:{port}"


def replay(graphs: HatGraphs, preference: Preference | None = None) -> HatReplayEnv:
    return HatReplayEnv(graphs, [LINK], PHONE, GPU, preference, outages=Outages.never())


def small(agent: str) -> Recipe:
    """A recipe of some hundred steps."""
    own: Settings = tuned(agent, AGENTS[agent].settings)
    some: dict[str, Any] = {"hidden": 8}
    if isinstance(own, OnPolicy):
        some |= {"rollout": 64}
    if isinstance(own, OffPolicy):
        some |= {"buffer": 1000, "learning_starts": 40, "batch": 16, "gradient_steps": 1}
    some |= {name: value for name, value in {"minibatch": 64, "epochs": 1, "memory": 8}.items() if hasattr(own, name)}
    return Recipe.of(agent, replace(own, **some), steps=256, envs=2, validation_answers=3, validate_every=128, seed=3)


@pytest.fixture(scope="module")
def trained(graphs: HatGraphs, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of PPO."""
    folder = tmp_path_factory.mktemp("runs") / "hat"
    return Bundle.load(train(lambda preference: replay(graphs, preference), replay(graphs), small("ppo"), folder))


def answered_live(world: SplitWorld, graphs: HatGraphs, server: str, decides: Controller, numbers: range) -> None:
    """Answers are the model's own in their precision, and the replay of their knobs gives the same tokens."""
    env, policy = replay(graphs), ControllerPolicy(decides, SCHEMA)
    with CloudClient(server) as client:
        connection = HatConnection(world.device, client)
        for number in numbers:
            prompt = world.device.encode(prompts()[number])
            with connection.open(Radio(LINK)) as session:
                records = [step.record for step in drive(session, prompt, policy, seed=number)]
            assert session.answer == world.greedy(prompt, PRECISIONS[records[0].knobs.precision])
            assert same_tokens(records, env, number).identical


def test_every_rule_of_the_system_runs_in_the_replay_and_live(world: SplitWorld, graphs: HatGraphs, server: str) -> None:
    env, known = replay(graphs), rules(SCHEMA)
    assert set(known) == {"u-shape", "u-sarathi", "drafts", "hat-fixed", "hat-rule", "random"}
    plan = make_plan(env, 4)
    for name, each in known.items():
        summary = summarise(evaluate(env, each, plan))
        assert 0 < summary["quality"] <= 1, name
        assert 0 < summary["ttft_seconds"] < summary["seconds"], name
        answered_live(world, graphs, server, each, range(2))


@pytest.mark.parametrize(
    "name", ["until-unsure", "staged", "rejection", "ucbspec", "exp3spec", "linucb", "chance=0.2", "margin=0.5", "never"]
)
def test_what_controls_offloading_says_that_it_cannot_control_this(name: str) -> None:
    with pytest.raises(SettingError, match=r"the system hat (has no|shows no|does not show)|no controller 'never'"):
        controller(name, SCHEMA)


def test_the_bundle_states_what_it_was_trained_with_and_acts_as_it_is_in_both_worlds(
    world: SplitWorld, graphs: HatGraphs, server: str, trained: Bundle, tiny_deep: Path, tmp_path: Path
) -> None:
    meta, env = trained.meta, replay(graphs)
    assert (meta.system, meta.schema_hash) == ("hat", SCHEMA.hash)
    assert meta.fingerprints == {
        "model": graphs.meta.model_fingerprint,
        "adapter": graphs.meta.adapter_fingerprint,
        "tokenizer": graphs.meta.tokenizer_hash,
        "split": "1:0",
    }
    assert meta.max_new_tokens == graphs.meta.max_new_tokens
    trained.require(env.deployment())
    trained.require(hat_deployment_of(world.device))
    decides = trained.controller(SCHEMA)
    assert all(answer.quality > 0 for answer in evaluate(env, decides, make_plan(env, 4)))
    answered_live(world, graphs, server, decides, range(4))
    another = save_adapter(tmp_path / "another", tiny_deep, 1, seed=4)
    foreign = HatDevice.load(tiny_deep, another, world.device.profile, max_new_tokens=20)
    with pytest.raises(BundleError, match="was trained with the adapter"):
        trained.require(hat_deployment_of(foreign))


def test_a_bundle_of_one_system_never_acts_in_another(trained: Bundle) -> None:
    with pytest.raises(BundleError, match="of hat, it would act in"):
        trained.controller(synera_schema(2))


def test_the_live_environment_is_driven_by_the_same_bundle(world: SplitWorld, server: str, trained: Bundle) -> None:
    asked = [LivePrompt(text, "free") for text in prompts()[:2]]
    score = lambda prompt, answer: min(1.0, len(answer) / 200)  # noqa: E731
    env = HatLiveEnv(server, world.device, asked, score, [LINK], preference=Preference(), outages=Outages.never())
    decides, state, ended = trained.controller(SCHEMA), None, False
    try:
        observation, _ = env.reset(seed=1)
        while not ended:
            action, state = decides.predict(observation, state, np.array([not env.session.records]))
            observation, _, ended, truncated, info = env.step(action)
            assert not truncated
        assert info["quality_known"]
        assert 0 < info["episode_metrics"]["quality"] <= 1
        assert not math.isnan(info["episode_metrics"]["reward"])
    finally:
        env.close()


@pytest.mark.parametrize("agent", OTHERS)
def test_every_other_agent_trains_and_its_bundle_answers(agent: str, graphs: HatGraphs, tmp_path: Path) -> None:
    bundle = Bundle.load(train(lambda preference: replay(graphs, preference), replay(graphs), small(agent), tmp_path / "run"))
    env = replay(graphs)
    answers = evaluate(env, bundle.controller(SCHEMA), make_plan(env, 2))
    assert (bundle.meta.system, len(answers)) == ("hat", 2)


def test_counterfactual_training_says_that_it_is_of_another_system(graphs: HatGraphs, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is of Synera's chunks, kept or offloaded, and HatReplayEnv has none"):
        train(lambda preference: replay(graphs, preference), replay(graphs), Recipe.of("counterfactual"), tmp_path / "run")


def test_stable_baselines_alone_learns_on_the_id(graphs: HatGraphs) -> None:
    env = replay(graphs, Preference())
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, device="cpu").learn(192)
    observation, _ = env.reset(seed=0)
    assert model.predict(observation)[0] in env.action_space
