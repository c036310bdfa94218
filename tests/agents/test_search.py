"""The search finds the best fixed knobs of what it is given to try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from agents import search
from agents.evaluation import Answered, PlannedAnswer, evaluate, make_plan
from agents.rules import FixedRule
from agents.search import Chosen, SearchResult, choose, grid_search, search_fixed
from synera_env import Knobs, UncoveredError, synera_schema
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import ALWAYS, NEVER
from tests.support.recorded import Recorded


def test_the_search_finds_the_best_although_early_rounds_are_noisy() -> None:
    grid = synera_schema(2).grid()
    planted, rounds = 37, []

    def noisy(settings: Sequence[Knobs], episodes: int) -> NDArray[np.float64]:
        rounds.append((len(settings), episodes))
        rng = np.random.default_rng(episodes)
        return np.array([float(k == grid[planted]) for k in settings]) + rng.normal(0, 2 / episodes, len(settings))

    found = search_fixed(noisy, grid, episodes=96, first_round=12)
    assert found.knobs == grid[planted]
    assert found.tried == len(grid)
    assert found.reward == pytest.approx(1.0, abs=0.2)
    assert rounds[0] == (len(grid), 12)
    assert rounds[-1][1] == 96  # the last word is said on all episodes
    assert [n for n, _ in rounds] == sorted((n for n, _ in rounds), reverse=True)


def test_the_search_on_an_environment_finds_the_best_of_its_grid(env: SyneraReplayEnv) -> None:
    grid = [NEVER, ALWAYS, Knobs(confidence_threshold=0.1, offload_budget=1.0, draft_length=1)]
    plan = make_plan(env, 6, seed=2)
    rewards = [np.mean([m.reward for m in evaluate(env, FixedRule(k, env.schema), plan)]) for k in grid]
    best = int(np.argmax(rewards))
    assert sorted(rewards)[-1] > sorted(rewards)[-2]
    assert grid_search(env, 6, seed=2, grid=grid) == SearchResult(grid[best], pytest.approx(rewards[best]), 3)


def test_without_a_grid_it_tries_the_schema_s(env: SyneraReplayEnv) -> None:
    assert grid_search(env, 1).tried == len(env.schema.grid())


def planted(env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch, rewards: dict[Knobs, list[float | None]]) -> None:
    """Make a setting earn so much at each prompt; None is an answer that leaves the graphs."""
    good = evaluate(env, FixedRule(NEVER, env.schema), make_plan(env, 1))[0]

    def answered(env: SyneraReplayEnv, rule: FixedRule, plan: Sequence[PlannedAnswer]) -> list[Answered]:
        paid = [(planned.prompt, rewards[rule.knobs][planned.prompt]) for planned in plan]
        return [Answered(p, "", None if reward is None else replace(good, reward=reward), (), ()) for p, reward in paid]

    monkeypatch.setattr(search, "answer_all", answered)


def test_a_setting_does_not_win_by_losing_its_hard_answers(env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Averaged over what is left of its answers alone, `ALWAYS` would."""
    planted(env, monkeypatch, {NEVER: [0.5] * 6, ALWAYS: [0.9] + [None] * 5})
    found = grid_search(env, 6, grid=[NEVER, ALWAYS])
    assert (found.knobs, found.reward) == (NEVER, pytest.approx(0.5))


def test_a_setting_does_not_lose_by_losing_a_few_answers(env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted as nothing earned, they would decide: what leaves the graphs is what follows the LLM."""
    planted(env, monkeypatch, {NEVER: [0.5] * 6, ALWAYS: [0.7] * 4 + [None] * 2})
    with pytest.warns(UserWarning, match=r"the search of the best fixed knobs rests on 67% of the answers, to 4 of 6 prompts"):
        found = grid_search(env, 6, grid=[NEVER, ALWAYS])
    assert (found.knobs, found.reward) == (ALWAYS, pytest.approx(0.7))


def test_a_search_in_which_every_setting_loses_too_much_is_refused(
    env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(env, monkeypatch, {NEVER: [0.5, 0.5] + [None] * 4, ALWAYS: [None] * 6})
    with pytest.raises(UncoveredError, match="no fixed setting keeps 50% of its answers inside the recorded graphs; record"):
        grid_search(env, 6, grid=[NEVER, ALWAYS])


# ---------------------------------------------------------------- who wins on validation


def test_the_best_on_training_compete_on_validation(
    env: SyneraReplayEnv, pair: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth on training would win there, but only three are let in; of these the best there wins, not the first here."""
    here, there = env, pair.env()
    rules = {name: FixedRule(NEVER, env.schema) for name in "abcde"}
    earned = {
        here: dict(zip("abcde", (0.5, 0.4, 0.3, 0.2, 0.1), strict=True)),
        there: dict(zip("abcde", (0.1, 0.3, 0.2, 0.2, 0.9), strict=True)),
    }
    asked: list[tuple[bool, int]] = []

    def answered(world: SyneraReplayEnv, rule: FixedRule, plan: Sequence[PlannedAnswer]) -> float:
        name = next(name for name, each in rules.items() if each is rule)
        asked.append((world is here, len(plan)))
        return earned[world][name]

    monkeypatch.setattr(search, "answer_all", answered)
    monkeypatch.setattr(search, "worth", lambda reward: reward)
    told: list[None] = []
    found = choose(rules, here, there, 8, 4, finished=lambda: told.append(None))
    assert found == Chosen("b", 0.4, 0.3, 5)
    assert asked == [(True, 8)] * 5 + [(False, 4)] * 3
    assert len(told) == 8


def test_a_choice_of_which_nothing_is_left_is_refused(env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "worth", lambda answered: float("-inf"))
    with pytest.raises(UncoveredError, match="no candidate keeps 50%"):
        choose({"a": FixedRule(NEVER, env.schema)}, env, env, 2, 2)
