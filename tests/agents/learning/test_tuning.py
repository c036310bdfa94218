"""A search for settings: what it tries, that it goes on, and that training takes what it writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from agents.learning import tuning
from agents.learning.recipe import AGENTS, Recipe
from agents.learning.settings import PPOSettings, Real, Whole
from agents.learning.settings_file import read_settings, tuned
from agents.learning.tuning import Tried, searched, suggest, tune
from synera_env import SettingError
from tests.agents.learning.test_agents import small
from tests.support.recorded import Recorded


@pytest.mark.parametrize("agent", AGENTS)
def test_trials_stay_where_a_search_looks(agent: str) -> None:
    own = tuned(agent, AGENTS[agent].settings)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [suggest(study.ask(), own) for _ in range(8)]
    for name, allowed in own.allowed().items():
        values = {getattr(each, name) for each in drawn}
        if isinstance(allowed, Real | Whole) and allowed.search:
            assert len(values) > 1
            assert values <= {*allowed.search, getattr(own, name)} or isinstance(allowed, Real)
            assert min(*allowed.search, getattr(own, name)) <= min(values)
            assert max(values) <= max(*allowed.search, getattr(own, name))
        else:
            assert values == {getattr(own, name)}


def test_it_finds_what_is_best_gives_up_what_is_not_and_goes_on(
    pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainings are stood in for: what settings are worth is known, larger rates being better."""
    recipe = Recipe.of("a2c", steps=100, validate_every=10)
    heard: list[Tried] = []

    def worth(make_env: Any, validation: Any, recipe: Recipe, trial: optuna.Trial, on_step: Any) -> float:
        reward = recipe.settings.learning_rate
        for steps in (10, 20, 30):
            trial.report(reward * steps, steps)
            if trial.should_prune():
                raise optuna.TrialPruned
        return reward

    monkeypatch.setattr(tuning, "_reward", worth)
    found = tune(None, pair.env(), recipe, tmp_path, 12, heard.append)  # type: ignore[arg-type]
    assert len(heard) == len(found.trials) == 12
    assert heard[0].settings["learning_rate"] == recipe.settings.learning_rate  # its own come first
    assert any(tried.reward is None for tried in found.trials)
    kept = [tried.reward for tried in found.trials if tried.reward is not None]
    assert kept == sorted(kept, reverse=True)
    assert read_settings(found.file, type(recipe.settings)) == found.best
    assert found.best.learning_rate == kept[0]
    assert found.best.learning_rate > recipe.settings.learning_rate
    more = tune(None, pair.env(), recipe, tmp_path, 2)  # type: ignore[arg-type]
    assert len(more.trials) == 14
    with pytest.raises(SettingError, match="is with steps=100, not 200; go on with the same"):
        tune(None, pair.env(), replace(recipe, steps=200), tmp_path, 1)  # type: ignore[arg-type]


def test_a_trial_is_a_training_and_what_it_writes_is_taken_by_one(pair: Recorded, tmp_path: Path) -> None:
    recipe = small("ppo", steps=64, validate_every=64, envs=8)
    recipe = replace(recipe, settings=replace(recipe.settings, entropy=0.0))  # type: ignore[call-arg]
    found = tune(lambda preference: pair.env(preference=preference), pair.env(), recipe, tmp_path, 1)
    assert set(found.trials[0].settings) == set(searched(type(recipe.settings)))
    taken = read_settings(found.file, type(recipe.settings))
    assert isinstance(taken, PPOSettings)
    assert replace(taken, entropy=0.0) == recipe.settings, "the recipe's own, but for what lies where no search looks"
    assert taken.entropy > 0.0


def test_settings_that_do_not_go_together_are_passed_over(pair: Recorded, tmp_path: Path) -> None:
    """An update over one step of one environment cannot be."""
    recipe = replace(small("ppo", envs=1), settings=replace(small("ppo").settings, rollout=2, minibatch=2))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tuning, "suggest", lambda trial, settings: replace(settings, rollout=1))
        with pytest.raises(SettingError, match="no trial came to its end"):
            tune(lambda preference: pair.env(preference=preference), pair.env(), recipe, tmp_path, 2)
