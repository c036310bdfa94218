"""Learned controllers: PPO by Stable-Baselines3 on any environment, and its run folder.

What does not live here: the export to a bundle (export.py, bundle.py) and what TensorBoard shows (callbacks.py).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents.bundle import Normaliser
from agents.callbacks import EpisodeMeans, KeepBest
from agents.evaluation import make_plan
from agents.export import export_policy
from synera_env import DecisionEnv, Preference, SettingError, write_json


@dataclass(frozen=True)
class PPOConfig:
    """How PPO is trained; defaults are what the demo's figures come from."""

    steps: int = 120_000
    """Environment steps (chunks)."""
    envs: int = 16
    """Environments stepped side by side."""
    rollout: int = 128
    """Steps of each environment between updates."""
    minibatch: int = 256
    epochs: int = 6
    learning_rate: float = 1e-3
    """Falls linearly to a tenth."""
    entropy: float = 0.0
    gae_lambda: float = 0.95
    hidden: int = 64
    """Width of the two hidden layers, of policy and value each."""
    preference: str = "default"
    """`default`: the default weights in every episode; `sampled`: drawn for each, so one policy serves all."""
    validation_answers: int = 64
    """Answers of each validation; the best weights are kept."""
    validate_every: int = 8_192
    """Environment steps between validations."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preference not in ("default", "sampled"):
            raise SettingError(f"preference={self.preference!r} is neither 'default' nor 'sampled'")
        for name in ("steps", "envs", "rollout", "minibatch", "epochs", "hidden", "validation_answers", "validate_every"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}={getattr(self, name)} must be at least 1")


class LearnedController:
    """A policy under training with its normaliser; implements :class:`agents.base.Controller`."""

    def __init__(self, model: PPO, normaliser: Callable[[], Normaliser]) -> None:
        self._model, self._normaliser = model, normaliser

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        action, _ = self._model.predict(self._normaliser()(np.asarray(observation)), deterministic=deterministic)
        return action, state


def _normaliser_of(vec: VecNormalize) -> Normaliser:
    rms: Any = vec.obs_rms
    return Normaliser(tuple(map(float, rms.mean)), tuple(map(float, rms.var)), float(vec.clip_obs), float(vec.epsilon))


def train_ppo(
    make_env: Callable[[Preference | None], DecisionEnv],
    validation: DecisionEnv,
    config: PPOConfig,
    folder: Path,
    progress: BaseCallback | None = None,
) -> Path:
    """Train, keep the best weights by validation, and export them.

    Args:
        make_env: makes a training environment for a preference (None samples it).
        validation: environment of other prompts and links.
        config: how.
        folder: run folder; gets `config.json`, `tb/` (TensorBoard), `validation.jsonl`, `bundle/`.
        progress: a callback that shows progress.

    Returns:
        The bundle's folder.

    Raises:
        BundleError: the export failed its parity check.
    """
    folder.mkdir(parents=True, exist_ok=True)
    provenance = _provenance(config, make_env(None), validation)
    write_json(folder / "config.json", provenance)
    (folder / "validation.jsonl").unlink(missing_ok=True)
    preference = Preference() if config.preference == "default" else None
    vec = VecNormalize(DummyVecEnv([lambda: make_env(preference) for _ in range(config.envs)]), norm_reward=False, gamma=1.0)
    vec.seed(config.seed)
    model = PPO(
        "MlpPolicy",
        vec,
        learning_rate=lambda left: config.learning_rate * max(left, 0.1),
        n_steps=config.rollout,
        batch_size=config.minibatch,
        n_epochs=config.epochs,
        gamma=1.0,  # an answer is a short episode whose quality is paid at its end
        gae_lambda=config.gae_lambda,
        ent_coef=config.entropy,
        policy_kwargs={"net_arch": [config.hidden, config.hidden], "log_std_init": -0.5},
        seed=config.seed,
        device="cpu",
    )
    model.set_logger(configure(str(folder / "tb"), ["tensorboard"]))
    controller = LearnedController(model, lambda: _normaliser_of(vec))
    plan = make_plan(validation, config.validation_answers, seed=config.seed)
    best = KeepBest(validation, plan, controller, config.validate_every, folder / "validation.jsonl")
    callbacks: list[BaseCallback] = [EpisodeMeans(), best, *([progress] if progress else [])]
    started = time.monotonic()
    model.learn(config.steps, callback=CallbackList(callbacks), reset_num_timesteps=True)
    best.measure()
    model.policy.load_state_dict(best.best_weights)
    vec.obs_rms = best.best_statistics
    provenance |= {
        "train_seconds": round(time.monotonic() - started, 1),
        "best_steps": best.best_steps,
        "validation_reward": best.best_reward,
    }
    bundle = folder / "bundle"
    export_policy(model.policy, _normaliser_of(vec), controller, validation, provenance, bundle)
    vec.close()
    return bundle


def _provenance(config: PPOConfig, train: DecisionEnv, validation: DecisionEnv) -> dict[str, Any]:
    return {
        "algorithm": "PPO",
        "system": train.schema.system,
        "config": asdict(config),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "train": train.provenance(),
        "validation": validation.provenance(),
        "versions": {name: version(name) for name in ("synera-env", "stable-baselines3", "torch", "gymnasium", "numpy")},
    }
