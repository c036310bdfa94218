"""Controllers by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agents.bundle import BundleController, BundleError
from agents.registry import controller
from agents.rules import ChanceRule, FixedRule, LevelRule, RandomRule
from synera_env import SettingError, synera_schema

SCHEMA = synera_schema(exits=2)


@pytest.mark.parametrize("name", ["never", "always", "threshold"])
def test_rules_by_name(name: str) -> None:
    found = controller(name, SCHEMA)
    assert isinstance(found, FixedRule)
    assert found.knobs == SCHEMA.presets[name]


def test_random_by_name() -> None:
    assert isinstance(controller("random", SCHEMA), RandomRule)


def test_levels_of_a_draft_and_a_chance_by_name() -> None:
    found = controller("margin=0.5,entropy=2", SCHEMA)
    assert isinstance(found, LevelRule)
    assert found.levels == {"margin": 0.5, "entropy": 2.0}
    chance = controller("chance=0.25", SCHEMA)
    assert isinstance(chance, ChanceRule)
    assert chance.rate == 0.25
    with pytest.raises(SettingError, match="'surprise' is not one of"):
        controller("surprise=1", SCHEMA)


def test_a_folder_with_a_name_like_a_level_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "margin=0.5").mkdir()
    with pytest.raises(BundleError, match=r"it has no bundle\.json"):
        controller("margin=0.5", SCHEMA)


def test_a_bundle_by_its_folder(bundle: Path) -> None:
    found = controller(str(bundle), SCHEMA)
    assert isinstance(found, BundleController)
    assert found.predict(np.zeros(len(SCHEMA.low), np.float32))[0].shape == (len(SCHEMA.rows),)


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"'nobody': it is neither a rule \(never, always, threshold, random, until-unsure, staged, rejection, ucbspec, exp3spec, linucb\) nor",
    ):
        controller("nobody", SCHEMA)


def test_a_place_that_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"it has no bundle\.json"):
        controller(str(tmp_path), SCHEMA)
    (tmp_path / "file").write_text("a bundle?")
    for name in (str(tmp_path / "file"), str(tmp_path / "file" / "x"), "x" * 5000, "x" * 300, "a\0b", "two\nlines"):
        with pytest.raises(
            SettingError, match=r"^no controller '.*: it is neither a rule \(never, .*\) nor a class of yours \(MODULE:CLASS\)$"
        ) as wrong:
            controller(name, SCHEMA)
        assert len(str(wrong.value)) < 350


def test_a_bundle_for_another_number_of_exits_is_refused(bundle: Path) -> None:
    """It would act without any error, as the observation is as long, but mean other exits."""
    meta = json.loads((bundle / "bundle.json").read_text())
    with pytest.raises(BundleError, match=f"{meta['schema_hash']}.*{synera_schema(exits=3).hash}"):
        controller(str(bundle), synera_schema(exits=3))
