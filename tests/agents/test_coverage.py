"""What controllers keep inside recorded graphs: counted by hand on graphs that are cut, and who is counted."""

from __future__ import annotations

import numpy as np
import pytest

from agents.coverage import RANDOM_SEEDS, SWEPT, measure_coverage, swept
from agents.evaluation import answer, make_plan
from agents.registry import controller
from agents.rules import FixedRule, RandomRule
from synera_env import Knobs, Schema
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import synera_schema
from tests.support.cuts import holed, likeliest, without
from tests.support.recorded import GPU, LINKS, PHONE, Recorded
from tests.support.toy import SCHEMA as TEA
from tests.support.toy import TeaEnv
from traces.synera.graph import GraphSet


def over(graphs: GraphSet) -> SyneraReplayEnv:
    return SyneraReplayEnv(graphs, LINKS, PHONE, GPU)


def test_on_whole_graphs_nothing_leaves(pair: Recorded) -> None:
    env = pair.env()
    plan, names = make_plan(env, 12), ("never", "always", "random")
    found = measure_coverage(env, {name: controller(name, env.schema) for name in names}, plan)
    for name in names:
        decisions = sum(len(answer(env, controller(name, env.schema), planned).records) for planned in plan)
        each = found[name]
        assert (each.answers, each.inside, each.steps, each.uncovered) == (12, 12, decisions, 0)
        assert (each.steps_inside.low, each.steps_inside.mean, each.steps_inside.high) == (1.0, 1.0, 1.0)
        assert each.answers_inside.mean == 1.0


def test_decisions_and_answers_are_counted_apart(pair: Recorded) -> None:
    """Of the answers to one prompt the last token is not recorded: each loses one decision, all other decisions stay inside."""
    dropped = np.zeros(pair.graphs.nodes, bool)
    dropped[: len(pair.graphs[0])] = ~np.isnan(pair.graphs[0].score)
    whole, env = pair.env(), over(without(pair.graphs, dropped))
    plan = make_plan(env, 12)
    one_by_one = FixedRule(Knobs(draft_length=1), env.schema)
    found = measure_coverage(env, {"slow": one_by_one}, plan)["slow"]
    lengths = [len(answer(whole, one_by_one, planned).records) for planned in plan]
    assert (found.answers, found.inside, found.uncovered) == (12, 10, 2)
    assert found.steps == sum(lengths)
    assert found.steps_inside.mean == pytest.approx(1 - 2 / sum(lengths))
    assert found.answers_inside.mean == pytest.approx(10 / 12)
    assert found.answers_inside.low < found.answers_inside.mean <= found.answers_inside.high <= 1.0
    assert found.steps_inside.low < found.steps_inside.mean <= found.steps_inside.high <= 1.0


def test_a_prompt_that_cannot_be_begun_is_a_decision_that_left(pair: Recorded) -> None:
    dropped = np.zeros(pair.graphs.nodes, bool)
    dropped[1 : len(pair.graphs[0])] = True
    with pytest.warns(UserWarning, match="not even the first chunk was recorded"):
        env = over(without(pair.graphs, dropped))
    only_it = [planned for planned in make_plan(env, 12) if planned.prompt == 0]
    found = measure_coverage(env, {"never": controller("never", env.schema)}, only_it)["never"]
    assert (found.answers, found.inside, found.steps, found.uncovered) == (2, 0, 2, 2)


def test_what_it_says_is_what_evaluation_loses(pair: Recorded) -> None:
    told: list[None] = []
    for graphs in (holed(pair.graphs, 0.3), likeliest(pair.graphs, 0.4)):
        env = over(graphs)
        plan = make_plan(env, 18)
        rules = {name: controller(name, env.schema) for name in ("always", "random", "chance=0.5")}
        found = measure_coverage(env, rules, plan, lambda: told.append(None))
        lost = {name: sum(answer(env, rule, p).metrics is None for p in plan) for name, rule in rules.items()}
        assert {name: each.uncovered for name, each in found.items()} == lost
        assert max(lost.values()) > 0
    assert len(told) == 6


def test_every_rule_every_knob_and_random_of_several_seeds_are_tried() -> None:
    schema = synera_schema(2)
    found = swept(schema)
    assert set(schema.presets) <= set(found)
    assert {f"random, seed {seed}" for seed in RANDOM_SEEDS} <= set(found)
    for figure in ("chance", "confidence", "margin", "entropy", "importance"):
        assert any(name.startswith(f"{figure}=") for name in found)
    swept_knobs = {name for names in SWEPT.values() for name in names}
    assert swept_knobs == {row.name for row in schema.rows}
    for row in schema.rows:
        assert any(f", {row.name}=" in name for name in found)
    fixed = [rule.knobs for rule in found.values() if isinstance(rule, FixedRule)]
    actions = {schema.action(knobs).tobytes() for knobs in fixed}
    assert len(actions) == len(fixed), "two of them are the same"
    draws = [rule.initial_state(0).random() for rule in found.values() if isinstance(rule, RandomRule)]
    assert len(set(draws)) == len(RANDOM_SEEDS)


@pytest.mark.parametrize("schema", [synera_schema(1), synera_schema(3), TEA], ids=["one exit", "three exits", "tea"])
def test_what_a_system_has_not_is_left_out(schema: Schema) -> None:
    found = swept(schema)
    assert set(schema.presets) <= set(found)
    assert {f"random, seed {seed}" for seed in RANDOM_SEEDS} <= set(found)
    for rule in found.values():
        action, _ = rule.predict(np.clip(np.zeros(len(schema.low), np.float32), schema.low, schema.high))
        assert len(action) == len(schema.rows)


def test_another_system_is_measured_as_it_stands() -> None:
    env = TeaEnv(burns_at=0.6)
    found = measure_coverage(env, swept(TEA), make_plan(env, 6))
    assert found["alone"].uncovered == 0
    assert all(found[f"random, seed {seed}"].uncovered > 0 for seed in RANDOM_SEEDS)
