"""A search for better settings of an agent: Optuna's TPE, short trainings stopped at the median, in a study that can go on.

What does not live here: where each setting is looked for (settings.py), and the training (run.py, agents/counterfactual/run.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna

from agents.bundle import Bundle
from agents.learning.around import Around
from agents.learning.recipe import Recipe
from agents.learning.run import MakeEnv, train
from agents.learning.settings import Real, Settings, Whole
from agents.learning.settings_file import write_settings
from runtime.settings import shown
from synera_env import DecisionEnv, SettingError

STUDY, BEST = "study.db", "best.yaml"
"""In the folder of a search."""
_RECIPE = "recipe"


@dataclass(frozen=True)
class Tried:
    """A trial that is over."""

    number: int
    settings: dict[str, Any]
    """Those that were looked for."""
    reward: float | None
    """Best of validation; None where the trial was given up before its end."""


@dataclass(frozen=True)
class Attempt:
    """A trial as it is to be trained, wherever that is."""

    recipe: Recipe
    before: tuple[optuna.trial.FrozenTrial, ...]
    """Trials that came to their end before any of its round began; it is given up below their median."""


@dataclass(frozen=True)
class Attempted:
    """What came of one."""

    judged: dict[int, float]
    """Reward of each validation, by steps."""
    reward: float | None
    """See :class:`Tried`."""


Attempts = Callable[[Sequence[Attempt]], Iterable[Attempted]]
"""Trains the trials of a round; in their order."""


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    best: Settings
    trials: tuple[Tried, ...]
    """The best first, those that were given up last."""
    file: Path
    """The best settings."""


def searched(kind: type[Settings]) -> list[str]:
    """Return the names of the settings that a search looks for."""
    return [name for name, allowed in kind.allowed().items() if isinstance(allowed, Real | Whole) and allowed.search]


def suggest(trial: optuna.trial.BaseTrial, settings: Settings) -> Settings:
    """Return settings of which those that are looked for are drawn by a trial.

    Raises:
        SettingError: they do not go together.
    """
    drawn: dict[str, Any] = {}
    for name, allowed in settings.allowed().items():
        if isinstance(allowed, Real) and allowed.search is not None:
            drawn[name] = trial.suggest_float(name, *allowed.search, log=allowed.log)
        elif isinstance(allowed, Whole) and allowed.search:
            drawn[name] = trial.suggest_categorical(name, sorted({*allowed.search, getattr(settings, name)}))
    return replace(settings, **drawn)


def tune(
    make_env: MakeEnv,
    validation: DecisionEnv,
    recipe: Recipe,
    folder: Path,
    trials: int,
    on_trial: Callable[[Tried], object] = lambda tried: None,
    on_step: Callable[[int], object] = lambda steps: None,
    at_once: int = 1,
    attempts: Attempts | None = None,
) -> Found:
    """Try settings, each in a training by the recipe; the first are the recipe's own, as far as they lie where a search looks.

    Args:
        make_env: makes a training environment for a preference.
        validation: environment that trials are judged in, all by one plan.
        recipe: how each is trained, but for the settings that are looked for.
        folder: of the search; an earlier one there, by the same recipe, goes on.
        trials: how many more.
        on_trial: called after each.
        on_step: called with the steps of the trial under way, unless `attempts` are given.
        at_once: trials of a round: all are drawn, and judged, by what was known before it. What is found depends on it, not on
            where they are trained.
        attempts: trains those of a round, by :func:`attempt`; None does so here, one after the other.

    Raises:
        SettingError: the search in the folder is by another recipe.
        SyneraError: as a training raises.
    """
    optuna.logging.set_verbosity(logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = _study(folder, recipe)

    def here(asked: Sequence[Attempt]) -> Iterator[Attempted]:
        return (attempt(make_env, validation, each, on_step) for each in asked)

    for first in range(0, trials, at_once):
        _round(study, recipe, min(at_once, trials - first), attempts or here, on_trial)
    done = [_tried(trial) for trial in study.trials if trial.state.is_finished()]
    ranked = sorted(done, key=lambda tried: float("inf") if tried.reward is None else -tried.reward)
    if not ranked or ranked[0].reward is None:
        raise SettingError(
            f"no trial came to its end; look for more with --trials, or for longer with --steps ({recipe.steps} now)"
        )
    best = replace(recipe.settings, **ranked[0].settings)
    file = folder / BEST
    write_settings(file, best, f"{recipe.agent}: the best of {len(ranked)} trials, validation reward {ranked[0].reward:.4f}")
    return Found(best, tuple(ranked), file)


def attempt(
    make_env: MakeEnv, validation: DecisionEnv, asked: Attempt, on_step: Callable[[int], object] = lambda steps: None
) -> Attempted:
    """Train one trial; for the arguments see :func:`tune`.

    Raises:
        SyneraError: as a training raises.
    """
    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(direction="maximize", pruner=_pruner(asked.recipe))
    study.add_trials(asked.before)
    trial = study.ask()
    try:
        reward: float | None = _reward(make_env, validation, asked.recipe, trial, on_step)
    except optuna.TrialPruned:
        reward = None
    return Attempted(study.trials[-1].intermediate_values, reward)


def _round(study: optuna.Study, recipe: Recipe, trials: int, attempts: Attempts, on_trial: Callable[[Tried], object]) -> None:
    """Draw trials, have them trained, and write down what came of each; those that are not trained failed."""
    states = optuna.trial.TrialState
    before = tuple(study.get_trials(deepcopy=False, states=(states.COMPLETE,)))
    asked: list[tuple[optuna.Trial, Attempt]] = []
    for _ in range(trials):
        trial = study.ask()
        try:
            asked.append((trial, Attempt(replace(recipe, settings=suggest(trial, recipe.settings)), before)))
        except SettingError:  # such as an update over a single step
            on_trial(_tried(study.tell(trial, state=states.PRUNED)))
    left = [trial for trial, _ in asked]
    try:
        for came in attempts([each for _, each in asked]):
            trial = left.pop(0)
            for steps, reward in came.judged.items():
                trial.report(reward, steps)
            state = states.PRUNED if came.reward is None else states.COMPLETE
            on_trial(_tried(study.tell(trial, came.reward, state)))
    finally:
        for trial in left:
            study.tell(trial, state=states.FAIL)


def _pruner(recipe: Recipe) -> optuna.pruners.BasePruner:
    return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=recipe.validate_every)


def _study(folder: Path, recipe: Recipe) -> optuna.Study:
    stated = recipe.as_stated()
    sampler = optuna.samplers.TPESampler(seed=recipe.seed, n_startup_trials=8)
    study = optuna.create_study(
        storage=f"sqlite:///{folder.absolute() / STUDY}",
        study_name="settings",
        direction="maximize",
        load_if_exists=True,
        sampler=sampler,
    )
    before = study.user_attrs.get(_RECIPE)
    if before is None:
        study.set_user_attr(_RECIPE, stated)
        study.enqueue_trial(_own(recipe.settings))
    elif before != stated:
        wrong = next(name for name in stated if before.get(name) != stated[name])
        raise SettingError(
            f"the search in {folder} is with {wrong}={shown(before.get(wrong))}, not {shown(stated[wrong])}; go on with the same, or name "
            "another with --name"
        )
    return study


def _own(settings: Settings) -> dict[str, Any]:
    """Settings as the first trial, but for those that lie where nobody looks."""
    found = {name: getattr(settings, name) for name in searched(type(settings))}
    for name, allowed in settings.allowed().items():
        if isinstance(allowed, Real) and allowed.search and not allowed.search[0] <= found[name] <= allowed.search[1]:
            del found[name]
    return found


def _tried(trial: optuna.trial.FrozenTrial) -> Tried:
    over = trial.state == optuna.trial.TrialState.COMPLETE
    return Tried(trial.number, dict(trial.params), trial.value if over else None)


def _reward(
    make_env: MakeEnv, validation: DecisionEnv, recipe: Recipe, trial: optuna.Trial, on_step: Callable[[int], object]
) -> float:
    """Train, and return the best validation reward; gives up below the median of the trials before it."""

    def judged(steps: int, found: Mapping[str, Any]) -> None:
        if "reward" in found:
            trial.report(found["reward"], steps)
        if trial.should_prune():
            raise optuna.TrialPruned

    with TemporaryDirectory() as folder:
        bundle = train(make_env, validation, recipe, Path(folder) / "trial", Around(on_step=on_step, on_judged=judged))
        return float(Bundle.load(bundle).meta.provenance["validation_reward"])
