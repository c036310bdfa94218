"""Settings as YAML and from a command line: what is read, and what is said of mistakes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import pytest

from agents.learning.recipe import AGENTS, Recipe
from agents.learning.settings import DQNSettings, PPOSettings, Real
from agents.learning.settings_file import changed, read_settings, tuned, write_settings
from scripts._world import Agent
from synera_env import SettingError, TraceError

PPO = tuned("ppo", PPOSettings)


@pytest.mark.parametrize("agent", AGENTS)
def test_each_agent_has_settings_of_its_own(agent: str, tmp_path: Path) -> None:
    recipe = Recipe.of(agent)
    assert type(recipe.settings) is AGENTS[agent].settings
    assert Recipe.stated(recipe.as_stated()) == recipe
    write_settings(tmp_path / "x.yaml", recipe.settings, "as they were")
    assert read_settings(tmp_path / "x.yaml", AGENTS[agent].settings) == recipe.settings


@pytest.mark.parametrize("agent", AGENTS)
def test_where_a_search_looks_is_within_what_is_allowed(agent: str) -> None:
    own = tuned(agent, AGENTS[agent].settings)
    looked = 0
    for name, allowed in own.allowed().items():
        for end in getattr(allowed, "search", None) or ():
            allowed.check(name, end)
            looked += 1
        if isinstance(allowed, Real) and allowed.search is not None:
            assert allowed.search[0] < allowed.search[1]
            assert not allowed.log or allowed.search[0] > 0
    assert looked >= 6


def test_a_file_states_all_in_any_notation_of_yaml(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    stated = asdict(PPO) | {"learning_rate": "1e-3", "gae_lambda": 1}
    path.write_text("# mine\n" + "".join(f"{name}: {value}\n" for name, value in stated.items()))
    found = read_settings(path, PPOSettings)
    assert found == replace(PPO, learning_rate=1e-3, gae_lambda=1.0)
    assert isinstance(found.gae_lambda, float)


def test_single_values_are_changed() -> None:
    found = changed(PPO, ["learning_rate=5e-4", "actions=choices", "hidden=128"])
    assert found == replace(PPO, learning_rate=5e-4, actions="choices", hidden=128)
    assert changed(PPO, []) == PPO


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("hidden: 0", r"own.yaml: hidden=0 must be an integer in 1\.\.4096"),
        ("hidden: 64.0", "own.yaml: hidden=64.0 must be an integer"),
        ("hidden: true", "own.yaml: hidden=True must be an integer"),
        ("hidden: [64]", "own.yaml: hidden="),
        ("learning_rate: fast", "own.yaml: learning_rate='fast' must be a number in 0..1"),
        ("learning_rate: 0", "own.yaml: learning_rate=0.0 must be a number above 0"),
        ("learning_rate: .nan", "own.yaml: learning_rate=nan"),
        ("learning_rate: false", "own.yaml: learning_rate=False must be a number"),
        ("actions: both", "own.yaml: actions='both' is not one of box, choices"),
        ("depth: 3", "own.yaml: there is no setting 'depth'; there are learning_rate, hidden"),
        ("hidden: {", "own.yaml is no YAML"),
    ],
)
def test_a_mistake_names_file_key_and_range(line: str, says: str, tmp_path: Path) -> None:
    name = line.split(":")[0]
    kept = {key: value for key, value in asdict(PPO).items() if key != name}
    (tmp_path / "own.yaml").write_text("".join(f"{key}: {value}\n" for key, value in kept.items()) + line + "\n")
    with pytest.raises(SettingError, match=says):
        read_settings(tmp_path / "own.yaml", PPOSettings)


@pytest.mark.parametrize("content", ["", "hidden: 8", "- hidden", "8", "just words"])
def test_a_file_that_does_not_state_all_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(SettingError, match=r"own.yaml (lacks|must state settings)"):
        read_settings(tmp_path / "own.yaml", PPOSettings)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no settings at"):
        read_settings(tmp_path / "missing.yaml", PPOSettings)
    (tmp_path / "bytes").write_bytes(bytes(range(256)))
    with pytest.raises(SettingError, match="is not text"):
        read_settings(tmp_path / "bytes", PPOSettings)
    write_settings(tmp_path / "dqn.yaml", tuned("dqn", DQNSettings), "of another agent")
    with pytest.raises(SettingError, match="there is no setting 'buffer'"):
        read_settings(tmp_path / "dqn.yaml", PPOSettings)


@pytest.mark.parametrize("change", ["hidden", "hidden=", "=8", ""])
def test_a_change_is_a_name_and_a_value(change: str) -> None:
    with pytest.raises(SettingError, match="must be NAME=VALUE"):
        changed(PPO, [change])


def test_settings_of_one_agent_are_none_of_another() -> None:
    with pytest.raises(SettingError, match="'PPOSettings' are none of dqn"):
        Recipe.of("dqn", PPO)


def test_the_command_knows_every_agent() -> None:
    assert get_args(Agent) == tuple(AGENTS)
