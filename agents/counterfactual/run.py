"""The run around counterfactual training: its folder, TensorBoard, validation in the full replay, checkpoints, the bundle.

What does not live here: the gradient steps (learning.py), and PPO (agents/learned.py).
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.logger import Logger, configure

from agents.bundle import Training
from agents.comparison import ADVICE, ELIGIBLE, covered_share, mean_of
from agents.counterfactual.checkpoint import Progress
from agents.counterfactual.config import CounterfactualConfig
from agents.counterfactual.learning import Learner, Stepped, best_rule
from agents.counterfactual.policy import ChoiceController, ChoiceNet
from agents.evaluation import answer_all, make_plan
from agents.export import export_module
from agents.learned import _check_same_models, check_run_name
from agents.scalars import CONFIGURATION, configuration_table
from synera_env import Preference, SyneraReplayEnv, UncoveredError, replacing_folder, write_json
from synera_env.synera.decisions.scenarios import Ranges
from synera_env.synera.decisions.sight import sight_of

CHECKPOINT = "checkpoint.safetensors"
"""In a run's folder: what :func:`train` goes on from."""
_RULE_ANSWERS = 256
_LEAST_RATE = 1 / 30


def train(
    make_env: Callable[[Preference | None], SyneraReplayEnv],
    validation: SyneraReplayEnv,
    config: CounterfactualConfig,
    folder: Path,
    on_step: Callable[[int], object] = lambda steps: None,
    on_start: Callable[[Path], object] = lambda unfinished: None,
    resume: Path | None = None,
) -> Path:
    """Train by all-action gradients on recorded graphs, keep the best weights by validation in the full replay, and export them.

    As :func:`agents.learned.train_ppo` does: the run is written beside `folder`, as NAME.part-*, and takes its place once its
    bundle is there; an unfinished one stays.

    Args:
        make_env: makes the training environment for a preference (None samples it); its graphs, links and profiles are those of
            the process.
        validation: environment of other prompts and links, of the same models; its preference is the default's.
        config: how.
        folder: run folder; gets `config.json`, `tb/` (TensorBoard), `validation.jsonl`, `checkpoint.safetensors`, `bundle/`.
        on_step: called with the steps so far, after each.
        on_start: called with the unfinished folder.
        resume: a checkpoint to go on from, of a training with the same configuration on the same graphs.

    Returns:
        The bundle's folder.

    Raises:
        SettingError: the folder's name is none for a run, training and validation are of different models, the graphs grow, or the
            checkpoint is of another training.
        TraceError: the folder cannot be written.
        UncoveredError: no validation answer stays inside the recorded graphs.
        BundleError: the export failed its parity check.
    """
    check_run_name(folder.name)
    preference = Preference() if config.preference == "default" else None
    env = make_env(preference)
    try:
        _check_same_models(env, validation)
        with replacing_folder(folder, keep=True) as unfinished:
            on_start(unfinished)
            _Run(env, validation, config, unfinished, folder.name, preference).train(on_step, resume)
    finally:
        env.close()
    return folder / "bundle"


