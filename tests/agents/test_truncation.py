"""What a step that leaves the recorded graphs is worth to PPO: stable-baselines3's own rollout, with a value function that is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.callbacks import EpisodeMeans, WorthOfLeaving
from synera_env import DecisionEnv, Preference
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.cuts import likeliest
from tests.support.recorded import GPU, LINKS, PHONE, Recorded
from tests.support.toy import SCHEMA, TeaEnv, TeaKnobs

STEPS, ENVS = 192, 2
ONLY_TIME = Preference(quality=0.0, latency=1.0, cost=0.0, energy=0.0, traffic=0.0)


class Kept(BaseCallback):
    """What each step of a rollout was told, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.infos: list[list[dict[str, Any]]] = []
        self.rewards: list[NDArray[np.float32]] = []

    def _on_step(self) -> bool:
        self.infos.append(self.locals["infos"])
        self.rewards.append(self.locals["rewards"].copy())  # before what is to come is added
        return True


def rollout(
    make: Callable[[], DecisionEnv],
    value: Callable[[torch.Tensor], torch.Tensor],
    act: Callable[[], NDArray[np.float32]],
    *others: BaseCallback,
) -> tuple[PPO, Kept]:
    """One rollout by stable-baselines3, of actions and a value function that are given."""
    model = PPO(
        "MlpPolicy",
        DummyVecEnv([make] * ENVS),
        n_steps=STEPS,
        batch_size=STEPS,
        gamma=1.0,
        gae_lambda=0.95,
        seed=0,
        device="cpu",
    )
    model.set_logger(configure(None, []))

    def forward(observations: torch.Tensor, deterministic: bool = False) -> tuple[torch.Tensor, ...]:
        actions = torch.as_tensor(np.stack([act() for _ in observations]))
        return actions, value(observations)[:, None], torch.zeros(len(observations))

    model.policy.forward = forward  # type: ignore[method-assign]
    model.policy.predict_values = lambda observations: value(observations)[:, None]  # type: ignore[method-assign]
    kept = Kept()
    _, callback = model._setup_learn(STEPS * ENVS, CallbackList([kept, *others]))
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, STEPS)  # type: ignore[arg-type]
    return model, kept


def told_value(observations: torch.Tensor) -> torch.Tensor:
    """Different for any two observations."""
    return (observations * torch.linspace(0.3, 1.7, observations.shape[1])).sum(1)


def test_what_an_answer_that_leaves_is_worth_is_the_value_of_where_it_left(pair: Recorded) -> None:
    """V of the point before its last step, which is not taken; neither less nor more, as stable-baselines3 computes it."""
    graphs, rng = likeliest(pair.graphs, 0.5), np.random.default_rng(0)
    model, kept = rollout(
        lambda: SyneraReplayEnv(graphs, LINKS, PHONE, GPU, Preference()),
        told_value,
        lambda: rng.uniform(-1, 1, 7).astype(np.float32),
    )
    buffer, left = model.rollout_buffer, 0
    for step, (infos, rewards) in enumerate(zip(kept.infos, kept.rewards, strict=True)):
        for env, info in enumerate(infos):
            paid = sum(info["reward_terms"].values())
            assert rewards[env] == pytest.approx(paid, abs=1e-6)
            if not info["uncovered"]:
                assert buffer.rewards[step, env] == rewards[env]
                continue
            left += 1
            ends = torch.as_tensor(info["terminal_observation"])[None]
            assert buffer.rewards[step, env] == pytest.approx(paid + float(told_value(ends)), rel=1e-5)
            np.testing.assert_array_equal(info["terminal_observation"], buffer.observations[step, env])
            assert buffer.advantages[step, env] == pytest.approx(0.0, abs=1e-4)  # nothing is learned of it, for or against
    assert left > 5


