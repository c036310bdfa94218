"""The informed bound on tiny graphs: what it finds, whom its trees know, and that it repeats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.counterfactual import informed as module
from agents.counterfactual.batch import Batch
from agents.counterfactual.choices import RuleScorer, course_values
from agents.counterfactual.informed import Informed, InformedConfig, Round, informed
from agents.counterfactual.learning import best_rule
from agents.counterfactual.trees import TreeController, Trees
from agents.errors import BundleError
from agents.evaluation import PlannedAnswer, answer
from synera_env import Preference, SettingError, TraceError
from synera_env.synera.decisions.process import Actions
from synera_env.synera.decisions.scenarios import Ranges, Scenario, Scenarios
from synera_env.synera.decisions.sight import HISTORY, Sight, sight_of
from tests.support.decisions import NEAR
from tests.support.recorded import Recorded
from traces.links.generators import constant_link

TINY = InformedConfig(fits=1, rounds=2, answers=6, walks=3, trees=4, leaves=6, least_rows=10, rate=0.4)
LINKS = [constant_link(rtt_ms=2.0), constant_link(rtt_ms=2000.0)]
KEEN = Preference(quality=1.0)
RANGES = Ranges(LINKS, KEEN)


@pytest.fixture(scope="module")
def sight(pair: Recorded) -> Sight:
    return sight_of(pair.env())


@pytest.fixture(scope="module")
def found(sight: Sight) -> tuple[Informed, list[Round]]:
    rounds: list[Round] = []
    return informed(sight, RANGES, TINY, on_round=rounds.append), rounds


def test_it_is_worth_more_than_the_best_fixed_rule_and_less_than_the_clairvoyant(
    sight: Sight, found: tuple[Informed, list[Round]]
) -> None:
    prompts = np.tile(sight.work.process.startable, 8)
    drawn = Scenarios.draw(RANGES, len(prompts), np.random.default_rng(1))
    rule = RuleScorer(best_rule(sight, RANGES, 64, np.random.default_rng(0)), sight.schema, 12)
    worth = found[0].values(sight, prompts, drawn)
    assert worth.mean() > course_values(sight, rule, prompts, drawn).mean() + 0.02
    best, _ = Batch.of(sight.work, prompts, drawn).clairvoyant()
    assert (worth <= best + 1e-9).all()


def test_rounds_tell_what_is_held_out(found: tuple[Informed, list[Round]]) -> None:
    policy, rounds = found
    assert len(rounds) == TINY.rounds
    assert rounds[-1].policy.fits == policy.trees.fits
    assert len(policy.trees.fits) == TINY.folds
    assert all(each.decisions > 100 for each in rounds)


def test_no_prompt_is_decided_by_trees_that_know_it(sight: Sight, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[tuple[Any, set[int]]] = []
    found: list[Any] = []
    fits: list[Trees] = []
    meet, fit = module._meet, module._fit

    def watched(sight: Sight, ranges: Ranges, prompts: Any, policy: Any, *rest: Any) -> Any:
        met.append((policy, set(prompts.tolist())))
        found.append(meet(sight, ranges, prompts, policy, *rest))
        return found[-1]

    def remembered(known: Any, *rest: Any) -> Trees:
        fold = len(fits) % 3
        told = {id(each) for each in known}
        assert told == {id(each) for place, each in enumerate(found[-3:]) if place != fold}
        fits.append(fit(known, *rest))
        return fits[-1]

    monkeypatch.setattr(module, "_meet", watched)
    monkeypatch.setattr(module, "_fit", remembered)
    informed(sight, RANGES, replace(TINY, answers=1, trees=1, folds=3))
    first, second = [prompts for _, prompts in met[:3]], met[3:]
    assert set.union(*first) == set(sight.work.process.startable.tolist())
    assert sum(map(len, first)) == len(sight.work.process.startable)
    assert [prompts for _, prompts in second] == first
    assert [policy for policy, _ in second] == fits[:3]


def test_the_same_seed_finds_the_same_trees_and_another_others(sight: Sight, found: tuple[Informed, list[Round]]) -> None:
    said = [[action.model_to_string() for action in fit] for fit in found[0].trees.fits]
    again = informed(sight, RANGES, TINY)
    assert [[action.model_to_string() for action in fit] for fit in again.trees.fits] == said
    other = informed(sight, RANGES, replace(TINY, seed=1))
    assert [[action.model_to_string() for action in fit] for fit in other.trees.fits] != said


def test_it_decides_the_full_replay_as_it_does_the_process(
    pair: Recorded, sight: Sight, found: tuple[Informed, list[Round]]
) -> None:
    env = pair.env((NEAR,))
    controller, preference = found[0].controller(sight), replace(KEEN, latency=0.0, energy=0.0, cost=0.0, traffic=0.0)
    prompts = sight.work.process.startable
    worth = found[0].values(sight, prompts, Scenarios.constant(Scenario(NEAR, preference), len(prompts)))
    answered = [answer(env, controller, PlannedAnswer(int(prompt), 0, 0.0, 1, preference)) for prompt in prompts]
    rewards = [each.metrics.reward for each in answered if each.metrics]
    np.testing.assert_allclose(rewards, worth, atol=1e-9)
    assert len({each.tokens for each in answered}) > 3


def test_the_controller_is_blind_to_history(sight: Sight, found: tuple[Informed, list[Round]]) -> None:
    prompts = sight.work.process.startable
    seen = sight.observe(prompts, Scenarios.draw(RANGES, len(prompts), np.random.default_rng(3)))[:200]
    controller = found[0].controller(sight)
    acts, state = controller.predict(seen)
    assert state is None
    assert len(np.unique(acts, axis=0)) > 2
    other = seen.copy()
    for name in HISTORY:
        other[:, sight.schema.places(name)] += 0.3
    np.testing.assert_array_equal(controller.predict(other)[0], acts)
    np.testing.assert_array_equal(controller.predict(seen[5])[0], acts[5])


def test_importance_is_shared_among_the_entries(sight: Sight, found: tuple[Informed, list[Round]]) -> None:
    shares = found[0].trees.importance(sight.schema.entries)
    assert set(shares) == set(sight.schema.entries)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert shares["past_accepted[0]"] == 0.0  # as no state has a past
    assert next(iter(shares.values())) > 0.1


def test_trees_are_kept_as_a_file(sight: Sight, found: tuple[Informed, list[Round]], tmp_path: Path) -> None:
    trees = found[0].trees
    trees.save(tmp_path / "trees.json")
    seen = sight.observe(sight.work.process.startable[:1], Scenarios.constant(Scenario(NEAR), 1))
    np.testing.assert_array_equal(Trees.load(tmp_path / "trees.json").scores(seen), trees.scores(seen))
    (tmp_path / "damaged.json").write_text('{"fits": [["tree"]]}')
    with pytest.raises(BundleError, match=r"damaged\.json cannot be read"):
        Trees.load(tmp_path / "damaged.json")
    for content in ('{"fits": []}', '{"fits": 3}', "{"):
        (tmp_path / "damaged.json").write_text(content)
        with pytest.raises(TraceError, match=r"damaged\.json"):
            Trees.load(tmp_path / "damaged.json")
    with pytest.raises(TraceError, match="no trees at"):
        Trees.load(tmp_path / "missing.json")


def test_what_was_not_recorded_is_not_learned_of() -> None:
    """A gain of NaN is none: trees of the others are as without those rows."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(2000, 3)).astype(np.float32)
    gains = np.stack([seen[:, 0], -seen[:, 0]], 1).astype(np.float64)
    gains[:1000, 1] = np.nan
    trees = Trees.fitted(seen, gains, np.ones(2000), trees=40, leaves=8, least_rows=20, rate=0.3, seed=0)
    assert np.abs(trees.scores(seen) - np.stack([seen[:, 0], -seen[:, 0]], 1)).mean() < 0.25


def test_more_folds_than_prompts_are_refused(sight: Sight) -> None:
    with pytest.raises(SettingError, match="1 prompts cannot lie in folds=2"):
        informed(sight, RANGES, TINY, prompts=[0])


WRONG = [{name: value} for name in ("rounds", "answers", "walks", "trees", "least_rows") for value in (0, 1.5)]
WRONG += [{"folds": 1}, {"leaves": 1}, {"explore": 1.1}, {"rate": 0.0}, {"rate": 2.0}, {"seed": -1}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_configuration_shows_the_value(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(SettingError, match=f"{name}={value}"):
        InformedConfig(**wrong)


def test_a_controller_needs_the_actions_of_its_schema(sight: Sight, found: tuple[Informed, list[Round]]) -> None:
    ahead = TreeController(found[0].trees, Actions.of(sight.schema, 0.3), sight.schema)
    plain = found[0].controller(sight)
    seen = sight.observe(sight.work.process.startable[:1], Scenarios.constant(Scenario(NEAR), 1))
    differs = (ahead.predict(seen)[0] != plain.predict(seen)[0]).any(0)
    assert [sight.schema.rows[i].name for i in np.flatnonzero(differs)] == ["draft_ahead"]
