"""A hard limit holds for whoever decides, at every chunk, in every world."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.base import Learner, Limited, Seeded
from agents.evaluation import answer, make_plan
from agents.limits import Capped, capped
from agents.registry import controller
from agents.rows import Rows
from runtime.rules import wants_offload
from synera_env import Outages, Preference, SettingError, synera_schema
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.recorded import Recorded

SCHEMA = synera_schema(2)
shares = st.one_of(st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 99).map(lambda percent: percent / 100))


def sent_at_most(offloaded: list[bool], share: float) -> bool:
    """Exactly: `share` as the decimal that the user wrote."""
    from decimal import ROUND_CEILING, Decimal

    limits = [(Decimal(repr(share)) * t).to_integral_value(ROUND_CEILING) for t in range(1, len(offloaded) + 1)]
    return all(sum(offloaded[:t]) <= limit for t, limit in enumerate(limits, 1))


class Wild:
    """Any action, also beyond the bounds."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False) -> Any:
        action = self.rng.uniform(-1.5, 1.5, (*np.shape(observation)[:-1], len(SCHEMA.rows))).astype(np.float32)
        action[..., 0], action[..., 1], action[..., -1] = 1.0, -1.0, 1.0 + self.rng.random()  # all that is allowed is sent
        return action, state


@given(share=shares, chunks=st.integers(1, 112))
@settings(max_examples=300, deadline=None)
def test_of_t_chunks_at_most_the_share_is_sent_for_every_t(share: float, chunks: int) -> None:
    """By the runtime's own rule, for who would always send."""
    limited = capped(Wild(0), SCHEMA, share)
    offloaded: list[bool] = []
    for t in range(1, chunks + 1):
        knobs = SCHEMA.knobs(limited.predict(np.zeros(len(SCHEMA.low), np.float32))[0])
        assert knobs.offload_budget <= share
        offloaded.append(wants_offload(0.5, 0.5, t, sum(offloaded), 1.0, 0.0, knobs.offload_budget))
    assert sent_at_most(offloaded, share)
    assert sum(offloaded) >= math.floor(share * chunks * (1 - 1e-6)), "no more is forbidden than was asked for"


@given(share=shares, seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_holds_in_replay_one_by_one_and_by_rows(env: SyneraReplayEnv, share: float, seed: int) -> None:
    plan = make_plan(env, 6, seed=seed)
    for planned in plan[:2]:
        offloaded = [record.offloaded for record in answer(env, capped(Wild(seed), env.schema, share), planned).records]
        assert sent_at_most(offloaded, share)
    for each in Rows(env, 6).answers(capped(controller("always", env.schema), env.schema, share), plan):
        assert each.metrics is not None
        assert round(each.metrics.offload_rate * each.metrics.chunks) <= math.ceil(share * each.metrics.chunks)


def test_it_is_needed(env: SyneraReplayEnv) -> None:
    """Without it the same controller sends more."""
    records = answer(env, controller("always", env.schema), make_plan(env, 1)[0]).records
    assert not sent_at_most([record.offloaded for record in records], 0.2)


@pytest.mark.parametrize("name", ["random", "linucb", "ucbspec", "staged"])
def test_what_a_controller_offers_it_still_offers(name: str, pair: Recorded) -> None:
    env, other = pair.env(), pair.env()
    limited = capped(controller(name, env.schema), env.schema, 0.4)
    plain = controller(name, env.schema)
    assert isinstance(limited, Capped)
    assert isinstance(limited, Learner) == isinstance(plain, Learner)
    assert isinstance(limited, Seeded | Limited)
    plan = make_plan(env, 4, seed=1)
    found = [answer(env, limited, each) for each in plan]
    assert all(sent_at_most([record.offloaded for record in each.records], 0.4) for each in found)
    # What is drawn is drawn by the same seeds: all knobs but the budget are those that it sets without a limit.
    first = [answer(other, controller(name, env.schema), plan[0]).records[0].knobs, found[0].records[0].knobs]
    assert [knobs.draft_length for knobs in first] == [first[0].draft_length] * 2


class Greedy:
    """The last of the choices that can be done, which is to send and draft the most; in need of masks."""

    def __init__(self) -> None:
        self.actions = np.stack([SCHEMA.action(each) for each in SCHEMA.choices])

    def masks(self, point: Any) -> Any:
        return np.array([not SCHEMA.impossible(point, each) for each in SCHEMA.choices])

    def predict(
        self, observation: Any, state: Any = None, start: Any = None, sure: bool = False, action_masks: Any = None
    ) -> Any:
        assert action_masks is not None
        return self.actions[np.flatnonzero(action_masks)[-1]], state


def test_who_must_be_told_what_cannot_be_done_is_told_with_a_limit_and_by_rows_too(pair: Recorded) -> None:
    """In a world that is cut off so often that sending is shut at some decisions."""
    env = pair.env(outages=Outages(1.0, 2.0, 0.3))
    plan = make_plan(env, 6, seed=4)
    free = [answer(env, Greedy(), each) for each in plan]
    assert any(not record.offloaded for each in free for record in each.records)
    assert [each.tokens for each in Rows(env, 6).answers(Greedy(), plan)] == [each.tokens for each in free]
    for each in plan:
        records = answer(env, capped(Greedy(), env.schema, 0.3), each).records
        assert sent_at_most([record.offloaded for record in records], 0.3)
        assert any(record.offloaded for record in records)


def test_a_limit_that_limits_nothing_changes_nothing() -> None:
    rule = controller("always", SCHEMA)
    assert capped(rule, SCHEMA, 1.0) is rule


def test_a_bundle_s_refusal_of_a_preference_is_kept() -> None:
    class Choosy(Wild):
        def serve(self, preference: Preference) -> None:
            raise SettingError("not this one")

    with pytest.raises(SettingError, match="not this one"):
        capped(Choosy(0), SCHEMA, 0.2).serve(Preference())  # type: ignore[attr-defined]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(SettingError, match="max_offload"):
        capped(Wild(0), SCHEMA, share)
