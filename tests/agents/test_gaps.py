"""Bounds are of one plan in one world, and say of which; the shares that are closed are in test_fronts.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.evaluation import make_plan
from agents.gaps import Bounds, plan_hash
from runtime.errors import SettingError
from synera_env import Outages, Preference, SyneraReplayEnv
from tests.support.growing import bare, growing
from tests.support.recorded import GPU, LINKS, PHONE, Recorded
from traces.links.generators import constant_link
from traces.synera.record_models import Models


def test_a_hash_tells_plans_and_worlds_apart(pair: Recorded) -> None:
    env = pair.env()
    plan = make_plan(env, 6)
    assert plan_hash(pair.env(), make_plan(pair.env(), 6)) == plan_hash(env, plan)
    slower = (constant_link(rtt_ms=21.0), LINKS[1])
    others = {
        "seed": plan_hash(env, make_plan(env, 6, seed=1)),
        "answers": plan_hash(env, make_plan(env, 5)),
        "preference": plan_hash(env, make_plan(env, 6, preference=Preference(cost=9.0))),
        "links": plan_hash(pair.env(slower), plan),
        "outages": plan_hash(pair.env(outages=Outages()), plan),
        "device": plan_hash(SyneraReplayEnv(pair.graphs, LINKS, replace(PHONE, layer_ms=3), GPU, None, Outages.never()), plan),
        "cloud": plan_hash(SyneraReplayEnv(pair.graphs, LINKS, PHONE, replace(GPU, token_ms=3), None, Outages.never()), plan),
    }
    assert len({plan_hash(env, plan), *others.values()}) == 1 + len(others)


def test_whether_graphs_grow_makes_no_other_world(pair: Recorded) -> None:
    grown = growing(Models.load(pair.slm, pair.llm), bare(pair.graphs), pair.score)
    env = pair.env()
    same = SyneraReplayEnv(grown, LINKS, PHONE, GPU, None, Outages.never())
    assert plan_hash(same, make_plan(env, 6)) == plan_hash(env, make_plan(env, 6))


def test_bounds_are_given_for_the_plan_that_they_are_of_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    Bounds({"clairvoyant": {"a": 0.5, "b": 0.6}, "informed": {"a": 0.4}}, {"a": "0123"}, {"fits": 3}).save(path)
    found = Bounds.load(path)
    assert found.made == {"fits": 3}
    assert found.of("a", "0123") == {"clairvoyant": 0.5, "informed": 0.4}
    assert found.of("b", "whatever") == {"clairvoyant": 0.6}
    assert found.of("c", "0123") == {}
    with pytest.raises(SettingError, match="the bounds of 'a' were found for other answers, or in another world"):
        found.of("a", "4567")
