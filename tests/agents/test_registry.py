"""Controllers by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agents.bundle import BundleError, OnnxController
from agents.registry import RULES, controller
from agents.rules import FixedRule, RandomRule
from synera_env import FEATURES, Encoder

ENCODER = Encoder(exits=2)


@pytest.mark.parametrize("name", RULES)
def test_rules_by_name(name: str) -> None:
    found = controller(name, ENCODER)
    assert isinstance(found, FixedRule)
    assert found.knobs == RULES[name]


def test_random_by_name() -> None:
    assert isinstance(controller("random", ENCODER), RandomRule)


def test_a_bundle_by_its_folder(bundle: Path) -> None:
    found = controller(str(bundle), ENCODER)
    assert isinstance(found, OnnxController)
    assert found.predict(np.zeros(len(FEATURES), np.float32))[0].shape == (6,)


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'nobody': it is neither a rule \(never, always, threshold, random\) nor"):
        controller("nobody", ENCODER)
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        controller(str(tmp_path), ENCODER)


def test_a_bundle_for_another_number_of_exits_is_refused(bundle: Path) -> None:
    """It would act without any error, as the observation is as long, but mean other exits."""
    meta = json.loads((bundle / "bundle.json").read_text())
    with pytest.raises(BundleError, match=f"{meta['schema_hash']}.*{Encoder(exits=3).schema_hash}"):
        controller(str(bundle), Encoder(exits=3))
