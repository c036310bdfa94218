"""What training begins from: agreement with a rule that is imitated, values that are known, and the network of another run."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.learning import imitation
from agents.learning.adoption import adopt, network_of
from agents.learning.algorithms import build, chooses
from agents.learning.choices import choice_table
from agents.learning.imitation import Beginning, labels
from agents.learning.recipe import Recipe
from agents.learning.run import World
from agents.learning.run_folder import CHECKPOINT
from agents.registry import controller
from synera_env import SettingError
from tests.agents.learning.test_agents import small
from tests.support.recorded import Recorded

RULE = "confidence=0.6"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imitation, "_DECISIONS", 512)
    monkeypatch.setattr(imitation, "_GRADIENTS", 150)
    monkeypatch.setattr(imitation, "_VALUE_GRADIENTS", 150)


def begun(pair: Recorded, recipe: Recipe, beginning: Beginning | None) -> tuple[Any, Any, Any]:
    """An agent, what it met, and observations of the rule's own answers."""
    with ExitStack() as opened:
        world = World.of(lambda preference: pair.env(preference=preference), recipe, opened)
        model = build(recipe, world.stepped, world.first.schema)
        met = None if beginning is None else beginning.begin(model, recipe, world.stepped, world.first.schema)
        gathering = imitation._Gathering(
            model, world.stepped, choice_table(world.first.schema) if chooses(recipe.settings) else None
        )
        rule = controller(RULE, world.first.schema)
        return model, met, gathering.go(rule, 1.0, 256, np.random.default_rng(9))


def agreement(pair: Recorded, recipe: Recipe, model: Any, seen: Any) -> float:
    """How often it chooses as the rule does; how many of its knobs are near the rule's."""
    schema = pair.env().schema
    table = choice_table(schema) if chooses(recipe.settings) else None
    ours, _ = model.predict(seen, deterministic=True)
    theirs = labels(controller(RULE, schema), seen, table)
    return float((ours == theirs).mean() if table is not None else (np.abs(ours - theirs) < 0.2).mean())


@pytest.mark.parametrize("agent", ["ppo", "maskable-ppo", "td3", "discrete-sac"])
def test_an_agent_that_imitates_a_rule_does_as_it_does(agent: str, pair: Recorded, quick: None) -> None:
    recipe = small(agent)
    recipe = replace(recipe, settings=replace(recipe.settings, hidden=32))
    model, met, gathered = begun(pair, recipe, Beginning(RULE))
    untaught, _, _ = begun(pair, recipe, None)
    assert agreement(pair, recipe, model, gathered.observations) > 0.9
    assert agreement(pair, recipe, untaught, gathered.observations) < 0.6
    assert met.shape == (2, gathered.observations.shape[1])
    assert (met[0] <= met[1]).all()


def test_values_are_fitted_to_what_answers_earn_and_the_actor_is_left_alone(pair: Recorded, quick: None) -> None:
    recipe = small("maskable-ppo")
    model, _, gathered = begun(pair, recipe, None)
    known = ~np.isnan(gathered.returns)
    seen, returns = (torch.from_numpy(each[known]) for each in gathered)
    actor = {name: value.clone() for name, value in model.policy.state_dict().items() if "value" not in name}

    def error() -> float:
        with torch.no_grad():
            return float(((model.policy.predict_values(seen)[:, 0] - returns) ** 2).mean())

    before = error()
    imitation.fit_values(model, gathered)
    assert error() < 0.5 * before
    for name, value in actor.items():
        assert torch.equal(model.policy.state_dict()[name], value), name


def test_returns_are_sums_to_the_end_and_unknown_where_there_is_none() -> None:
    rewards = np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]], np.float32)
    over = np.array([[False, False], [True, True], [False, False]])
    left = np.array([[False, False], [False, True], [False, False]])
    found = imitation._returns(rewards, over, left)
    np.testing.assert_array_equal(found, [[3.0, np.nan], [2.0, np.nan], [np.nan, np.nan]])


def test_the_nearest_choice_stands_for_what_a_rule_does(pair: Recorded) -> None:
    schema = pair.env().schema
    table = choice_table(schema)
    seen = np.zeros((3, len(schema.low)), np.float32)

    class Near:
        def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Any, None]:
            return table[[5, 0, 23]] + 0.02, None

    assert labels(Near(), seen, table).tolist() == [5, 0, 23]
    np.testing.assert_array_equal(labels(Near(), seen, None), table[[5, 0, 23]] + 0.02)


@pytest.mark.parametrize("name", ["random", "linucb", "ucbspec"])
def test_what_draws_or_learns_cannot_be_imitated(name: str, pair: Recorded) -> None:
    with pytest.raises(SettingError, match=f"'{name}' cannot be imitated"):
        Beginning(name).check(small("ppo"), pair.env().schema)


@pytest.mark.parametrize("agent", ["dqn", "recurrent-ppo"])
def test_agents_whose_network_is_no_actor_of_what_is_seen_say_so(agent: str, pair: Recorded) -> None:
    with pytest.raises(SettingError, match=f"{agent} has no network"):
        Beginning(RULE).check(small(agent), pair.env().schema)


def test_ppo_goes_on_from_the_network_of_a_counterfactual_run(pair: Recorded, tmp_path: Path, quick: None) -> None:
    """It chooses as that does, where the past is as the reduced model has it and where it is not."""
    from agents.counterfactual.policy import ChoiceNet
    from agents.learning.checkpoint import Best, write_checkpoint

    env = pair.env()
    schema = env.schema
    net = ChoiceNet(schema, len(schema.choices), 8)
    torch.manual_seed(1)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    rng = np.random.default_rng(0)
    low = np.maximum(schema.low, schema.center - 3 * schema.scale)
    high = np.minimum(schema.high, schema.center + 3 * schema.scale)
    past = schema.places("past_confidence")
    low[past] = high[past] = 0.7  # always the same
    net.scaling.has_seen(low, high)
    (tmp_path / "cf").mkdir()
    write_checkpoint(tmp_path / "cf" / CHECKPOINT, {}, Best(best_weights=net.state_dict()), {})
    recipe = small("ppo")
    recipe = replace(recipe, settings=replace(recipe.settings, actions="choices"))  # type: ignore[call-arg]
    model, _, _ = begun(pair, recipe, None)
    adopt(model, recipe, network_of(tmp_path / "cf"))
    seen = rng.uniform(low, high, (64, len(low))).astype(np.float32)
    other = seen.copy()
    other[:, past] = rng.uniform(0.0, 1.0, (64, len(past)))
    with torch.no_grad():
        wanted = net(torch.from_numpy(seen)).argmax(1).numpy()
    for each in (seen, other):
        np.testing.assert_array_equal(model.predict(each, deterministic=True)[0], wanted)
    assert len(set(wanted.tolist())) > 3
    wide = replace(recipe, settings=replace(recipe.settings, hidden=16))
    with pytest.raises(SettingError, match=r"add --set hidden=8"):
        Beginning(network=tmp_path / "cf").check(wide, schema)
    knobs = replace(recipe, settings=replace(recipe.settings, actions="box"))  # type: ignore[call-arg]
    with pytest.raises(SettingError, match="ppo cannot begin from a counterfactual run as it is set"):
        Beginning(network=tmp_path / "cf").check(knobs, schema)
    with pytest.raises(SettingError, match="no counterfactual run at"):
        Beginning(network=tmp_path)
    with pytest.raises(SettingError, match="not from both"):
        Beginning(RULE, tmp_path)
