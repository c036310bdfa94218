"""Answers by compiled rows are those of the scalar way, whoever decides, whatever leaves the graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agents.base import Controller
from agents.bundle import Bundle
from agents.evaluation import Answered, PlannedAnswer, answer_all, make_plan
from agents.limits import capped
from agents.registry import controller
from agents.rows import Rows
from synera_env import Preference, SettingError
from synera_env.radio import Outages
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.cuts import likeliest
from tests.support.growing import bare, growing
from tests.support.recorded import GPU, LINKS, PHONE, Recorded
from traces import bundled
from traces.synera.graph import GraphSet
from traces.synera.record_models import Models


def hold(found: Sequence[Answered], wanted: Sequence[Answered]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one.prompt, one.kind, one.tokens) == (other.prompt, other.kind, other.tokens)
        assert (one.metrics is None) == (other.metrics is None)
        if one.metrics is not None and other.metrics is not None:
            assert asdict(one.metrics) == pytest.approx(asdict(other.metrics), rel=1e-9, abs=1e-12, nan_ok=True)
            assert {type(v) for v in (one.metrics.tokens, one.metrics.uplink_bytes, one.metrics.chunks)} == {int}


def planned(env: SyneraReplayEnv, answers: int) -> list[PlannedAnswer]:
    """With a preference of its own for each."""
    return [replace(each, preference=Preference.sample(each.seed)) for each in make_plan(env, answers, seed=5)]


@pytest.mark.parametrize("name", ["never", "always", "threshold", "random", "staged", "rejection=0.3", "chance=0.4", "linucb"])
def test_rules_answer_as_in_the_scalar_way(env: SyneraReplayEnv, name: str) -> None:
    """In several turns, of which the last is not full."""
    plan = planned(env, 13)
    hold(Rows(env, 8).answers(controller(name, env.schema), plan), answer_all(env, controller(name, env.schema), plan))


def test_a_bundle_answers_as_in_the_scalar_way(env: SyneraReplayEnv, run: Path) -> None:
    plan = make_plan(env, 12, seed=3, preference=Preference())
    learned = Bundle.load(run / "bundle").controller(env.schema)
    hold(Rows(env, 8).answers(learned, plan), answer_all(env, learned, plan))
    limited = capped(learned, env.schema, 0.3)
    hold(Rows(env, 8).answers(limited, plan), answer_all(env, limited, plan))


def test_on_open_graphs_what_leaves_is_lost_in_both_ways() -> None:
    """With outages, on prompts of which some cannot be begun."""
    graphs = likeliest(GraphSet.load(bundled.graphs("validation")), 0.7)
    env = SyneraReplayEnv(graphs, LINKS, PHONE, GPU, outages=Outages(0.8, 0.6, 0.2))
    plan = planned(env, 60)
    for name in ("always", "random"):
        found = Rows(env, 8).answers(controller(name, env.schema), plan)
        hold(found, answer_all(env, controller(name, env.schema), plan))
        assert 5 < sum(each.metrics is None for each in found) < 55


def test_growing_graphs_lose_nothing(pair: Recorded) -> None:
    models = Models.load(pair.slm, pair.llm)
    scalar = SyneraReplayEnv(growing(models, bare(pair.graphs), pair.score), LINKS, PHONE, GPU)
    other = SyneraReplayEnv(growing(models, bare(pair.graphs), pair.score), LINKS, PHONE, GPU)
    plan = planned(scalar, 9)
    found = Rows(other, 8).answers(controller("threshold", other.schema), plan)
    assert all(each.metrics is not None for each in found)
    hold(found, answer_all(scalar, controller("threshold", scalar.schema), plan))


class Alone:
    """A user's class that never met a batch, and counts its own steps."""

    def __init__(self, actions: np.ndarray[Any, Any]) -> None:
        self.actions = actions

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False) -> Any:
        assert np.ndim(observation) == 1
        assert episode_start.shape == (1,)
        assert episode_start[0] == (state is None)
        step = state or 0
        return self.actions[step % 2], step + 1


def test_who_never_met_a_batch_is_asked_row_by_row(env: SyneraReplayEnv) -> None:
    plan = planned(env, 7)
    own: Controller = Alone(np.stack([env.schema.action(env.schema.presets[name]) for name in ("never", "always")]))
    hold(Rows(env, 8).answers(own, plan, together=False), answer_all(env, own, plan))
    with pytest.raises(AssertionError):
        Rows(env, 8).answers(own, plan)


def test_each_row_has_options_of_its_own_and_their_number_is_checked(env: SyneraReplayEnv) -> None:
    vector = env.vector(3)
    _, info = vector.reset(seed=0, options=[{"prompt": i, "link": 0, "link_offset_seconds": 0.25} for i in (2, 0, 1)])
    assert [env.graphs.meta.prompts.index(text) for text in info["prompt"]] == [2, 0, 1]
    with pytest.raises(SettingError, match="options must be one mapping, or 3, one a row; they are 2"):
        vector.reset(options=[{}, {}])
    with pytest.raises(SettingError, match="prompt=99"):
        vector.reset(options=[{}, {"prompt": 99}, {}])


def test_a_row_that_is_over_stands_still_until_all_begin_anew(env: SyneraReplayEnv) -> None:
    vector = env.vector(4, AutoresetMode.DISABLED)
    seen, _ = vector.reset(seed=1)
    over, ended = np.zeros(4, bool), np.zeros(4, int)
    action = np.tile(env.schema.action(env.schema.presets["threshold"]), (4, 1))
    last = seen.copy()
    for _ in range(30):
        seen, rewards, terminated, truncated, info = vector.step(action)
        np.testing.assert_array_equal(seen[over], last[over])
        assert not rewards[over].any()
        assert not (terminated | truncated)[over].any()
        assert np.isnan(info["knobs"]["draft_length"][over]).all()
        over, last, ended = over | terminated | truncated, seen.copy(), ended + terminated
    assert over.all()
    assert (ended == 1).all()
    assert env.vector(4, AutoresetMode.DISABLED).reset(seed=1)[0].any()
    np.testing.assert_array_equal(vector.reset(seed=1)[0], env.vector(4).reset(seed=1)[0])
