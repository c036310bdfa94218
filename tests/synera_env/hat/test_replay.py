"""`HatReplay-v0`: a Gymnasium environment whose answers depend on the seed alone, and whose rewards add up."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import synera_env  # noqa: F401 - registers the ids
from runtime.errors import SettingError
from runtime.hat.knobs import Knobs
from synera_env.hat.replay import HatReplayEnv
from synera_env.hat.schema import hat_schema
from synera_env.radio import Outages
from synera_env.reward import Preference
from tests.support.hat import recorded_hat
from tests.support.recorded import GPU, LINKS, PHONE
from traces.errors import TraceError
from traces.hat.graph import HatGraphs

KNOBS = len(hat_schema().rows)


@pytest.fixture
def graphs(tiny_deep: Path) -> HatGraphs:
    return recorded_hat(tiny_deep)


def world(graphs: HatGraphs, **more: Any) -> dict[str, Any]:
    return {"graphs": graphs, "links": LINKS, "device": PHONE, "cloud": GPU} | more


def answer(env: Any, seed: int, options: dict[str, Any] | None = None) -> tuple[list[Any], dict[str, Any]]:
    """Answer with random actions; return all that was seen and earned, and the last info."""
    observation, _ = env.reset(seed=seed, options=options)
    rng, told, ended = np.random.default_rng(seed), [observation.tolist()], False
    while not ended:
        observation, reward, ended, truncated, info = env.step(rng.uniform(-1, 1, KNOBS).astype(np.float32))
        assert not truncated
        told.append((observation.tolist(), reward))
    return told, info


def test_it_is_an_environment_as_gymnasium_and_stable_baselines_check_them(graphs: HatGraphs) -> None:
    env = gym.make("HatReplay-v0", **world(graphs, render_mode="ansi"))
    check_env(env.unwrapped)
    sb3_check_env(env)
    assert env.unwrapped.vector(4) is None  # type: ignore[attr-defined]  # rows are stepped one by one


def test_the_seed_alone_says_what_an_answer_is_and_a_pickled_copy_gives_the_same(graphs: HatGraphs) -> None:
    env = HatReplayEnv(**world(graphs))
    copy = pickle.loads(pickle.dumps(env))  # noqa: S301 - our own
    for seed in range(3):
        first = answer(env, seed)
        answer(env, seed + 100)
        assert answer(env, seed)[0] == first[0] == answer(copy, seed)[0]
    assert answer(env, 0)[0] != answer(env, 1)[0]


def test_files_make_the_same_world(graphs: HatGraphs, tmp_path: Path) -> None:
    graphs.save(tmp_path / "graphs.safetensors")
    PHONE.save(tmp_path / "phone.json")
    files = HatReplayEnv(tmp_path / "graphs.safetensors", LINKS, tmp_path / "phone.json", asdict(GPU))
    assert answer(files, 5)[0] == answer(HatReplayEnv(**world(graphs)), 5)[0]


@pytest.mark.parametrize("weight", [0.0, 1.0, 4.0])
def test_rewards_add_up_and_the_first_token_weighs_as_much_as_it_is_said_to(graphs: HatGraphs, weight: float) -> None:
    preference = Preference(latency=0.5)
    plain = HatReplayEnv(**world(graphs, preference=preference))
    env = HatReplayEnv(**world(graphs, preference=preference, first_token_weight=weight))
    for seed in range(3):
        told, info = answer(env, seed)
        metrics = info["episode_metrics"]
        total = sum(reward for _, reward in told[1:])
        assert total == pytest.approx(metrics["reward"])
        unweighted = answer(plain, seed)[1]["episode_metrics"]
        assert metrics["ttft_seconds"] == unweighted["ttft_seconds"]
        lost = preference.latency * (weight - 1) * metrics["ttft_seconds"]
        assert total == pytest.approx(unweighted["reward"] - lost)
    assert env.provenance()["first_token_weight"] == weight


def test_the_precision_of_the_first_decision_says_which_answer_is_scored(graphs: HatGraphs) -> None:
    env = HatReplayEnv(**world(graphs, outages=Outages.never()))
    for prompt in range(len(graphs)):
        for precision in range(3):
            env.reset(seed=0, options={"prompt": prompt})
            *_, terminated, _, info = env.advance(Knobs(precision=precision))
            while not terminated:
                *_, terminated, _, info = env.advance(Knobs(precision=0))
            wanted = graphs.graph(prompt, precision)
            assert info["episode_metrics"]["quality"] == pytest.approx(wanted.score)
            assert env.session.answer == tuple(wanted.token.tolist())  # type: ignore[attr-defined]


def test_an_answer_whose_cloud_is_lost_ends_there_and_is_worth_nothing(graphs: HatGraphs) -> None:
    env = HatReplayEnv(**world(graphs))
    episode = env.episode(seed=1, options={"prompt": 1}, lost=frozenset({3}))
    session, point = episode.session, None
    session.begin(episode.prompt_tokens, env.schema.first_knobs)
    while (step := session.advance(Knobs(precision=1))).point is not None:
        point = step.point
    assert point is not None
    assert len(session.records) == 3
    assert "no answer in time" in (session.records[-1].error or "")
    assert episode.score() == 0.0


def test_choices_are_all_possible_at_every_decision(graphs: HatGraphs) -> None:
    env = gym.make("HatReplay-discrete-v0", **world(graphs))
    env.reset(seed=2)
    ended = False
    for number in range(200):
        assert env.get_wrapper_attr("action_masks")().all()
        *_, ended, _, _ = env.step(np.int64(number % int(env.action_space.n)))  # type: ignore[attr-defined]
        if ended:
            break
    assert ended


def test_it_shows_each_upload(graphs: HatGraphs) -> None:
    env = HatReplayEnv(**world(graphs, render_mode="ansi", outages=Outages.never()))
    answer(env, 3)
    lines = str(env.render()).splitlines()
    assert len(lines) == len(env.session.records)
    assert "prompt" in lines[0]
    assert "draft" in lines[-1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"first_token_weight": -1.0}, r"first_token_weight=-1"),
        ({"first_token_weight": 1001.0}, r"first_token_weight=1001"),
        ({"first_token_weight": float("nan")}, r"first_token_weight=nan"),
        ({"graphs": 3}, "graphs=3"),
        ({"device": {"no": 1}}, "device has no field 'no'"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_what_cannot_be_used_is_named(graphs: HatGraphs, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        HatReplayEnv(**world(graphs) | wrong)


def test_graphs_of_another_system_are_no_graphs_of_this_one(tmp_path: Path, tiny_llm: Path) -> None:
    from tests.support.recorded import recorded

    recorded(tiny_llm).graphs.save(tmp_path / "synera.safetensors")
    with pytest.raises(TraceError, match="holds no token graphs of this kind; record some with: synera record --system hat"):
        HatReplayEnv(tmp_path / "synera.safetensors")
