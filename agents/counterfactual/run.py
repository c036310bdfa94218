"""The run around counterfactual training: its folder, TensorBoard, validation in the full replay, checkpoints, the bundle; and, where
graphs grow, exploration and gradient steps in turns.

What does not live here: the gradient steps (learning.py), exploration (exploring.py), and what all agents share (agents/learning).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from stable_baselines3.common.logger import Logger

from agents.bundle import Training
from agents.counterfactual.checkpoint import load, save
from agents.counterfactual.exploring import Explorer
from agents.counterfactual.learning import Learner, Stepped, best_rule
from agents.counterfactual.policy import ChoiceController, ChoiceNet
from agents.export import export_module
from agents.learning.around import Around
from agents.learning.judge import Judge, Stop, best_rival, validation_plan
from agents.learning.recipe import Recipe
from agents.learning.run_folder import CHECKPOINT, CONFIG, LOG, check_run_name, check_same_models, provenance, run_folder
from agents.learning.settings import CounterfactualSettings
from agents.scalars import CONFIGURATION, configuration_table
from agents.story import tensorboard
from synera_env import Preference, SettingError, SyneraReplayEnv, write_json
from synera_env.synera.decisions.process import Actions, DecisionProcess
from synera_env.synera.decisions.scenarios import Ranges
from synera_env.synera.decisions.sight import sight_by_now

_RULE_ANSWERS = 256
_LEAST_RATE = 1 / 30


def train(
    make_env: Callable[[Preference | None], SyneraReplayEnv],
    validation: SyneraReplayEnv,
    recipe: Recipe,
    folder: Path,
    around: Around | None = None,
) -> Path:
    """Train by all-action gradients on token graphs, keep the best weights by validation in the full replay, and export them.

    Gradients are exact over what is known of the graphs. Where these grow, the policy under training answers prompts in the full
    replay before the first batch and after every so many (see :class:`agents.learning.settings.CounterfactualSettings`), and the
    process is of what is known then. A run that is gone on with draws the same batches; with graphs as they were at its
    checkpoint it goes on as it would have, but that models which run other nodes together round otherwise.

    As :func:`agents.learning.run.train` does, which calls it: the run is written beside `folder`, as NAME.part-*, and takes its
    place once its bundle is there; an unfinished one stays.

    Args:
        make_env: makes the training environment for a preference (None samples it); its graphs, links and profiles are those of
            the process.
        validation: environment of other prompts and links, of the same models; its preference is the default's.
        recipe: how; of the agent `counterfactual`.
        folder: run folder; gets `config.json`, `tb/` (TensorBoard), `validation.jsonl`, `checkpoint.safetensors`, `bundle/`.
        around: see there.

    Returns:
        The bundle's folder.

    Raises:
        SettingError: the folder's name is none for a run, training and validation are of different models, nothing is known of
            the graphs and they are not explored, the cloud serves others, the checkpoint is of another training, or the bounds of other
            answers.
        TraceError: the folder cannot be written.
        UncoveredError: no validation answer stays inside the recorded graphs.
        BundleError: the export failed its parity check.
    """
    began, around = time.monotonic(), around or Around()
    check_run_name(folder.name)
    env = make_env(recipe.weights)
    try:
        check_same_models(env, validation)
        _check_world(env)
        with run_folder(folder, around.resume) as unfinished:
            around.on_start(unfinished)
            run = _Run(env, validation, recipe, unfinished, around, began)
            run.train(around.on_step, around.resume)
            run.export(folder.name)
    finally:
        env.close()
    return folder / "bundle"


def _check_world(env: SyneraReplayEnv) -> None:
    if env.cloud_load is not None:
        raise SettingError(
            "counterfactual training knows how long the cloud waits by its profile alone; leave out --workload, or train another agent"
        )


class _Run:
    """A training, from its first step to its bundle."""

    def __init__(
        self,
        env: SyneraReplayEnv,
        validation: SyneraReplayEnv,
        recipe: Recipe,
        folder: Path,
        around: Around,
        began: float,
    ) -> None:
        assert isinstance(recipe.settings, CounterfactualSettings)
        self._env, self._validation, self._folder = env, validation, folder
        self._recipe, self._own = recipe, recipe.settings
        torch.manual_seed(recipe.seed)
        actions, own = Actions.of(env.schema), self._own
        self._net = ChoiceNet(env.schema, len(actions.knobs), own.hidden)
        ranges = Ranges(env.links, recipe.weights, own.load_spread)
        how = own.learning_rate, own.weight_decay, recipe.seed, own.loss, own.future
        self._learner = Learner(self._net, sight_by_now(env), ranges, *how)
        exploring = own.explore_answers, own.explore_random, recipe.seed
        self._explorer = Explorer(env, ranges, actions, *exploring) if own.explore_every and env.growth() else None
        if self._explorer is None and not len(self._process.startable):
            raise SettingError(
                f"of none of the {len(env.graphs)} prompts an answer was recorded, and explore_every=0 never explores; set it, or record"
            )
        self._controller = ChoiceController(self._net, actions, env.schema)
        plan = validation_plan(validation, recipe)
        bounds = None if around.bounds is None else around.bounds.of_validation(validation, plan)
        rival, stop = best_rival(validation, plan, around.against), Stop.of(recipe)
        self._judge = Judge(validation, plan, self._controller, rival, stop, began, around.on_judged, bounds)
        self._judge.log = folder / LOG
        self._provenance = provenance(recipe.agent, recipe.as_stated(), env, validation, ("stable-baselines3", "numba"))
        self._provenance["states"] = len(self._process.states.node)

    @property
    def _process(self) -> DecisionProcess:
        return self._learner.sight.work.process

    def train(self, on_step: Callable[[int], object], resume: Path | None) -> None:
        """Train until the steps are done or the judge says that it is enough."""
        write_json(self._folder / CONFIG, self._provenance)
        recipe, judge = self._recipe, self._judge
        if resume is not None:
            judge.go_on(load(resume, self._learner, recipe))
        with tensorboard(self._folder) as logger:
            logger.record(CONFIGURATION, configuration_table(self._provenance))
            if not len(self._process.startable):
                self._explore(0, logger)
            if resume is None:
                self._begin()
                self._measure(0, logger)
            for step in range(judge.best.steps, recipe.steps):
                if judge.stopped:
                    break
                if self._own.explore_every and step % self._own.explore_every == 0:
                    self._explore(1 + step, logger)
                self._log(logger, self._step(step))
                if (step + 1) % recipe.validate_every == 0 or step + 1 == recipe.steps:
                    self._measure(step + 1, logger)
                on_step(step + 1)
            judge.end(recipe, logger)

    def _begin(self) -> None:
        recipe, learner = self._own, self._learner
        rule = best_rule(learner.sight, learner.ranges, _RULE_ANSWERS, learner.rng)
        self._provenance["imitated"] = asdict(rule) | {"knobs": asdict(self._process.actions.knobs[rule.way])}
        learner.imitate(rule, recipe.imitation, recipe.answers)

    def _explore(self, number: int, logger: Logger) -> None:
        """Where graphs grow, find out what the policy would do next."""
        if self._explorer is None:
            return
        before = self._env.growth()["nodes"]
        self._explorer.explore(self._net, number)
        self._learner.sight = sight_by_now(self._env)
        nodes = self._env.growth()["nodes"]
        logger.record("growth/nodes", nodes)
        logger.record("growth/new_nodes", nodes - before)
        logger.record("growth/states", len(self._process.states.node))

    def _step(self, step: int) -> Stepped:
        own, done = self._own, max(step / self._recipe.steps, self._judge.spent)
        rate = own.learning_rate * max(_LEAST_RATE, (1 + math.cos(math.pi * done)) / 2)
        return self._learner.step(own.answers, own.epochs, own.entropy * (1 - done), rate)

    def _log(self, logger: Logger, stepped: Stepped) -> None:
        for name, value in stepped._asdict().items():
            logger.record_mean(f"counterfactual/{name}", value)

    def _measure(self, steps: int, logger: Logger) -> None:
        """Validate in the full replay, keep the best weights, and write down how far training has come."""
        self._judge.measure(steps, self._net.state_dict, logger)
        save(self._folder / CHECKPOINT, self._judge.best, self._learner, self._recipe)

    def export(self, name: str) -> None:
        """Write what came of it, and the bundle."""
        self._judge.warn()
        self._net.load_state_dict(self._judge.best.best_weights)
        self._provenance |= self._judge.said()
        if grown := self._env.growth():
            self._provenance["growth"] = dict(grown) | {"states": len(self._process.states.node)}
        write_json(self._folder / CONFIG, self._provenance)
        training = Training(name, self._env.preferences, self._net.seen, self._provenance)
        export_module(self._controller.module, self._controller, self._validation, training, self._folder / "bundle")
