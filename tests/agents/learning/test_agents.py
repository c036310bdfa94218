"""Every agent: it trains some hundred steps, its bundle acts as it did, and it goes on after it was interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.bundle import Bundle
from agents.evaluation import evaluate, make_plan
from agents.learning.algorithms import chooses
from agents.learning.around import Around
from agents.learning.checkpoint import Best, Checkpoint, of_model
from agents.learning.recipe import AGENTS, Recipe
from agents.learning.run import Run, train
from agents.learning.run_folder import CHECKPOINT, unfinished
from agents.learning.settings import OffPolicy, OnPolicy, Settings
from agents.learning.settings_file import tuned
from agents.policy import ControllerPolicy
from synera_env import SettingError
from tests.support.recorded import Recorded

OURS = [name for name in AGENTS if name != "counterfactual"]


def small(agent: str, **shared: Any) -> Recipe:
    """A recipe of some hundred steps."""
    own: Settings = tuned(agent, AGENTS[agent].settings)
    some: dict[str, Any] = {"hidden": 8}
    if isinstance(own, OnPolicy):
        some |= {"rollout": 32}
    if isinstance(own, OffPolicy):
        some |= {"buffer": 1000, "learning_starts": 40, "batch": 16, "gradient_steps": 2}
    some |= {name: value for name, value in {"minibatch": 32, "epochs": 1, "memory": 8}.items() if hasattr(own, name)}
    shared = {"steps": 256, "envs": 2, "validation_answers": 3, "validate_every": 128, "seed": 3} | shared
    return Recipe.of(agent, replace(own, **some), **shared)


def go(pair: Recorded, recipe: Recipe, folder: Path, **around: Any) -> Path:
    return train(lambda preference: pair.env(preference=preference), pair.env(), recipe, folder, Around(**around))


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("agent", OURS)
def test_it_is_killed_goes_on_and_ends_with_a_bundle_that_acts(agent: str, pair: Recorded, tmp_path: Path) -> None:
    recipe, parts = small(agent), list[Path]()

    def kill(steps: int) -> None:
        if steps > 200:
            raise Killed

    with pytest.raises(Killed):
        go(pair, recipe, tmp_path / "mine", on_step=kill, on_start=parts.append)
    assert [line["steps"] for line in lines(parts[0])] == [0, 128]
    folder, checkpoint = unfinished(parts[0])
    assert (folder, checkpoint) == (tmp_path / "mine", parts[0] / CHECKPOINT)
    reached: list[int] = []
    again = Around(on_step=reached.append, resume=checkpoint)
    world = lambda preference: pair.env(preference=preference)  # noqa: E731
    bundle = train(world, pair.env(), recipe, folder, again)
    assert reached[0] == 128 + recipe.envs
    assert reached[-1] == recipe.steps
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    assert sorted(path.name for path in folder.iterdir()) == ["bundle", CHECKPOINT, "config.json", "tb", "validation.jsonl"]
    found = lines(folder)
    assert [line["steps"] for line in found] == [0, 128, 256]
    loaded = Bundle.load(bundle)
    best = max(found, key=lambda line: line["reward"])
    assert loaded.meta.provenance["best_steps"] == best["steps"]
    env = pair.env()
    acts = loaded.controller(env.schema)
    rewards = [each.reward for each in evaluate(env, acts, make_plan(env, recipe.validation_answers, seed=recipe.seed))]
    assert np.mean(rewards) == pytest.approx(best["reward"], abs=1e-6)
    if chooses(recipe.settings):
        chosen = {env.schema.action(each).tobytes() for each in env.schema.choices}
        seen, _ = env.reset(seed=0)
        assert ControllerPolicy(acts, env.schema).act(seen, env.point).tobytes() in chosen


def copied(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in of_model(run.model).items()}


@pytest.mark.parametrize("agent", ["ppo", "discrete-sac"])
def test_what_goes_on_is_what_was_interrupted(agent: str, pair: Recorded, tmp_path: Path) -> None:
    """Weights, moments, learning rate, what was remembered, and the best so far."""
    recipe, parts, runs = small(agent), list[Path](), list[Run]()
    taken: dict[str, torch.Tensor] = {}
    learn, take_up = Run.learn, Run._take_up

    def learning(run: Run, folder: Path) -> None:
        runs.append(run)
        learn(run, folder)

    def taking_up(run: Run, found: Checkpoint) -> Best:
        best = take_up(run, found)
        taken.update(copied(run))
        if agent == "discrete-sac":
            assert run.model.replay_buffer.size() == 128 // recipe.envs  # type: ignore[attr-defined]
        return best

    def kill(steps: int) -> None:
        if steps == 128 + recipe.envs:
            raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "learn", learning)
        patched.setattr(Run, "_take_up", taking_up)
        with pytest.raises(Killed):
            go(pair, recipe, tmp_path / "mine", on_step=kill, on_start=parts.append)
        before, best = copied(runs[0]), runs[0].judge.best.best_steps
        go(pair, recipe, tmp_path / "mine", resume=parts[0] / CHECKPOINT)
    assert taken.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(taken[name], value, rtol=0, atol=0, msg=name)
    assert any("exp_avg" in name for name in taken)
    if agent == "ppo":
        (rate,) = (group["lr"] for group in runs[1].model.policy.optimizer.param_groups)
        assert rate == pytest.approx(recipe.settings.learning_rate * 0.1)  # as after all steps, not after half of them
    assert runs[1].judge.best.best_steps >= best


def test_a_checkpoint_of_another_recipe_or_world_or_none_is_refused(pair: Recorded, tmp_path: Path) -> None:
    recipe, parts = small("ppo", steps=64, validate_every=64), list[Path]()

    def kill(steps: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        go(pair, recipe, tmp_path / "mine", on_step=kill, on_start=parts.append)
    checkpoint = parts[0] / CHECKPOINT
    with pytest.raises(SettingError, match="of a config with seed=3, not 4"):
        go(pair, replace(recipe, seed=4), tmp_path / "mine", resume=checkpoint)
    with pytest.raises(SettingError, match="of a training with links="):
        train(lambda p: pair.env(pair.env().links[:1], p), pair.env(), recipe, tmp_path / "mine", Around(resume=checkpoint))
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(SettingError, match="no checkpoint that can be gone on from"):
        go(pair, recipe, tmp_path / "mine", resume=checkpoint)
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "other", tmp_path / "mine.part-x"):
        with pytest.raises(SettingError, match="no unfinished training at"):
            unfinished(path)
    checkpoint.unlink()
    with pytest.raises(SettingError, match="ended before its first validation"):
        unfinished(parts[0])
