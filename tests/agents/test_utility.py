"""What one decision is worth: by stepping through both sides by hand, and rules that must take none, some or all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import utility
from agents.evaluation import PlannedAnswer, answer, make_plan
from agents.rules import FIGURES, FixedRule
from agents.utility import LINEAR, REFERENCE, BothWays, Decisions, decisions, measure_utility
from synera_env import Preference, UncoveredError
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.recorded import Recorded


@pytest.fixture(autouse=True)
def reference(env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that keeps some drafts of this unsure pair, and offloads others."""
    met = np.stack([s for p in make_plan(env, 6) for s in utility._both_ways(env, p, BothWays.of(env.schema))[0]])
    level = float(np.median(FIGURES["confidence"].reader(env.schema)(met)))
    preset = replace(env.schema.presets[REFERENCE], confidence_threshold=level)
    monkeypatch.setitem(env.schema.presets, REFERENCE, preset)


def paid(env: SyneraReplayEnv, planned: PlannedAnswer, place: int = -1, preset: str = REFERENCE) -> tuple[float, list[bool]]:
    """Step through an answer by actions; return the sum of its rewards, and which chunks were offloaded."""
    options = {name: getattr(planned, name) for name in ("prompt", "link", "link_offset_seconds", "preference")}
    env.reset(seed=planned.seed, options=options)
    total, done, offloads = 0.0, False, list[bool]()
    while not done:
        knobs = env.schema.presets[preset if len(offloads) == place else REFERENCE]
        _, reward, done, _, info = env.step(env.schema.action(knobs))
        total += reward
        offloads.append(info["offloaded"])
    return total, offloads


def test_an_advantage_is_what_offloading_pays_more_than_keeping_when_the_rule_goes_on(env: SyneraReplayEnv) -> None:
    wanted: list[tuple[int, float]] = []
    both = set()
    for planned in make_plan(env, 6):
        _, offloads = paid(env, planned)
        for place, offloaded in enumerate(offloads):
            sides = [paid(env, planned, place, preset) for preset in ("always", "never")]
            assert [way[place] for _, way in sides] == [True, False]
            assert all(way[:place] == offloads[:place] for _, way in sides)
            wanted.append((planned.prompt, sides[0][0] - sides[1][0]))
            both.add(offloaded)
    found = decisions(env, 6)
    assert both == {True, False}
    assert (len(found.advantages), found.left_out) == (len(wanted), 0)
    assert found.prompts.tolist() == [prompt for prompt, _ in wanted]
    assert found.advantages == pytest.approx([advantage for _, advantage in wanted], abs=1e-6)
    assert found.advantages.min() < 0 < found.advantages.max()
    assert found.seen.shape == (len(wanted), len(env.schema.low))


def test_the_sides_of_a_decision_draft_alike(env: SyneraReplayEnv) -> None:
    drafting = ("exit_index", "exit_margin", "draft_length")
    assert len({tuple(getattr(env.schema.presets[n], k) for k in drafting) for n in (REFERENCE, "always", "never")}) == 1


def test_the_clairvoyant_takes_most_and_rules_are_those_of_all_figures(env: SyneraReplayEnv) -> None:
    found, told = measure_utility(env, env, 6), decisions(env, 6)
    assert set(found.rules) == {*FIGURES, LINEAR}
    assert (found.decisions, found.prompts, found.left_out) == (len(told.advantages), 6, 0)
    assert found.clairvoyant.mean == pytest.approx(np.maximum(told.advantages, 0).mean())
    assert found.pays == pytest.approx((told.advantages > 0).mean())
    for rule in found.rules.values():
        assert 0 <= rule.utility.mean <= found.clairvoyant.mean
        assert rule.share is not None
        assert rule.share.mean == pytest.approx(rule.utility.mean / found.clairvoyant.mean)
        assert rule.share.low <= rule.share.mean <= rule.share.high <= 1 + 1e-9


def test_a_rule_offloads_where_its_figure_is_doubtful(env: SyneraReplayEnv) -> None:
    """Of the same prompts the level is the best of all, tried one by one."""
    told = decisions(env, 6)
    confidence = FIGURES["confidence"].reader(env.schema)(told.seen)
    best = max(told.advantages[confidence < level].sum() for level in [*confidence, 2.0]) / len(confidence)
    assert measure_utility(env, env, 6).rules["confidence"].utility.mean == pytest.approx(best)


def test_another_rule_may_meet_the_decisions_and_the_terms_add_up_to_the_advantage(env: SyneraReplayEnv) -> None:
    always = env.schema.presets["always"]
    ways = BothWays(lambda seen: always, replace(always, offload_budget=0.0), always)
    found = decisions(env, 6, ways=ways)
    met = sum(len(answer(env, FixedRule(always, env.schema), p).records) for p in make_plan(env, 6))
    assert len(found.advantages) == met
    assert found.terms @ np.array(astuple(Preference())) == pytest.approx(found.advantages)
    assert found.terms[:, 2].mean() < 0  # a check costs cloud seconds
    assert found.advantages.tolist() != decisions(env, 6).advantages.tolist()


