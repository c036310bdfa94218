"""What of a policy of stable-baselines3 or sb3-contrib decides, as a plain torch module: from observations to actions or scores.

What does not live here: the writing of the module as ONNX (export.py), and what a user's environment does to observations
(user_env.py). To add a kind of policy, register its function with :func:`network_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from agents.bundle import Seen
from agents.scaling import Scaling
from synera_env import SettingError


@dataclass(frozen=True)
class Decider:
    """The deterministic part of a policy."""

    module: torch.nn.Module
    """(observation [batch, entries], then [batch, size] for each state) to the action [batch, knobs] or scores [batch, choices]; with
    states, to a tuple of that and the next ones."""
    state: tuple[int, ...] = ()
    """Entries of each state."""
    masked: bool = False
    """Whether it must be told which choices cannot be done."""
    seen: Seen | None = None
    """What training has met, where the policy knows."""


@singledispatch
def network_of(policy: Any) -> Decider:
    """Return what of a policy decides.

    Raises:
        SettingError: it is of a kind that is not known here.
    """
    raise SettingError(
        f"model={type(policy).__name__} is no policy that can be exported as it is (PPO, A2C, TRPO, SAC, TD3, DDPG, DQN, TQC, RecurrentPPO "
        "and MaskablePPO can): hand over a torch.nn.Module from observations to actions"
    )


@network_of.register
def _actor_critic(policy: ActorCriticPolicy) -> Decider:
    return Decider(_head_of(policy), seen=seen_of(policy.pi_features_extractor))


@network_of.register
def _masked(policy: MaskableActorCriticPolicy) -> Decider:
    return Decider(_head_of(policy), masked=True, seen=seen_of(policy.pi_features_extractor))


@network_of.register
def _recurrent(policy: RecurrentActorCriticPolicy) -> Decider:
    cells = _cells(policy.lstm_actor)
    sizes = tuple(size for cell in cells for size in (cell.hidden_size, cell.hidden_size))
    module = Remembering(policy.pi_features_extractor, cells, _Latent(policy.mlp_extractor), *_action(policy))
    return Decider(module, sizes, seen=seen_of(policy.pi_features_extractor))


@network_of.register(SACPolicy)
@network_of.register(TQCPolicy)
def _squashed(policy: SACPolicy | TQCPolicy) -> Decider:
    actor: Any = policy.actor
    module = torch.nn.Sequential(actor.features_extractor, actor.latent_pi, actor.mu, torch.nn.Tanh())
    return Decider(module, seen=seen_of(actor.features_extractor))


@network_of.register
def _deterministic(policy: TD3Policy) -> Decider:
    actor: Any = policy.actor
    return Decider(torch.nn.Sequential(actor.features_extractor, actor.mu), seen=seen_of(actor.features_extractor))


@network_of.register
def _valued(policy: DQNPolicy) -> Decider:
    values: Any = policy.q_net
    return Decider(torch.nn.Sequential(values.features_extractor, values.q_net), seen=seen_of(values.features_extractor))


def _head_of(policy: Any) -> torch.nn.Module:
    return torch.nn.Sequential(policy.pi_features_extractor, _Latent(policy.mlp_extractor), *_action(policy))


def _action(policy: BasePolicy) -> list[torch.nn.Module]:
    """From the last hidden layer to the mean action or the scores."""
    head: Any = policy.action_net
    return [head, torch.nn.Tanh()] if policy.squash_output else [head]


def seen_of(extractor: Any) -> Seen | None:
    """Return what a features extractor was told that training has met; None for one that is not told."""
    if not isinstance(extractor, Scaling):
        return None
    return Seen(tuple(extractor.low.tolist()), tuple(extractor.high.tolist()))


class _Latent(torch.nn.Module):
    """The actor's half of what actor and critic share the making of."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.extractor.forward_actor(features)


def _cells(lstm: torch.nn.LSTM) -> list[torch.nn.LSTMCell]:
    """One step of each layer of an LSTM; stable-baselines3 steps one observation at a time."""
    if lstm.bidirectional or lstm.proj_size:
        raise SettingError("a recurrent policy that is bidirectional or has projections cannot be exported; train one without")
    cells = []
    for layer in range(lstm.num_layers):
        weights = {name: getattr(lstm, f"{name}_l{layer}", None) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        inside = lstm.input_size if layer == 0 else lstm.hidden_size
        cell = torch.nn.LSTMCell(inside, lstm.hidden_size, bias=lstm.bias)
        cell.load_state_dict({name: weight for name, weight in weights.items() if weight is not None})
        cells.append(cell)
    return cells


class Remembering(torch.nn.Module):
    """A policy with LSTM layers, one step of it; its states are the hidden and the cell state of each layer in turn."""

    def __init__(self, features: torch.nn.Module, cells: Sequence[torch.nn.LSTMCell], *heads: torch.nn.Module) -> None:
        super().__init__()
        self.features, self.cells, self.heads = features, torch.nn.ModuleList(cells), torch.nn.Sequential(*heads)

    def forward(self, observation: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[batch, entries] and [batch, size] each, to [batch, outputs] and the next [batch, size] each."""
        latent, following = self.features(observation), []
        for place, cell in enumerate(self.cells):
            latent, memory = cell(latent, (state[2 * place], state[2 * place + 1]))
            following += [latent, memory]
        return self.heads(latent), *following


class Normalised(torch.nn.Module):
    """A policy behind fixed running statistics: each entry from its mean, by its deviation, clipped.

    An entry that never changed in training has a tiny deviation, so float32 would not hold its mean exactly enough: the mean is
    in two parts.
    """

    mean: torch.Tensor
    rest: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, policy: torch.nn.Module, mean: NDArray, variance: NDArray, epsilon: float, clip: float) -> None:
        """See the class.

        Args:
            policy: sees what comes out.
            mean: [entries].
            variance: [entries].
            epsilon: added to it.
            clip: most that the policy is shown, either way.
        """
        super().__init__()
        exact = torch.as_tensor(mean, dtype=torch.float64)
        self.register_buffer("mean", exact.float())
        self.register_buffer("rest", (exact - exact.float().double()).float())
        self.register_buffer("deviation", (torch.as_tensor(variance, dtype=torch.float64) + epsilon).sqrt().float())
        self.policy, self.clip = policy, clip

    def forward(self, observation: torch.Tensor, *state: torch.Tensor) -> Any:
        """As of the policy."""
        shown = ((observation - self.mean) - self.rest) / self.deviation
        return self.policy(shown.clamp(-self.clip, self.clip), *state)
