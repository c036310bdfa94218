"""What is fitted on training prompts: budgets that are kept, rejections as they were, and what a check adds, recovered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents import fitting
from agents.evaluation import answer_all, make_plan
from agents.fitting import fit_budget, fit_link_aware, fit_rejection
from agents.rules import LevelRule
from agents.rules.link_aware import Sight
from agents.utility import Decisions
from synera_env import SettingError, UncoveredError
from synera_env.synera.replay import SyneraReplayEnv


def offload_rate(env: SyneraReplayEnv, rule: LevelRule) -> float:
    records = [r for each in answer_all(env, rule, make_plan(env, 24)) for r in each.records]
    return float(np.mean([r.offloaded for r in records]))


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_a_budget_is_kept_on_what_it_was_profiled_on(env: SyneraReplayEnv, rate: float) -> None:
    rule = fit_budget(env, rate, 24)
    assert set(rule.levels) == {"confidence", "importance"}
    assert offload_rate(env, rule) == pytest.approx(rate, abs=0.12)


def test_a_budget_of_one_figure_looks_at_that_alone(env: SyneraReplayEnv) -> None:
    assert set(fit_budget(env, 0.3, 6, figures=("entropy",)).levels) == {"entropy"}


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, float("nan")])
def test_a_budget_that_is_no_share_is_refused(env: SyneraReplayEnv, rate: float) -> None:
    with pytest.raises(SettingError, match="budget="):
        fit_budget(env, rate, 6)


def test_the_logistic_fit_gives_back_what_made_the_data() -> None:
    rng = np.random.default_rng(0)
    value = rng.uniform(-7, 0, 40_000)
    happened = rng.random(40_000) < 1 / (1 + np.exp(-(0.5 + 1.5 * value)))
    assert fitting._logistic(value, happened.astype(float)) == pytest.approx((0.5, 1.5), abs=0.08)


def test_a_fit_of_what_never_happens_is_finite() -> None:
    assert np.isfinite(fitting._logistic(np.linspace(-5, 0, 50), np.zeros(50))).all()


def test_rejections_are_fitted_as_they_were(env: SyneraReplayEnv) -> None:
    """On the mean, the fit expects as many rejections as there were among the tokens judged."""
    found = fit_rejection(env, 12, 0.4)
    assert found.h == 0.4
    asked = answer_all(env, fitting.FixedRule(env.schema.presets["always"], env.schema), make_plan(env, 12))
    records = [r for each in asked for r in each.records]
    judged = [t.confidence for r in records for t in r.draft.tokens[: r.accepted + 1]]
    rejected = sum(r.accepted < r.judged for r in records)
    assert 0 < rejected < len(judged)
    assert (1 - found.accepted(np.array(judged))).sum() == pytest.approx(rejected, rel=0.02)


def test_without_any_verdict_there_is_no_fit(env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "answer_all", lambda *given: [])
    with pytest.raises(UncoveredError, match="no check was answered"):
        fit_rejection(env, 2, 0.5)


def test_what_a_check_adds_is_recovered_and_the_quality_knows_no_link(env: SyneraReplayEnv) -> None:
    rng, schema = np.random.default_rng(1), env.schema
    sight = Sight(schema)
    seen = rng.uniform(np.maximum(schema.low, -2), np.minimum(schema.high, 2), (4000, len(schema.low))).astype(np.float32)
    figures = sight.figures(seen)
    place = {name: i for i, name in enumerate(sight.names)}
    least, network = figures[:, place["least_confidence"]], figures[:, place["network"]]
    terms = np.stack([0.3 - 0.3 * least, -network, *[np.full(4000, -0.5)] * 3], -1)
    terms[:, 0] += 0.0 * network
    found = fitting._link_aware(Decisions(np.arange(4000), seen, terms[:, 0], terms, 0), sight, schema.presets["always"])
    rule = found.controller(schema)
    assert np.abs(rule.added(seen) - terms).mean() < 0.02 * np.abs(terms).mean()
    assert found.quality[1 + sight.draft_figures :] == (0.0,) * (len(sight.names) - sight.draft_figures)
    assert any(found.latency[1 + sight.draft_figures :])


def test_fitted_in_a_world_it_drafts_as_it_was_fitted_and_costs_are_costs(env: SyneraReplayEnv) -> None:
    told: list[None] = []
    draft = replace(env.schema.presets["threshold"], confidence_threshold=0.08, draft_length=2)
    found = fit_link_aware(env, draft, 6, finished=lambda: told.append(None))
    assert (found.offload.draft_length, found.offload.offload_budget, found.offload.confidence_threshold) == (2, 1.0, 1.0)
    assert len(told) == 6
    assert found.latency[0] < 0
    assert found.cost[0] < 0
    assert found == fit_link_aware(env, draft, 6)
