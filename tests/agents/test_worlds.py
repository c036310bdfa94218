"""A plan in two worlds: who answers what in which; replays stand for the live world, as nothing here is of its times."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from agents.base import Controller
from agents.evaluation import make_plan
from agents.registry import controller
from agents.worlds import Replayed
from runtime.errors import CloudUnavailableError
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.recorded import Recorded


def makers(env: SyneraReplayEnv, made: list[Controller]) -> dict[str, Callable[[], Controller]]:
    def make(name: str) -> Controller:
        made.append(controller(name, env.schema))
        return made[-1]

    return {name: partial(make, name) for name in ("never", "always", "linucb")}


def test_both_worlds_have_the_same_plan_and_controllers_of_their_own(pair: Recorded, env: SyneraReplayEnv) -> None:
    made: list[Controller] = []
    answered: list[int] = []
    plan = make_plan(env, 5)
    replayed = Replayed.of(env, plan, makers(env, made))
    assert len(made) == 3
    both = replayed.live(pair.env, 1, lambda: answered.append(1))
    assert len(set(map(id, made))) == 6  # what a bandit learnt in replay is not known live
    assert len(answered) == 3 * 5
    assert list(both.worlds("linucb")) == ["replay", "live"]
    for name, live in both.live.items():
        assert [a.prompt for a in live] == [planned.prompt for planned in plan]
        assert [a.tokens for a in live] == [a.tokens for a in both.replayed[name]]
        assert both.agreements[name].tokens_identical == 1.0
        assert both.agreements[name].same_knobs == 1.0


def test_the_replay_says_how_long_the_live_world_takes(env: SyneraReplayEnv) -> None:
    replayed = Replayed.of(env, make_plan(env, 6), makers(env, []))
    seconds = [a.metrics.seconds for found in replayed.answers.values() for a in found if a.metrics]
    assert replayed.live_seconds(1) == pytest.approx(sum(seconds))
    assert replayed.live_seconds(len(seconds)) == pytest.approx(max(seconds))


def test_what_is_called_after_an_answer_can_end_it_all(pair: Recorded, env: SyneraReplayEnv) -> None:
    def gone() -> None:
        raise CloudUnavailableError("the verifier ended by itself")

    with pytest.raises(CloudUnavailableError, match="ended by itself"):
        Replayed.of(env, make_plan(env, 3), makers(env, [])).live(pair.env, 2, gone)
