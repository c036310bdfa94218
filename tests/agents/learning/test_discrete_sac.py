"""SAC of choices: its losses against a hand computation, and a problem whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.learning import discrete_sac
from agents.learning.discrete_sac import DiscreteSAC, critics_loss, entropy, soft_value, temperature_loss

P = (0.5, 0.3, 0.2)
WEIGHTS = torch.log(torch.tensor([P]))
VALUES = torch.tensor([[[1.0, 2.0, 4.0]], [[1.5, 1.0, 3.0]]])  # the least: 1, 1, 3
NATS = -sum(p * math.log(p) for p in P)


def test_what_a_state_is_worth_is_the_mean_of_the_least_critic_and_the_entropy() -> None:
    wanted = 0.5 * 1.0 + 0.3 * 1.0 + 0.2 * 3.0 + 0.1 * NATS
    assert soft_value(WEIGHTS, VALUES, torch.tensor(0.1)).tolist() == [pytest.approx(wanted)]
    assert entropy(WEIGHTS).tolist() == [pytest.approx(NATS)]


def test_critics_are_held_to_what_they_said_of_the_choice_that_was_taken() -> None:
    values = VALUES.repeat(1, 2, 1)  # two states alike
    found = critics_loss(values, torch.tensor([1, 2]), torch.tensor([0.5, 3.5]))
    first, second = ((2 - 0.5) ** 2 + (4 - 3.5) ** 2) / 2, ((1 - 0.5) ** 2 + (3 - 3.5) ** 2) / 2
    assert found.item() == pytest.approx(0.5 * (first + second))


def test_the_temperature_falls_where_the_policy_is_more_random_than_it_is_to_be() -> None:
    log_alpha = torch.tensor(math.log(0.2), requires_grad=True)
    for target, sign in ((NATS - 0.5, 1.0), (NATS + 0.5, -1.0)):
        loss = temperature_loss(log_alpha, entropy(WEIGHTS), target)
        assert loss.item() == pytest.approx(0.2 * sign * 0.5)
        (gradient,) = torch.autograd.grad(loss, log_alpha)
        assert gradient.item() == pytest.approx(0.2 * sign * 0.5)  # descent lowers it where this is above zero


def test_the_gradient_of_the_actor_is_that_of_the_written_sum() -> None:
    weights = WEIGHTS.clone().requires_grad_()
    alpha = torch.tensor(0.1)
    (-soft_value(weights, VALUES, alpha).mean()).backward()
    least, logs = (1.0, 1.0, 3.0), [math.log(p) for p in P]
    loss = sum(p * (0.1 * log - q) for p, log, q in zip(P, logs, least, strict=True))
    wanted = [p * (0.1 * log - q - loss) for p, log, q in zip(P, logs, least, strict=True)]
    assert weights.grad is not None
    np.testing.assert_allclose(weights.grad[0], wanted, atol=1e-6)


def seen(steps: int, paid: float) -> Any:
    """Of each right choice, [3, 4]."""
    told = np.eye(3, dtype=np.float32) * (1 if steps == 0 else -1)
    return np.concatenate([told, np.full((3, 1), paid, np.float32)], 1)


class Corridor(gym.Env[Any, Any]):
    """Two steps; the right choice is told by the observation, as is what was earned, which is paid only at the end."""

    observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.right, self.steps, self.paid = int(self.np_random.integers(3)), 0, 0.0
        return self._seen(), {}

    def _seen(self) -> Any:
        return seen(self.steps, self.paid)[self.right]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        wanted = self.right if self.steps == 0 else (self.right + 1) % 3
        self.paid += 0.5 * (int(action) == wanted)
        self.steps += 1
        over = self.steps == 2
        return self._seen(), self.paid if over else 0.0, over, False, {}


@pytest.fixture(scope="module", params=[1, 2], ids=["one step", "two steps"])
def learned(request: pytest.FixtureRequest) -> DiscreteSAC:
    torch.manual_seed(0)
    model = DiscreteSAC(
        "MlpPolicy",
        DummyVecEnv([Corridor] * 4),
        n_steps=request.param,
        learning_rate=5e-3,
        buffer_size=2000,
        learning_starts=100,
        batch_size=64,
        train_freq=4,
        gradient_steps=8,
        tau=0.05,
        gamma=1.0,
        temperature=0.1,
        target_entropy=0.1,
        policy_kwargs={"net_arch": [32, 32]},
        seed=0,
        device="cpu",
    )
    return model.learn(2_400)


def test_it_learns_what_pays_only_later(learned: DiscreteSAC) -> None:
    assert learned.predict(seen(0, 0.0), deterministic=True)[0].tolist() == [0, 1, 2]
    assert learned.predict(seen(1, 0.5), deterministic=True)[0].tolist() == [1, 2, 0]
    with torch.no_grad():
        values = learned.policy.critic(torch.from_numpy(seen(0, 0.0))).min(0).values.max(1).values
    np.testing.assert_allclose(values, 1.0, atol=0.25)


def test_its_entropy_is_held_near_its_target(learned: DiscreteSAC) -> None:
    met = torch.from_numpy(np.concatenate([seen(0, 0.0), seen(1, 0.5)]))
    with torch.no_grad():
        nats = entropy(learned.policy.actor(met)).mean().item()
    assert learned.target_entropy == pytest.approx(0.1 * math.log(3))
    assert nats < 0.5 * math.log(3)
    assert learned.log_temperature.exp().item() != pytest.approx(0.1)


def test_a_target_is_the_rewards_of_several_steps_and_what_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"net_arch": [8]}
    model = DiscreteSAC(
        "MlpPolicy",
        DummyVecEnv([Corridor] * 2),
        learning_rate=0.01,
        learning_starts=40,
        n_steps=2,
        gamma=0.5,
        policy_kwargs=shape,
    )
    model.learn(40)
    held = model.replay_buffer.sample(64)  # type: ignore[union-attr]
    # An answer has two steps: from its first, two are summed; from its second, one.
    assert set(held.discounts.flatten().tolist()) == {0.25, 0.5}
    going_on, targets = held._replace(dones=torch.zeros_like(held.dones)), list[torch.Tensor]()
    monkeypatch.setattr(model.replay_buffer, "sample", lambda _: going_on)
    monkeypatch.setattr(discrete_sac, "critics_loss", lambda values, actions, target: targets.append(target) or values.sum())
    with torch.no_grad():
        policy, alpha = model.policy, model.log_temperature.exp()
        after = soft_value(policy.actor(held.next_observations), policy.critic_target(held.next_observations), alpha)
    model.train(1, 64)
    torch.testing.assert_close(targets[0], held.rewards[:, 0] + held.discounts[:, 0] * after)