def test_what_is_at_hand_is_what_stable_baselines_asks_for_once_more(pair: Recorded) -> None:
    """The same rollout with and without it, and with it the value function is asked nothing but where the rollout ends."""
    graphs, found = likeliest(pair.graphs, 0.5), []
    for others in ([], [WorthOfLeaving()]):
        rng, asked = np.random.default_rng(0), list[int]()

        def value(observations: torch.Tensor, asked: list[int] = asked) -> torch.Tensor:
            asked.append(len(observations))
            return told_value(observations)

        model, kept = rollout(
            lambda: SyneraReplayEnv(graphs, LINKS, PHONE, GPU, Preference()),
            value,
            lambda rng=rng: rng.uniform(-1, 1, 7).astype(np.float32),
            *others,
        )
        left = sum(info["uncovered"] for infos in kept.infos for info in infos)
        found.append((model.rollout_buffer.rewards, model.rollout_buffer.advantages, left, len(asked) - STEPS - 1))
    (rewards, advantages, left, more), (rewards_at_hand, advantages_at_hand, _, none) = found
    np.testing.assert_allclose(rewards_at_hand, rewards, rtol=1e-6)
    np.testing.assert_allclose(advantages_at_hand, advantages, atol=1e-5)
    assert (more, none) == (left, 0)
    assert left > 5


def time_left(observations: torch.Tensor) -> torch.Tensor:
    """What is still to be paid where a step pours one cup in 0.1 s and only time counts: exact."""
    cups = observations[:, int(SCHEMA.places("left")[0])]
    return -0.1 * cups


def heating(rng: np.random.Generator) -> Callable[[], NDArray[np.float32]]:
    return lambda: SCHEMA.action(TeaKnobs(heat=float(rng.uniform())))


def test_with_an_exact_value_leaving_is_worth_just_what_staying_is() -> None:
    """Half the actions leave, and who leaves pays no more time: were that the end of it, leaving would be the best there is."""
    model, kept = rollout(lambda: TeaEnv(burns_at=0.5, preference=ONLY_TIME), time_left, heating(np.random.default_rng(0)))
    buffer = model.rollout_buffer
    left = np.array([[info["uncovered"] for info in infos] for infos in kept.infos])
    assert 0.3 < left.mean() < 0.7
    np.testing.assert_allclose(buffer.advantages, 0.0, atol=1e-5)
    np.testing.assert_allclose(buffer.returns, buffer.values, atol=1e-5)
    assert buffer.values[left].min() < -0.5


def test_an_end_that_is_not_told_from_truncation_would_make_leaving_a_bargain() -> None:
    """What the test above would see of a wrong rule: the planted fault."""

    class Ends(TeaEnv):
        def step(self, action: NDArray[np.float32]) -> Any:
            observation, reward, terminated, truncated, info = super().step(action)
            return observation, reward, terminated or truncated, False, info

    model, kept = rollout(lambda: Ends(burns_at=0.5, preference=ONLY_TIME), time_left, heating(np.random.default_rng(0)))
    left = np.array([[info["uncovered"] for info in infos] for infos in kept.infos])
    advantages = model.rollout_buffer.advantages
    assert advantages[left].mean() > 0.2
    assert advantages[left].mean() > advantages[~left].mean() + 0.1


def test_means_of_a_rollout_are_of_answers_that_stayed_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an answer would pass for a cheap one."""
    rng, means = np.random.default_rng(1), EpisodeMeans({})
    model = PPO(
        "MlpPolicy", DummyVecEnv([lambda: TeaEnv(burns_at=0.9, preference=ONLY_TIME)] * ENVS), n_steps=STEPS, device="cpu"
    )
    logged: dict[str, Any] = {}
    model.set_logger(configure(None, []))
    monkeypatch.setattr(model.logger, "record", lambda tag, value, *_: logged.update({tag: value}))
    act = heating(rng)
    monkeypatch.setattr(
        model.policy,
        "forward",
        lambda seen, *_: (torch.as_tensor(np.stack([act() for _ in seen])), torch.zeros(len(seen), 1), torch.zeros(len(seen))),
    )
    _, callback = model._setup_learn(STEPS * ENVS, means)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, STEPS)  # type: ignore[arg-type]
    assert 0 < logged["episode/uncovered_rate"] < 1
    assert logged["episode/seconds"] == pytest.approx(0.6)
    assert logged["reward_terms/latency"] == pytest.approx(-0.6)
