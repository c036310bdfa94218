"""A training from its recipe to its bundle: any agent, on any environment.

What does not live here: how agents are built (algorithms.py), what they begin from (imitation.py), what watches them
(agents/callbacks.py), the export (agents/export.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.bundle import Training
from agents.callbacks import EachStep, EpisodeMeans, GrowthRate, SeenRange, Validation, WorthOfLeaving, seen_by
from agents.export import export_bundle
from agents.learning.algorithms import acting, build, chooses
from agents.learning.around import Around
from agents.learning.checkpoint import (
    REPLAY,
    Best,
    Checkpoint,
    of_model,
    read_checkpoint,
    require_same,
    restore_model,
    restore_replay,
    write_checkpoint,
    write_replay,
)
from agents.learning.choices import with_choices
from agents.learning.judge import Judge, Stop, best_rival, validation_plan
from agents.learning.recipe import Recipe
from agents.learning.run_folder import CHECKPOINT, CONFIG, LOG, check_run_name, check_same_models, provenance, run_folder
from agents.story import tensorboard
from agents.vector import CompiledVecEnv, SideBySideVecEnv
from synera_env import DecisionEnv, DiscreteChoices, Preference, SettingError, SyneraReplayEnv, write_json

_PACKAGES = ("stable-baselines3", "sb3-contrib", "gymnasium")
_ANSWERS_A_LOG = 200  # of an off-policy agent
MakeEnv = Callable[[Preference | None], DecisionEnv]


def train(make_env: MakeEnv, validation: DecisionEnv, recipe: Recipe, folder: Path, around: Around | None = None) -> Path:
    """Train, keep the best weights by validation, and export them.

    The run is written beside `folder`, as NAME.part-*, and takes its place once its bundle is there; until then, and if
    it fails, an earlier run is untouched, and the unfinished one stays, to be looked at or gone on with.

    Args:
        make_env: makes a training environment for a preference (None samples it).
        validation: environment of other prompts and links.
        recipe: how.
        folder: run folder; gets `config.json` (at the end also what came of it), `tb/` (TensorBoard), `validation.jsonl`,
            `checkpoint.safetensors`, `bundle/`.
        around: see there.

    Returns:
        The bundle's folder.

    Raises:
        SettingError: the folder's name is none for a run, training and validation are of different models, the agent cannot be
            trained in this world or begin so, the checkpoint is of another training, or the bounds of other answers.
        TraceError: the folder cannot be written.
        UncoveredError: no validation answer stays inside the recorded graphs.
        BundleError: the export failed its parity check.
    """
    began, around = time.monotonic(), around or Around()
    check_run_name(folder.name)
    if recipe.agent == "counterfactual":
        return _counterfactual(make_env, validation, recipe, folder, around)
    with ExitStack() as opened:
        world = World.of(make_env, recipe, opened)
        check_same_models(world.first, validation)
        run = Run(world, validation, recipe, around, began)
        with run_folder(folder, around.resume) as unfinished:
            around.on_start(unfinished)
            run.learn(unfinished)
            run.export(folder.name, unfinished)
    return folder / "bundle"


@dataclass(frozen=True)
class World:
    """The training environments, stepped side by side."""

    first: DecisionEnv
    stepped: VecEnv

    @classmethod
    def of(cls, make_env: MakeEnv, recipe: Recipe, opened: ExitStack) -> World:
        """Make them; closed with the stack."""

        def made() -> DecisionEnv:
            env = make_env(recipe.weights)
            opened.callback(env.close)
            return env

        environments = [made()]
        vector = environments[0].vector(recipe.envs)
        if vector is None:
            environments += [made() for _ in range(recipe.envs - 1)]
            stepped: VecEnv = SideBySideVecEnv([lambda env=env: env for env in environments])  # type: ignore[misc]
        else:
            stepped = CompiledVecEnv(vector)
        return cls(environments[0], with_choices(stepped, environments) if chooses(recipe.settings) else stepped)


class Run:
    """A training of an agent of stable-baselines3, from its first step to its bundle."""

    def __init__(self, world: World, validation: DecisionEnv, recipe: Recipe, around: Around, began: float) -> None:
        """Build the agent, and find whom it is to beat; nothing is written.

        Args:
            world: where it is trained.
            validation: see :func:`train`.
            recipe: see there.
            around: see there.
            began: when, on the monotonic clock.

        Raises:
            SettingError: as :func:`train`.
        """
        self._world, self._recipe, self._around = world, recipe, around
        first = world.first
        self.provenance = provenance(recipe.agent, recipe.as_stated(), first, validation, _PACKAGES)
        if around.beginning is not None:
            around.beginning.check(recipe, first.schema)
            self.provenance["beginning"] = around.beginning.as_stated()
        self.model = build(recipe, world.stepped, first.schema)
        plan = validation_plan(validation, recipe)
        bounds = None if around.bounds is None else around.bounds.of_validation(validation, plan)
        rival = best_rival(validation, plan, around.against)
        self.judge = Judge(
            validation,
            plan,
            acting(self.model, first.schema, chooses(recipe.settings)),
            rival,
            Stop.of(recipe),
            began,
            around.on_judged,
            bounds,
        )
        self._seen = SeenRange()

    def learn(self, folder: Path) -> None:
        """Begin or go on, until the steps are done or the judge says that it is enough; and take the best weights.

        Args:
            folder: of the unfinished run.

        Raises:
            SettingError: the checkpoint is of another training.
            UncoveredError: no validation answer stays inside the recorded graphs.
        """
        model, recipe, around = self.model, self._recipe, self._around
        self.judge.log = folder / LOG
        if around.resume is not None:
            self.judge.go_on(read_checkpoint(around.resume, self._take_up))
        write_json(folder / CONFIG, self.provenance)
        if around.resume is None and around.beginning is not None:
            self._seen.met(around.beginning.begin(model, recipe, self._world.stepped, self._world.first.schema))
        growth = GrowthRate(self._world.first)
        # In this order: validation is of the range that was met so far.
        callbacks: list[BaseCallback] = [EpisodeMeans(self.provenance)]
        callbacks += [WorthOfLeaving()] if isinstance(model, OnPolicyAlgorithm) else []
        callbacks += [self._seen, Validation(self.judge, recipe.validate_every, lambda: self._keep(folder)), growth]
        callbacks += [EachStep(around.on_step)]
        callbacks += [around.callback] if around.callback is not None else []
        fresh = around.resume is None
        with tensorboard(folder) as logger:
            model.set_logger(logger)
            model.learn(
                recipe.steps if fresh else max(recipe.steps - model.num_timesteps, 0),
                callback=CallbackList(callbacks),
                log_interval=1 if isinstance(model, OnPolicyAlgorithm) else _ANSWERS_A_LOG,
                reset_num_timesteps=fresh,
            )
            self.judge.end(recipe, logger)
        model.policy.load_state_dict(self.judge.best.best_weights)
        self.provenance |= self.judge.said()
        if grown := growth.totals():
            self.provenance |= {"growth": grown}

    def export(self, name: str, folder: Path) -> None:
        """Write what came of it, and the bundle."""
        write_json(folder / CONFIG, self.provenance)
        training = Training(name, self._world.first.preferences, seen_by(self.model.policy), self.provenance)
        env = DiscreteChoices(self.judge.env) if chooses(self._recipe.settings) else self.judge.env
        export_bundle(self.model, env, folder / "bundle", training=training)
        (folder / REPLAY).unlink(missing_ok=True)

    def _keep(self, folder: Path) -> None:
        """Write down how far training has come."""
        tensors, model = of_model(self.model), self.model
        if self._seen.low is not None and self._seen.high is not None:
            tensors |= {"seen.low": torch.from_numpy(self._seen.low), "seen.high": torch.from_numpy(self._seen.high)}
        notes = {name: self.provenance[name] for name in ("config", "train", "validation")}
        notes |= {"updates": model._n_updates, "beginning": self.provenance.get("beginning")}
        write_replay(folder / REPLAY, model)
        write_checkpoint(folder / CHECKPOINT, tensors, self.judge.best, notes)

    def _take_up(self, found: Checkpoint) -> Best:
        """Bring the agent to where it was, its links, prompts and random choices drawn anew."""
        for what in ("config", "train", "validation"):
            require_same(f"{what}ing" if what == "train" else what, found.notes[what], self.provenance[what])
        best, model = found.best(), self.model
        if found.notes["beginning"]:
            self.provenance["beginning"] = found.notes["beginning"]
        restore_model(model, found.tensors)
        if "seen.low" in found.tensors:
            self._seen.met(torch.stack([found.tensors["seen.low"], found.tensors["seen.high"]]).numpy())
        assert self._around.resume is not None
        restore_replay(self._around.resume.with_name(REPLAY), model)
        model.num_timesteps, model._n_updates = best.steps, found.notes["updates"]
        model.set_random_seed((self._recipe.seed + best.steps) % 2**32)
        return best


def _counterfactual(make_env: MakeEnv, validation: DecisionEnv, recipe: Recipe, folder: Path, around: Around) -> Path:
    from agents.counterfactual.run import train as train_counterfactual

    if around.beginning is not None:
        raise SettingError(
            "counterfactual training begins from the best fixed rule by itself; leave out what it is to begin from"
        )
    if not isinstance(validation, SyneraReplayEnv):
        raise SettingError(
            f"counterfactual training is of Synera's chunks, kept or offloaded, and {type(validation).__name__} has none; take another agent"
        )
    return train_counterfactual(make_env, validation, recipe, folder, around)  # type: ignore[arg-type]
