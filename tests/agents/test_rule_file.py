"""Files of rules: whatever is written is read back as it was and acts alike; what is damaged or of another world is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.bandits import ArmState, LinUCB, UCBSpec
from agents.evaluation import answer, make_plan
from agents.registry import controller
from agents.rule_file import RuleFile, Stated
from agents.rules import LinkAwareRule, Rejection
from agents.rules.fixed import Fixed
from agents.rules.levels import Levels
from runtime.errors import SettingError
from synera_env import Deployment, Knobs, TraceError, synera_schema
from synera_env.synera.replay import SyneraReplayEnv
from tests.agents.rules.test_link_aware import FITTED

SCHEMA = synera_schema(exits=2)
HERE = Deployment({"slm": "one", "lens": "two"})
ALL: list[Stated] = [
    Fixed(Knobs(confidence_threshold=0.08, offload_budget=1.0, draft_length=2)),
    Levels({"confidence": 0.1, "importance": 0.25}),
    Rejection(0.9, 0.1, 1.5),
    FITTED,
    ArmState("ucbspec"),
    ArmState("exp3spec", (1, 2), (0.1, 0.9), (1, 2, 3, 4), (0.1, 0.2, 0.3, 0.4)),
    LinUCB.new(SCHEMA).saved(),
]


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.kind)
def test_what_is_written_is_read_back_and_acts_alike(rule: Stated, env: SyneraReplayEnv, tmp_path: Path) -> None:
    written = RuleFile.of(rule, env.schema, HERE, {"answers": 400})
    written.save(tmp_path / "mine.json")
    assert RuleFile.load(tmp_path / "mine.json") == written
    planned = make_plan(env, 1)[0]
    direct, named = (
        answer(env, each, planned)
        for each in (rule.controller(env.schema), controller(str(tmp_path / "mine.json"), env.schema))
    )
    assert [r.knobs for r in direct.records] == [r.knobs for r in named.records]


def test_what_a_bandit_learnt_is_kept_in_a_file(env: SyneraReplayEnv, tmp_path: Path) -> None:
    rule = UCBSpec.new(env.schema)
    for planned in make_plan(env, 6):
        answer(env, rule, planned)
    RuleFile.of(rule.saved(), env.schema, HERE, {}).save(tmp_path / "learnt.json")
    again = controller(str(tmp_path / "learnt.json"), env.schema)
    assert isinstance(again, UCBSpec)
    assert sum(again.saved().pulls) == sum(rule.saved().pulls) > 0


def damaged(change: Any) -> str:
    stated = json.loads(json.dumps(_written(FITTED)))
    change(stated)
    return json.dumps(stated)


def _written(rule: Stated) -> Any:
    from dataclasses import asdict

    return asdict(RuleFile.of(rule, SCHEMA, HERE, {}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("rule"), "rule"),
        (lambda s: s.update(more=1), "more"),
        (lambda s: s.update(format_version=2), "format_version"),
        (lambda s: s["rule"].update(kind="os.system"), "kind"),
        (lambda s: s["rule"].pop("kind"), "rule"),
        (lambda s: s["rule"].update(more=1), "more"),
        (lambda s: s["rule"]["quality"].pop(), "weights for"),
        (lambda s: s["rule"].update(quality="many"), "quality"),
        (lambda s: s["rule"]["offload"].update(draft_length=9), "draft_length=9"),
        (lambda s: s.update(schema_hash="x"), "schema_hash"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_the_field(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(damaged(change))
    with pytest.raises(TraceError, match=message) as wrong:
        controller(str(path), SCHEMA)
    assert "\n" not in str(wrong.value)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    text = json.dumps(_written(Rejection(0.5, 1.25, 1.0)))
    for bad in ("NaN", "1e999", "Infinity"):
        (tmp_path / "bad.json").write_text(text.replace("1.25", bad))
        with pytest.raises(TraceError, match=r"intercept|JSON|json"):
            RuleFile.load(tmp_path / "bad.json")


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no rule at .*nowhere\.json; fit some with: synera fit-rules"):
        controller(str(tmp_path / "nowhere.json"), SCHEMA)


def test_a_rule_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    RuleFile.of(ALL[1], SCHEMA, HERE, {}).save(path)
    with pytest.raises(SettingError, match=f"fitted for schema {SCHEMA.hash}.*{synera_schema(exits=3).hash}"):
        controller(str(path), synera_schema(exits=3))


def test_another_model_than_it_was_fitted_with_is_refused() -> None:
    file = RuleFile.of(FITTED, SCHEMA, HERE, {})
    file.require(replace(HERE, fingerprints={"slm": "one", "llm": "not known when it was fitted"}))
    with pytest.raises(SettingError, match="fitted with the lens two, here it would meet three"):
        file.require(replace(HERE, fingerprints={"slm": "one", "lens": "three"}))


def test_the_named_rule_is_the_fitted_one(tmp_path: Path) -> None:
    RuleFile.of(FITTED, SCHEMA, HERE, {}).save(tmp_path / "x.json")
    named = controller(str(tmp_path / "x.json"), SCHEMA)
    assert isinstance(named, LinkAwareRule)
    batch = np.zeros((3, len(SCHEMA.low)), np.float32)
    np.testing.assert_array_equal(named.predict(batch)[0], FITTED.controller(SCHEMA).predict(batch)[0])
