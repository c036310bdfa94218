"""Rules of the literature: at which tokens, places and probabilities they offload, and how long they draft."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agents.evaluation import answer, make_plan
from agents.rules import FixedRule, Rejection, RejectionRule, StagedRule, until_unsure
from agents.rules.published import STAGE_CHUNKS, STAGES
from synera_env import Knobs, SettingError, synera_schema
from synera_env.synera.replay import SyneraReplayEnv
from tests.support import toy

SCHEMA = synera_schema(exits=2)


def knobs_of(action: NDArray[np.float32]) -> Knobs:
    found = SCHEMA.knobs(action)
    assert isinstance(found, Knobs)
    return found


def drafted(confidences: list[float]) -> NDArray[np.float32]:
    """An observation of a draft."""
    seen = np.zeros(len(SCHEMA.low), np.float32)
    seen[SCHEMA.places("confidence")] = 1.0
    seen[SCHEMA.places("confidence")[: len(confidences)]] = confidences
    seen[SCHEMA.places("draft_tokens")] = len(confidences) / 8
    return seen


# ---------------------------------------------------------------- draft until unsure


def test_it_sends_the_first_unsure_token_alone_and_keeps_sure_ones(env: SyneraReplayEnv) -> None:
    level = 0.08  # between what this unsure pair is
    records = [r for p in make_plan(env, 6) for r in answer(env, until_unsure(env.schema, level), p).records[1:]]
    assert {len(r.draft.tokens) for r in records} == {1}
    assert {r.offloaded for r in records} == {True, False}
    assert all(r.offloaded == (r.draft.confidence < level) for r in records)


def test_the_default_is_hat_s() -> None:
    assert until_unsure(SCHEMA).knobs.confidence_threshold == 0.6


# ---------------------------------------------------------------- stages


def test_thresholds_rise_with_the_place_in_the_answer() -> None:
    rule, at = StagedRule(SCHEMA), SCHEMA.places("chunks")
    batch = np.zeros((60, len(SCHEMA.low)), np.float32)
    batch[:, at[0]] = np.arange(60) / 16
    found = [knobs_of(action).confidence_threshold for action in rule.predict(batch)[0]]
    wanted = [STAGES[min(chunk // STAGE_CHUNKS, 2)] for chunk in range(60)]
    assert found == pytest.approx(wanted)


def test_in_an_answer_the_last_stage_sends_all_and_the_first_only_what_is_unsure(env: SyneraReplayEnv) -> None:
    rule = StagedRule(env.schema, (0.0, 1.0), chunks=2)
    for planned in make_plan(env, 6):
        asked = [r.offloaded for r in answer(env, rule, planned).records]
        assert asked == [False] * min(2, len(asked)) + [True] * (len(asked) - 2)


@pytest.mark.parametrize(
    ("thresholds", "message"), [((), "at least one"), ((0.5, 1.5), r"staged=1\.5"), ((float("nan"),), "staged=nan")]
)
def test_stages_that_make_no_sense_are_refused(thresholds: tuple[float, ...], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        StagedRule(SCHEMA, thresholds)


# ---------------------------------------------------------------- P(any rejection)


def test_it_sends_once_any_rejection_is_likelier_than_h() -> None:
    rule = RejectionRule(Rejection(0.5), SCHEMA)
    for confidences, sent in (([0.9] * 6, False), ([0.9] * 7, True), ([0.49], True), ([0.51], False), ([0.99] * 8, False)):
        assert (1 - np.prod(confidences) > 0.5) == sent
        assert (knobs_of(rule.predict(drafted(confidences))[0]).offload_budget == 1.0) == sent


def test_the_next_draft_is_the_longest_that_stays_below_h() -> None:
    rule = RejectionRule(Rejection(0.5), SCHEMA)
    for confidence, length in ((0.3, 1), (0.6, 1), (0.8, 3), (0.9, 6), (0.99, 8)):
        assert length in (1, 8) or 1 - confidence**length <= 0.5 < 1 - confidence ** (length + 1)
        assert knobs_of(rule.predict(drafted([confidence] * 3))[0]).draft_length == length


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_larger_h_never_sends_more_nor_drafts_less(confidences: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    few, many = (knobs_of(RejectionRule(Rejection(h), SCHEMA).predict(drafted(confidences))[0]) for h in (low, high))
    assert many.offload_budget <= few.offload_budget
    assert many.draft_length >= few.draft_length


def test_a_fit_says_how_likely_rejections_are() -> None:
    fitted = Rejection(0.5, intercept=0.0, slope=1.0)  # odds of a rejection are the doubt
    assert fitted.accepted(np.array([0.0, 0.5, 1.0])) == pytest.approx([0.5, 1 / 1.5, 1 / 1.001])
    assert Rejection().accepted(np.array([0.3])) == pytest.approx([0.3])
    bolder = replace(fitted, intercept=-5.0)
    seen = drafted([0.3])
    assert knobs_of(fitted.controller(SCHEMA).predict(seen)[0]).offload_budget == 0.0
    assert knobs_of(Rejection().controller(SCHEMA).predict(seen)[0]).offload_budget == 1.0
    assert knobs_of(bolder.controller(SCHEMA).predict(seen)[0]).draft_length == 8


@pytest.mark.parametrize("h", [-0.1, 1.1, float("nan")])
def test_an_h_that_is_no_probability_is_refused(h: float) -> None:
    with pytest.raises(SettingError, match="rejection="):
        Rejection(h)


# ---------------------------------------------------------------- all


def test_a_batch_is_decided_row_by_row() -> None:
    batch = np.stack([drafted([0.9] * 4), drafted([0.2, 0.9])])
    for rule in (StagedRule(SCHEMA), RejectionRule(Rejection(), SCHEMA), until_unsure(SCHEMA)):
        together = rule.predict(batch)[0]
        assert together.dtype == np.float32
        np.testing.assert_array_equal(together, np.stack([rule.predict(row)[0] for row in batch]))


def test_a_system_without_the_knobs_is_one_line() -> None:
    for make in (until_unsure, StagedRule, lambda schema: Rejection().controller(schema)):
        with pytest.raises(SettingError, match="the system tea"):
            make(toy.SCHEMA)


def test_rules_decide_alone_what_they_decide_among_others(env: SyneraReplayEnv) -> None:
    """They remember nothing."""
    plan = make_plan(env, 6)
    for rule in (StagedRule(env.schema), Rejection(0.9).controller(env.schema), FixedRule(Knobs(), env.schema)):
        assert [answer(env, rule, p).tokens for p in plan] == [answer(env, rule, p).tokens for p in plan[::-1]][::-1]