class _Run:
    """A training, from its first step to its bundle."""

    def __init__(
        self,
        env: SyneraReplayEnv,
        validation: SyneraReplayEnv,
        config: CounterfactualConfig,
        folder: Path,
        name: str,
        preference: Preference | None,
    ) -> None:
        self._env, self._validation, self._config, self._folder, self._name = env, validation, config, folder, name
        self._sight = sight_of(env)
        torch.manual_seed(config.seed)
        actions = self._sight.work.process.actions
        self._net = ChoiceNet(env.schema, len(actions.knobs), config.hidden)
        ranges = Ranges(env.links, preference, config.load_spread)
        how = config.learning_rate, config.weight_decay, config.seed, config.loss, config.future
        self._learner = Learner(self._net, self._sight, ranges, *how)
        self._controller = ChoiceController(self._net, actions, env.schema)
        self._plan = make_plan(validation, config.validation_answers, seed=config.seed)
        self._progress = Progress()

    def train(self, on_step: Callable[[int], object], resume: Path | None) -> None:
        """Fill the run's folder."""
        provenance = self._provenance()
        write_json(self._folder / "config.json", provenance)
        began, config = time.monotonic(), self._config
        if resume is not None:
            self._progress = Progress.load(resume, self._learner, config)
        logger = configure(str(self._folder / "tb"), ["tensorboard"])
        try:
            logger.record(CONFIGURATION, configuration_table(provenance))
            if resume is None:
                self._begin(provenance)
                self._measure(logger, began)
            began -= self._progress.seconds
            for step in range(self._progress.steps, config.steps):
                self._log(logger, self._step(step))
                self._progress.steps = step + 1
                if (step + 1) % config.validate_every == 0 or step + 1 == config.steps:
                    self._measure(logger, began)
                on_step(step + 1)
        finally:
            logger.close()
        self._export(provenance)

    def _begin(self, provenance: dict[str, Any]) -> None:
        config, learner = self._config, self._learner
        rule = best_rule(self._sight, learner.ranges, _RULE_ANSWERS, learner.rng)
        provenance["imitated"] = asdict(rule) | {"knobs": asdict(self._sight.work.process.actions.knobs[rule.way])}
        learner.imitate(rule, config.imitation, config.answers)

    def _step(self, step: int) -> Stepped:
        config, done = self._config, step / self._config.steps
        rate = config.learning_rate * max(_LEAST_RATE, (1 + math.cos(math.pi * done)) / 2)
        return self._learner.step(config.answers, config.epochs, config.entropy * (1 - done), rate)

    def _log(self, logger: Logger, stepped: Stepped) -> None:
        for name, value in stepped._asdict().items():
            logger.record_mean(f"counterfactual/{name}", value)

    def _measure(self, logger: Logger, began: float) -> None:
        """Validate in the full replay, keep the best weights, and write down how far training has come."""
        progress = self._progress
        answered = answer_all(self._validation, self._controller, self._plan)
        covered = covered_share(answered)
        if not covered and not progress.best_weights:
            raise UncoveredError(f"no validation answer stays inside the recorded graphs; {ADVICE}")
        found = {name: mean_of(answered, name) for name in ("reward", "quality")} if covered else {}
        found["uncovered_rate"] = 1 - covered
        for name, value in found.items():
            logger.record(f"validation/{name}", value)
        logger.dump(progress.steps)
        progress.seconds = time.monotonic() - began
        with (self._folder / "validation.jsonl").open("a") as log:
            log.write(json.dumps({"steps": progress.steps, "seconds": round(progress.seconds, 1), **found}) + "\n")
        rank = covered >= ELIGIBLE, found.get("reward", -math.inf)
        if rank > (progress.best_covered, progress.best_reward):
            progress.best_covered, progress.best_reward = rank
            progress.best_steps = progress.steps
            progress.best_weights = {name: value.detach().clone() for name, value in self._net.state_dict().items()}
        progress.save(self._folder / CHECKPOINT, self._learner, self._config)

    def _export(self, provenance: dict[str, Any]) -> None:
        progress = self._progress
        self._net.load_state_dict(progress.best_weights)
        provenance |= {
            "train_seconds": round(progress.seconds, 1),
            "best_steps": progress.best_steps,
            "validation_reward": progress.best_reward,
        }
        training = Training(self._name, self._env.preferences, self._net.seen, provenance)
        export_module(self._controller.module, self._controller, self._validation, training, self._folder / "bundle")

    def _provenance(self) -> dict[str, Any]:
        states = self._sight.work.process.states
        return {
            "algorithm": "counterfactual",
            "system": self._env.schema.system,
            "config": asdict(self._config),
            "states": len(states.node),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "train": self._env.provenance(),
            "validation": self._validation.provenance(),
            "versions": {name: version(name) for name in ("synera-env", "torch", "numba", "numpy")},
        }
