"""A user's own controller: imported where it is named, and every way in which it can be none is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agents.evaluation import answer, make_plan
from agents.own import is_own
from agents.registry import controller
from runtime.errors import SettingError
from synera_env import synera_schema
from synera_env.synera.replay import SyneraReplayEnv

SCHEMA = synera_schema(exits=2)
SOURCE = """
import numpy as np

class Mine:
    def __init__(self, schema):
        self.actions = [schema.action(schema.presets[name]) for name in ("never", "always")]
        self.place = schema.places("chunks")[0]

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.asarray(self.actions)[(observation[..., self.place] > 0).astype(int)], state

class NoPredict:
    def __init__(self, schema):
        pass

class Fails:
    def __init__(self, schema):
        raise ValueError("two\\nlines")

class Unasked:
    pass

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"own_rules_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / f"{name}_broken.py").write_text("import nowhere_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_class_in_the_folder_that_one_works_in_decides(module: str, env: SyneraReplayEnv) -> None:
    mine = controller(f"{module}:Mine", env.schema)
    for planned in make_plan(env, 6):
        asked = [r.offloaded for r in answer(env, mine, planned).records]
        assert asked == [False] + [True] * (len(asked) - 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_at_all:Mine", "nowhere_at_all cannot be imported: ModuleNotFoundError"),
        ("{m}_broken:Mine", "cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("{m}:Absent", "has no class Absent"),
        ("{m}:number", "has no class number"),
        ("{m}:NoPredict", "has no predict"),
        ("{m}:Fails", r"cannot be made of a schema: ValueError: two\?lines"),
        ("{m}:Unasked", "cannot be made of a schema: TypeError"),
    ],
)
def test_what_is_no_controller_is_one_line(module: str, name: str, message: str) -> None:
    with pytest.raises(SettingError, match=message) as wrong:
        controller(name.format(m=module), SCHEMA)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize("name", ["a:b:c", ":Mine", "a:", "a.b", "../a:B", "a b:C", "a:B()", "a..b:C", "1a:B"])
def test_other_names_import_nothing(name: str) -> None:
    assert not is_own(name)
    with pytest.raises(SettingError, match="no controller"):
        controller(name, SCHEMA)