def test_levels_are_found_in_one_world_and_tried_in_the_other(
    pair: Recorded, env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, told = pair.env(), decisions(env, 6)
    never_pays = Decisions(told.prompts, told.seen, -np.abs(told.advantages) - 1.0, told.terms, 0)
    monkeypatch.setattr(utility, "decisions", lambda world, *_: never_pays if world is train else told)
    found = measure_utility(train, env, 6)
    assert found.clairvoyant.mean > 0
    assert [rule.utility.mean for rule in found.rules.values()] == [0.0] * len(found.rules)


def test_where_offloading_never_pays_there_is_no_share(env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    told = decisions(env, 6)
    never_pays = Decisions(told.prompts, told.seen, -np.abs(told.advantages) - 1.0, told.terms, 0)
    monkeypatch.setattr(utility, "decisions", lambda *_: never_pays)
    found = measure_utility(env, env, 6)
    assert (found.pays, found.clairvoyant.mean) == (0.0, 0.0)
    assert all(rule.share is rule.ranking is None for rule in found.rules.values())


@given(doubts=st.lists(st.integers(0, 4), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_the_best_level_is_the_best_of_all(doubts: list[int], seed: int) -> None:
    values = np.array(doubts, float)
    advantages = np.random.default_rng(seed).normal(size=len(values))
    level = utility._best_level(values, advantages)
    best = max(advantages[values >= each].sum() for each in [*values, np.inf])
    assert advantages[values >= level].sum() == pytest.approx(best)


def test_the_linear_rule_finds_what_the_entries_tell() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(400, 6)).astype(np.float32)
    seen[:, 2] = 7.0  # tells nothing, and has no spread
    advantages = 0.01 * (seen[:, 0] - 2 * seen[:, 4]).astype(np.float64)
    doubt = utility._fitted(Decisions(np.arange(400), seen, advantages, np.zeros((400, 5)), 0))
    fresh = rng.normal(size=(50, 6)).astype(np.float32)
    assert np.corrcoef(doubt(fresh), fresh[:, 0] - 2 * fresh[:, 4])[0, 1] > 0.999


def test_prompts_are_resampled_with_all_their_decisions() -> None:
    prompts = np.array([3, 3, 3, 9])
    means = utility._resampled(np.array([1.0, 1.0, 1.0, 5.0]), prompts)
    assert means[0] == 2.0
    assert set(np.round(means[1:], 9)) == {1.0, 2.0, 5.0}


def test_decisions_of_which_a_side_leaves_the_graphs_are_counted_and_left_out(
    env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decisions(env, 6)
    real = utility._answer

    def lost_side(env: Any, planned: PlannedAnswer, branch: Any) -> tuple[float | None, Sequence[Any]]:
        reward, records = real(env, planned, branch)
        return (None if planned.prompt == 2 and branch._place == 0 else reward), records

    def lost_reference(env: Any, planned: PlannedAnswer, branch: Any) -> tuple[float | None, Sequence[Any]]:
        reward, records = real(env, planned, branch)
        return (None if planned.prompt == 2 and branch._place == -1 else reward), records

    monkeypatch.setattr(utility, "_answer", lost_side)
    found = decisions(env, 6)
    assert (found.left_out, len(found.advantages)) == (1, len(whole.advantages) - 1)
    of_prompt = int((whole.prompts == 2).sum())
    monkeypatch.setattr(utility, "_answer", lost_reference)
    found = decisions(env, 6)
    assert (found.left_out, len(found.advantages)) == (of_prompt, len(whole.advantages) - of_prompt)
    monkeypatch.setattr(utility, "_answer", lambda *given: (None, real(*given)[1]))
    with pytest.raises(UncoveredError, match="both ways"):
        decisions(env, 6)


def test_the_same_seed_gives_the_same_and_each_answer_is_told(env: SyneraReplayEnv) -> None:
    told: list[None] = []
    first = measure_utility(env, env, 6, finished=lambda: told.append(None))
    assert first == measure_utility(env, env, 6)
    assert len(told) == 12


def test_an_answer_past_the_edge_of_a_graph_has_no_reward(env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    from synera_env.synera.walk import Walk

    planned = make_plan(env, 1)[0]
    branch = utility._Branch(env.schema, planned.preference, BothWays.of(env.schema).before)
    terms, _ = utility._answer(env, planned, branch)
    assert terms is not None
    assert np.array(astuple(planned.preference)) @ terms == pytest.approx(paid(env, planned)[0], abs=1e-6)
    real = Walk.follow

    def follow(self: Walk, node: int, token: int) -> int:
        if self.graph.depth[node] >= 6:
            raise UncoveredError("not recorded")
        return real(self, node, token)

    monkeypatch.setattr(Walk, "follow", follow)
    branch = utility._Branch(env.schema, planned.preference, BothWays.of(env.schema).before)
    terms, records = utility._answer(env, planned, branch)
    assert terms is None
    assert len(branch.seen) >= len(records)
