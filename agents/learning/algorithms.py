"""Agents by name: how each is built, and how it acts as a controller.

What does not live here: hyperparameters (settings.py), training (run.py), which of its networks acts (agents/networks.py), and what SAC of choices computes (discrete_sac.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import TQC, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import VecEnv

from agents.choices import possible
from agents.learning import settings as of
from agents.learning.choices import choice_table
from agents.learning.discrete_sac import DiscreteSAC
from agents.learning.recipe import Recipe
from agents.scaling import Scaling
from synera_env import Schema

_LEAST_RATE = 0.1
Make = Callable[[Recipe, VecEnv, Schema], BaseAlgorithm]


def chooses(settings: of.Settings) -> bool:
    """Whether an agent acts over choices."""
    if isinstance(settings, of.Either):
        return settings.actions == "choices"
    return isinstance(settings, of.MaskablePPOSettings | of.DQNSettings | of.DiscreteSACSettings)


def build(recipe: Recipe, stepped: VecEnv, schema: Schema) -> BaseAlgorithm:
    """Return an agent, untrained.

    Args:
        recipe: how it is to be trained.
        stepped: the rows, with the actions that the agent takes.
        schema: of the decisions.
    """
    return _MAKERS[recipe.agent](recipe, stepped, schema)


def clonable(recipe: Recipe) -> bool:
    """Whether an agent's actor can be fitted to what another one does, decision by decision: not values (DQN), nor a memory."""
    return recipe.agent not in ("dqn", "recurrent-ppo")


class Acting:
    """An agent under training as a controller; implements :class:`agents.base.Controller`."""

    def __init__(self, model: BaseAlgorithm, schema: Schema, choosing: bool) -> None:
        """See the class.

        Args:
            model: acts with the weights that it has at the moment.
            schema: of the decisions.
            choosing: it acts over choices.
        """
        self.model, self.schema = model, schema
        self._table = choice_table(schema) if choosing else None

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        action, state = self.model.predict(observation, state, episode_start, deterministic)
        return (action if self._table is None else self._table[action]), state


class MaskedActing(Acting):
    """The same of an agent that must be told what cannot be done; implements :class:`agents.base.Masked`."""

    def masks(self, point: Any) -> NDArray[np.bool_]:
        """See :class:`agents.base.Masked`."""
        return possible(self.schema.choices, self.schema, point)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Masked`."""
        assert isinstance(self.model, MaskablePPO)
        action, state = self.model.predict(observation, state, episode_start, deterministic, action_masks)
        return self._table[action], state  # type: ignore[index]


def acting(model: BaseAlgorithm, schema: Schema, choosing: bool) -> Acting:
    """Return an agent under training as a controller; see :class:`Acting`."""
    return (MaskedActing if isinstance(model, MaskablePPO) else Acting)(model, schema, choosing)


# ---------------------------------------------------------------- how each is built


def _scaled(schema: Schema) -> dict[str, Any]:
    stated = {"center": schema.center, "scale": schema.scale}
    return {"features_extractor_class": Scaling, "features_extractor_kwargs": stated}


def _on_policy(kind: Any, policy: str = "MlpPolicy") -> Make:
    def make(recipe: Recipe, stepped: VecEnv, schema: Schema) -> BaseAlgorithm:
        own = recipe.settings
        assert isinstance(own, of.OnPolicy)
        more: dict[str, Any] = {}
        shape: dict[str, Any] = {"net_arch": [own.hidden, own.hidden], **_scaled(schema)}
        if not chooses(own):
            shape["log_std_init"] = -0.5
        if isinstance(own, of.Proximal):
            more = {"batch_size": min(own.minibatch, recipe.envs * own.rollout), "n_epochs": own.epochs}
        if isinstance(own, of.RecurrentPPOSettings):
            shape["lstm_hidden_size"] = own.memory
        return kind(
            policy,
            stepped,
            learning_rate=lambda left: own.learning_rate * max(left, _LEAST_RATE),
            n_steps=own.rollout,
            gamma=1.0,  # an answer is a short episode whose quality is paid at its end
            gae_lambda=own.gae_lambda,
            ent_coef=own.entropy,
            policy_kwargs=shape,
            seed=recipe.seed,
            device="cpu",
            **more,
        )

    return make


def _off_policy(kind: Any, more: Callable[[Any, int], dict[str, Any]]) -> Make:
    def make(recipe: Recipe, stepped: VecEnv, schema: Schema) -> BaseAlgorithm:
        own = recipe.settings
        assert isinstance(own, of.OffPolicy)
        given = more(own, recipe.envs)
        shape = {"net_arch": [own.hidden] * 2, "activation_fn": torch.nn.Tanh, **_scaled(schema)} | given.pop("shape", {})
        return kind(
            "MlpPolicy",
            stepped,
            learning_rate=own.learning_rate,
            buffer_size=own.buffer,
            learning_starts=own.learning_starts,
            batch_size=own.batch,
            train_freq=own.train_every,
            gradient_steps=own.gradient_steps,
            tau=own.tau,
            gamma=own.gamma,
            n_steps=own.n_steps,
            policy_kwargs=shape,
            seed=recipe.seed,
            device="cpu",
            **given,
        )

    return make


def _sac(own: of.SACSettings, envs: int) -> dict[str, Any]:
    return {"ent_coef": f"auto_{own.temperature}"}


def _tqc(own: of.TQCSettings, envs: int) -> dict[str, Any]:
    return {
        **_sac(own, envs),
        "top_quantiles_to_drop_per_net": own.dropped,
        "shape": {"n_quantiles": own.quantiles},
    }


def _td3(recipe: Recipe, stepped: VecEnv, schema: Schema) -> BaseAlgorithm:
    own, knobs = recipe.settings, len(schema.rows)
    assert isinstance(own, of.TD3Settings)
    noise = NormalActionNoise(np.zeros(knobs, np.float32), np.full(knobs, own.noise, np.float32))
    return _off_policy(TD3, lambda *_: {"action_noise": VectorizedActionNoise(noise, recipe.envs)})(recipe, stepped, schema)


def _dqn(own: of.DQNSettings, envs: int) -> dict[str, Any]:
    return {
        "target_update_interval": envs,  # that is, with every step of all of them
        "exploration_fraction": own.exploration,
        "exploration_final_eps": own.random_choices,
    }


def _discrete_sac(own: of.DiscreteSACSettings, envs: int) -> dict[str, Any]:
    return {"temperature": own.temperature, "target_entropy": own.target_entropy}


_MAKERS: dict[str, Make] = {
    "ppo": _on_policy(PPO),
    "a2c": _on_policy(A2C),
    "recurrent-ppo": _on_policy(RecurrentPPO, "MlpLstmPolicy"),
    "maskable-ppo": _on_policy(MaskablePPO),
    "sac": _off_policy(SAC, _sac),
    "td3": _td3,
    "tqc": _off_policy(TQC, _tqc),
    "dqn": _off_policy(DQN, _dqn),
    "discrete-sac": _off_policy(DiscreteSAC, _discrete_sac),
}
