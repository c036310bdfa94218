"""Learned controllers: PPO by Stable-Baselines3 on any environment, and its run folder.

What does not live here: what the network is shown (scaling.py), the export to a bundle (export.py, bundle.py) and what
watches a training (callbacks.py).
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

from agents.bundle import NAME_PATTERN, Training
from agents.callbacks import EpisodeMeans, GrowthRate, KeepBest, SeenRange, WorthOfLeaving, seen_by
from agents.evaluation import MOST_ANSWERS, make_plan
from agents.export import export_policy
from agents.scaling import Scaling
from agents.vector import CompiledVecEnv, SideBySideVecEnv
from runtime.settings import above, one_of, shown, whole, within
from synera_env import DecisionEnv, Preference, SettingError, replacing_folder, write_json

_COUNTS = {
    "steps": (1, 1_000_000_000),
    "envs": (1, 1024),
    "rollout": (1, 1_000_000),
    "minibatch": (2, 1_000_000),
    "epochs": (1, 1000),
    "hidden": (1, 4096),
    "validation_answers": (1, MOST_ANSWERS),
    "validate_every": (1, 1_000_000_000),
    "seed": (0, 2**32 - 1),
}


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
    """Steps of one gradient; at most those of a rollout of all environments."""
    epochs: int = 6
    """Passes over a rollout."""
    learning_rate: float = 1e-3
    """Falls linearly to a tenth."""
    entropy: float = 0.0
    """Weight of the entropy bonus."""
    gae_lambda: float = 0.95
    """Of the advantage estimate, 0..1."""
    hidden: int = 64
    """Width of the two hidden layers, of policy and value each."""
    preference: str = "default"
    """`default`: the default weights in every episode; `sampled`: drawn for each, so one policy serves all."""
    validation_answers: int = 64
    """Answers of each validation; the best weights are kept."""
    validate_every: int = 8_192
    """Environment steps between validations."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        one_of("preference", self.preference, ("default", "sampled"))
        for name, (low, high) in _COUNTS.items():
            whole(name, getattr(self, name), low, high)
        above("learning_rate", self.learning_rate, 0.0)
        within("learning_rate", self.learning_rate, 0.0, 1.0)
        within("entropy", self.entropy, 0.0, 10.0)
        within("gae_lambda", self.gae_lambda, 0.0, 1.0)
        if self.minibatch > (most := self.envs * self.rollout):
            raise SettingError(
                f"minibatch={self.minibatch} must be at most envs * rollout, {self.envs} * {self.rollout} = {most}"
            )


def train_ppo(
    make_env: Callable[[Preference | None], DecisionEnv],
    validation: DecisionEnv,
    config: PPOConfig,
    folder: Path,
    progress: BaseCallback | None = None,
    on_start: Callable[[Path], None] = lambda unfinished: None,
) -> Path:
    """Train, keep the best weights by validation, and export them.

    The run is written beside `folder`, as NAME.part-*, and takes its place once its bundle is there; until then, and if
    it fails, an earlier run is untouched, and the unfinished one stays for who wants to look at it.

    Args:
        make_env: makes a training environment for a preference (None samples it).
        validation: environment of other prompts and links.
        config: how.
        folder: run folder; gets `config.json` (at the end also what the graphs grew by, if they do), `tb/` (TensorBoard), `validation.jsonl`, `bundle/`.
        progress: a callback that shows progress.
        on_start: called with the unfinished folder.

    Returns:
        The bundle's folder.

    Raises:
        SettingError: the folder's name is none for a run, or training and validation are of different models.
        TraceError: the folder cannot be written.
        UncoveredError: no validation answer stays inside the recorded graphs.
        BundleError: the export failed its parity check.
    """
    check_run_name(folder.name)
    preference = Preference() if config.preference == "default" else None
    environments = [make_env(preference)]
    try:
        _check_same_models(environments[0], validation)
        with replacing_folder(folder, keep=True) as unfinished:
            on_start(unfinished)
            vector = environments[0].vector(config.envs)
            if vector is None:
                environments += [make_env(preference) for _ in range(config.envs - 1)]
                stepped: VecEnv = SideBySideVecEnv([lambda env=env: env for env in environments])  # type: ignore[misc]
            else:
                stepped = CompiledVecEnv(vector)
            _train(environments[0], stepped, validation, config, unfinished, folder.name, progress)
    finally:
        for env in environments:
            env.close()
    return folder / "bundle"


def check_run_name(name: str) -> None:
    """Do nothing for a name that a run can have.

    Raises:
        SettingError: it has another character than letters, digits and `._-`, begins with a dot, or is too long.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise SettingError(
            f"name={shown(name)} must be letters, digits and ._-, not begin with a dot, and have 1 to 80 characters"
        )


def _train(
    train: DecisionEnv,
    stepped: VecEnv,
    validation: DecisionEnv,
    config: PPOConfig,
    folder: Path,
    name: str,
    progress: BaseCallback | None,
) -> None:
    """Fill a run folder."""
    provenance = _provenance(config, train, validation)
    write_json(folder / "config.json", provenance)
    model = _ppo(train, stepped, config)
    model.set_logger(configure(str(folder / "tb"), ["tensorboard"]))
    plan = make_plan(validation, config.validation_answers, seed=config.seed)
    best = KeepBest(validation, plan, model, config.validate_every, folder / "validation.jsonl")
    # In this order: validation is of the range that was met so far.
    growth = GrowthRate(train)
    callbacks: list[BaseCallback] = [EpisodeMeans(provenance), WorthOfLeaving(), SeenRange(), best, growth]
    callbacks += [progress] if progress else []
    started = time.monotonic()
    try:
        model.learn(config.steps, callback=CallbackList(callbacks), reset_num_timesteps=True)
    finally:
        model.logger.close()
    model.policy.load_state_dict(best.best_weights)
    provenance |= {
        "train_seconds": round(time.monotonic() - started, 1),
        "best_steps": best.best_steps,
        "validation_reward": best.best_reward,
    }
    if grown := growth.totals():
        provenance |= {"growth": grown}
        write_json(folder / "config.json", provenance)
    training = Training(name, train.preferences, seen_by(model.policy), provenance)
    export_policy(model.policy, model, validation, training, folder / "bundle")


def _ppo(train: DecisionEnv, stepped: VecEnv, config: PPOConfig) -> PPO:
    schema = train.schema
    return PPO(
        "MlpPolicy",
        stepped,
        learning_rate=lambda left: config.learning_rate * max(left, 0.1),
        n_steps=config.rollout,
        batch_size=config.minibatch,
        n_epochs=config.epochs,
        gamma=1.0,  # an answer is a short episode whose quality is paid at its end
        gae_lambda=config.gae_lambda,
        ent_coef=config.entropy,
        policy_kwargs={
            "net_arch": [config.hidden, config.hidden],
            "log_std_init": -0.5,
            "features_extractor_class": Scaling,
            "features_extractor_kwargs": {"center": schema.center, "scale": schema.scale},
        },
        seed=config.seed,
        device="cpu",
    )


def _check_same_models(train: DecisionEnv, validation: DecisionEnv) -> None:
    """A bundle states what it was validated with; that must be what it was trained with."""
    there = validation.deployment().fingerprints
    for what, here in train.deployment().fingerprints.items():
        if there.get(what, here) != here:
            raise SettingError(
                f"training and validation are of different models: the {what} {here} there, {there[what]} here; record both with one pair"
            )


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
