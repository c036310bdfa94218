"""Learned controllers: PPO by Stable-Baselines3 on the replay, its run folder, and its export to a bundle.

What does not live here: the bundle's format (bundle.py) and what TensorBoard shows (callbacks.py).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents.bundle import BundleMeta, Normaliser, export
from agents.callbacks import EpisodeMeans, KeepBest
from agents.evaluation import make_plan
from synera_env.reward import Preference
from synera_env.synera.env import SyneraReplayEnv


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
            raise ValueError(f"preference={self.preference!r} is neither 'default' nor 'sampled'")
        for name in ("steps", "envs", "rollout", "minibatch", "epochs", "hidden", "validation_answers", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


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
    make_env: Callable[[Preference | None], SyneraReplayEnv],
    validation: SyneraReplayEnv,
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
    _export(model, vec, controller, validation, provenance, bundle)
    vec.close()
    return bundle


def _provenance(config: PPOConfig, train: SyneraReplayEnv, validation: SyneraReplayEnv) -> dict[str, Any]:
    return {
        "algorithm": "PPO",
        "config": asdict(config),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "graphs": {
            "train": train.graphs.meta.split,
            "validation": validation.graphs.meta.split,
            "train_prompts": len(train.graphs),
        },
        "links": {"train": sorted({x.family for x in train.links}), "traces": len(train.links)},
        "device_profile": train.device.name,
        "cloud_profile": train.cloud.name,
        "llm_fingerprint": train.graphs.meta.llm_fingerprint,
        "versions": {name: version(name) for name in ("synera-env", "stable-baselines3", "torch", "gymnasium", "numpy")},
    }


class _Actor(torch.nn.Module):
    """The deterministic part of an SB3 actor-critic policy: normalised observation to mean action."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.latent, self.head = policy.mlp_extractor.policy_net, policy.action_net

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.head(self.latent(observation))


def _export(
    model: PPO,
    vec: VecNormalize,
    controller: LearnedController,
    validation: SyneraReplayEnv,
    provenance: dict[str, Any],
    folder: Path,
) -> None:
    observations = _sample_observations(validation, controller, samples=256)
    program = torch.onnx.export(
        _Actor(model.policy).eval(),
        (torch.zeros(2, observations.shape[1]),),
        input_names=["observation"],
        output_names=["action"],
        dynamic_shapes={"observation": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # only the legacy exporter returns nothing
    meta = validation.graphs.meta
    export(
        program.model_proto.SerializeToString(),
        BundleMeta(
            name=folder.parent.name,
            schema_hash=validation.encoder.schema_hash,
            exits=validation.encoder.exits,
            normaliser=_normaliser_of(vec),
            max_new_tokens=meta.max_new_tokens,
            slm_fingerprint=meta.slm_fingerprint,
            tokenizer_hash=meta.tokenizer_hash,
            lens_fingerprint=validation.lens.fingerprint,
            parity={},
            provenance=provenance,
        ),
        validation.lens,
        folder,
        controller,
        observations,
    )


def _sample_observations(env: SyneraReplayEnv, controller: LearnedController, samples: int) -> NDArray[np.float32]:
    """Observations that the controller really meets."""
    rows: list[NDArray[np.float32]] = []
    seed = 0
    while len(rows) < samples:
        observation, _ = env.reset(seed=seed)
        done, seed = False, seed + 1
        while not done and len(rows) < samples:
            rows.append(observation)
            observation, _, terminated, truncated, _ = env.step(controller.predict(observation, deterministic=True)[0])
            done = terminated or truncated
    return np.stack(rows)


def write_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, path)
