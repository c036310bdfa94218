"""Soft actor-critic over discrete actions (Christodoulou, arXiv 1910.07207), on the off-policy base of stable-baselines3.

The action is joint: one choice sets all knobs, as arXiv 2201.02968 has it for offloading; here over the schema's choices. As the
policy gives each choice its probability p(a|s), expectations over actions are exact sums and need no samples:

* critics: Q_i(s, a) towards R + gamma^n (1 - done) V(s'), with R the discounted rewards of n steps, s' what comes after them, and
  V(s') = sum_a p(a|s') (min_i Q'_i(s', a) - alpha log p(a|s')),
* actor: least sum_a p(a|s) (alpha log p(a|s) - min_i Q_i(s, a)),
* temperature alpha: least alpha (H(s) - target) on the mean, H the entropy of p(.|s).

What does not live here: its settings (settings.py).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import polyak_update
from torch.nn import functional as F

from agents.networks import Decider, network_of, seen_of


class _Actor(torch.nn.Module):
    def __init__(self, features_extractor: BaseFeaturesExtractor, layers: list[torch.nn.Module]) -> None:
        super().__init__()
        self.features_extractor, self.mu = features_extractor, torch.nn.Sequential(*layers)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """[batch, entries] to the weights (logits) of the choices, [batch, choices]."""
        return self.mu(self.features_extractor(observation))


class _Critic(torch.nn.Module):
    def __init__(self, features_extractor: BaseFeaturesExtractor, twins: list[torch.nn.Sequential]) -> None:
        super().__init__()
        self.features_extractor, self.twins = features_extractor, torch.nn.ModuleList(twins)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """[batch, entries] to [2, batch, choices]."""
        features = self.features_extractor(observation)
        return torch.stack([twin(features) for twin in self.twins])


class DiscreteSACPolicy(BasePolicy):
    """A network of weights, twin networks of values, and their slow copies."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int],
        activation_fn: type[torch.nn.Module] = torch.nn.Tanh,
        **kwargs: Any,
    ) -> None:
        """See :class:`stable_baselines3.common.policies.BasePolicy`."""
        super().__init__(observation_space, action_space, **kwargs)
        choices = int(action_space.n)

        def layers() -> list[torch.nn.Module]:
            return create_mlp(self.make_features_extractor().features_dim, choices, net_arch, activation_fn)

        self.actor = _Actor(self.make_features_extractor(), layers())
        self.critic = _Critic(self.make_features_extractor(), [torch.nn.Sequential(*layers()) for _ in range(2)])
        self.critic_target = _Critic(self.make_features_extractor(), [torch.nn.Sequential(*layers()) for _ in range(2)])
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=lr_schedule(1))
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=lr_schedule(1))

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        weights = self.actor(observation)
        return weights.argmax(-1) if deterministic else torch.distributions.Categorical(logits=weights).sample()


@network_of.register
def _scores(policy: DiscreteSACPolicy) -> Decider:
    return Decider(policy.actor, seen=seen_of(policy.actor.features_extractor))


class DiscreteSAC(OffPolicyAlgorithm):
    """See the module."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": DiscreteSACPolicy}
    policy: DiscreteSACPolicy

    def __init__(
        self, policy: str, env: GymEnv, *, temperature: float = 0.02, target_entropy: float = 0.2, **options: Any
    ) -> None:
        """See the class.

        Args:
            policy: "MlpPolicy".
            env: with `Discrete` actions.
            temperature: weight of entropy, to begin with.
            target_entropy: share of the largest entropy, the logarithm of the number of choices, that it holds the policy at.
            options: of :class:`stable_baselines3.common.off_policy_algorithm.OffPolicyAlgorithm`.
        """
        super().__init__(
            policy, env, supported_action_spaces=(spaces.Discrete,), support_multi_env=True, sde_support=False, **options
        )
        self._first_temperature, self._target_share = temperature, target_entropy
        self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        self.target_entropy = self._target_share * float(np.log(self.action_space.n))  # type: ignore[attr-defined]
        self.log_temperature = torch.tensor(float(np.log(self._first_temperature)), requires_grad=True)
        self.temperature_optimizer = torch.optim.Adam([self.log_temperature], lr=self.lr_schedule(1))

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take gradients of batches of what is remembered."""
        policy = self.policy
        actor_optimizer, critic_optimizer = policy.actor_optimizer, policy.critic_optimizer
        self._update_learning_rate([actor_optimizer, critic_optimizer, self.temperature_optimizer])
        seen: dict[str, list[float]] = {"critic_loss": [], "actor_loss": [], "entropy": [], "temperature": []}
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)  # type: ignore[union-attr]
            alpha = self.log_temperature.detach().exp()
            with torch.no_grad():
                value = soft_value(policy.actor(batch.next_observations), policy.critic_target(batch.next_observations), alpha)
                discount = self.gamma if batch.discounts is None else batch.discounts[:, 0]
                target = batch.rewards[:, 0] + discount * (1 - batch.dones[:, 0]) * value
            critic_loss = critics_loss(policy.critic(batch.observations), batch.actions[:, 0].long(), target)
            _descend(critic_optimizer, critic_loss)
            with torch.no_grad():
                values = policy.critic(batch.observations)
            weights = policy.actor(batch.observations)
            actor_loss = -soft_value(weights, values, alpha).mean()
            _descend(actor_optimizer, actor_loss)
            nats = entropy(weights.detach())
            _descend(self.temperature_optimizer, temperature_loss(self.log_temperature, nats, self.target_entropy))
            polyak_update(policy.critic.parameters(), policy.critic_target.parameters(), self.tau)
            told = (critic_loss.item(), actor_loss.item(), nats.mean().item(), alpha.item())
            for name, figure in zip(seen, told, strict=True):
                seen[name].append(figure)
        self._n_updates += gradient_steps
        for name, figures in seen.items():
            self.logger.record(f"train/{name}", float(np.mean(figures)))

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.actor_optimizer", "policy.critic_optimizer", "temperature_optimizer"], ["log_temperature"]


def soft_value(weights: torch.Tensor, values: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Return what a state is worth to a policy, its entropy included.

    Args:
        weights: logits of the choices, [batch, choices].
        values: of each critic, [critics, batch, choices]; the least counts.
        alpha: weight of a nat.

    Returns:
        [batch].
    """
    logs = torch.log_softmax(weights, -1)
    return (logs.exp() * (values.min(0).values - alpha * logs)).sum(-1)


def critics_loss(values: torch.Tensor, chosen: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return half the squared error of each critic, summed over critics.

    Args:
        values: [critics, batch, choices].
        chosen: number of the choice taken, [batch].
        target: [batch].
    """
    found = values.gather(-1, chosen.expand(len(values), -1)[..., None])[..., 0]
    return 0.5 * torch.stack([F.mse_loss(each, target) for each in found]).sum()


def temperature_loss(log_alpha: torch.Tensor, nats: torch.Tensor, target: float) -> torch.Tensor:
    """Return alpha (H - target), on the mean: alpha falls where the policy is more random than it is to be."""
    return log_alpha.exp() * (nats - target).mean()


def entropy(weights: torch.Tensor) -> torch.Tensor:
    """Return the nats of each decision, [batch], of logits [batch, choices]."""
    logs = torch.log_softmax(weights, -1)
    return -(logs.exp() * logs).sum(-1)


def _descend(optimizer: Any, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
