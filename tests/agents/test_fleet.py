"""Many devices: each answer once, in the plan's order, and nothing left open."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest

from agents.evaluation import answer, make_plan
from agents.fleet import fleet_seconds, run_fleet, run_fleets
from agents.rules import RandomRule
from synera_env import SettingError, SyneraError
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.recorded import Recorded


class Fleet:
    """Makes environments and counts what becomes of them."""

    def __init__(self, pair: Recorded, refuse_after: threading.Event | None = None) -> None:
        self.made: list[SyneraReplayEnv] = []
        self.closed: list[SyneraReplayEnv] = []
        self._pair, self._lock, self._asked = pair, threading.Lock(), itertools.count()
        self.refuse_after, self.refused = refuse_after, threading.Event()

    def first(self) -> SyneraReplayEnv:
        """An environment for the first device that asks, whichever it is, and an error for the others."""
        if next(self._asked):  # one step of the interpreter: of two devices that ask at once one is the first
            if self.refuse_after is not None:
                self.refuse_after.wait(30)
            self.refused.set()
            raise SyneraError("no verifier answers")
        return self()

    def __call__(self) -> SyneraReplayEnv:
        env = self._pair.env()
        close = env.close

        def counted() -> None:
            close()
            self.closed.append(env)

        env.close = counted  # type: ignore[method-assign]
        with self._lock:
            self.made.append(env)
        return env


@pytest.mark.parametrize("devices", [1, 4, 30])
def test_any_number_of_devices_gives_the_same_answers_in_the_plans_order(
    pair: Recorded, env: SyneraReplayEnv, devices: int
) -> None:
    plan, fleet, done = make_plan(env, 14), Fleet(pair), []
    found = run_fleet(fleet, RandomRule(env.schema), plan, devices, lambda: done.append(1))
    alone = [answer(env, RandomRule(env.schema), p) for p in plan]
    assert [a.tokens for a in found] == [a.tokens for a in alone]
    assert [repr(a.metrics) for a in found] == [repr(a.metrics) for a in alone]  # repr, as one NaN is as good as another
    assert len(done) == 14
    assert len(fleet.made) == min(devices, 14)
    assert set(fleet.closed) == set(fleet.made)


def test_controllers_take_turns_answer_by_answer(pair: Recorded, env: SyneraReplayEnv) -> None:
    plan, asked = make_plan(env, 3), []

    class Noted(RandomRule):
        def __init__(self, name: str) -> None:
            super().__init__(env.schema)
            self.name = name

        def initial_state(self, seed: int) -> Any:
            asked.append((self.name, seed))
            return super().initial_state(seed)

    found = run_fleets(Fleet(pair), {name: Noted(name) for name in "ab"}, plan, 1)
    assert list(dict.fromkeys(asked)) == [(name, planned.seed) for planned in plan for name in "ab"]
    alone = [answer(env, RandomRule(env.schema), p).tokens for p in plan]
    assert {name: [a.tokens for a in of] for name, of in found.items()} == {"a": alone, "b": alone}


def test_an_environment_that_cannot_be_made_ends_the_fleet(pair: Recorded, env: SyneraReplayEnv) -> None:
    fleet = Fleet(pair)

    def answered() -> None:
        fleet.refused.wait(30)

    with pytest.raises(SyneraError, match="no verifier answers"):
        run_fleet(fleet.first, RandomRule(env.schema), make_plan(env, 40), 3, answered)
    assert len(fleet.made) == 1
    assert fleet.closed == fleet.made


def test_a_controller_that_fails_is_not_swallowed(pair: Recorded, env: SyneraReplayEnv) -> None:
    class Broken:
        def predict(self, *_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("a bug")

    fleet = Fleet(pair)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_fleet(fleet, Broken(), make_plan(env, 6), 2)
    assert set(fleet.closed) == set(fleet.made)
    assert not [t for t in threading.enumerate() if t.name.startswith("device")]


def test_the_others_stop_once_a_device_has_failed(pair: Recorded, env: SyneraReplayEnv) -> None:
    """Whichever it is: here the second one, while the first is at its first answer."""
    answering, done = threading.Event(), []
    fleet = Fleet(pair, refuse_after=answering)

    def answered() -> None:
        answering.set()
        fleet.refused.wait(30)
        done.append(1)
        time.sleep(0.02)

    plan = make_plan(env, 400)
    with pytest.raises(SyneraError, match="no verifier answers"):
        run_fleet(fleet.first, RandomRule(env.schema), plan, 2, answered)
    assert 1 <= len(done) < 100  # it went on until it heard, not to the end of the plan
    assert fleet.closed == fleet.made


def test_the_first_failure_is_told_and_every_environment_is_closed_though_some_fail_to(
    pair: Recorded, env: SyneraReplayEnv
) -> None:
    fleet = Fleet(pair)
    everyone = threading.Barrier(3)

    def cannot_close() -> SyneraReplayEnv:
        made = fleet()
        close = made.close

        def fails() -> None:
            close()
            raise OSError("the channel is gone")

        made.close = fails  # type: ignore[method-assign]
        return made

    class Broken:
        def predict(self, *_: Any, **__: Any) -> Any:
            everyone.wait(30)
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_fleet(cannot_close, Broken(), make_plan(env, 6), 3)
    assert len(fleet.made) == 3
    assert set(fleet.closed) == set(fleet.made)


def test_an_environment_that_fails_to_close_is_told(pair: Recorded, env: SyneraReplayEnv) -> None:
    class Stuck(Fleet):
        def __call__(self) -> SyneraReplayEnv:
            made = super().__call__()
            made.close = self.fail  # type: ignore[method-assign]
            return made

        def fail(self) -> None:
            raise OSError("the channel is gone")

    with pytest.raises(OSError, match="the channel is gone"):
        run_fleet(Stuck(pair), RandomRule(env.schema), make_plan(env, 3), 2)


def test_a_fleet_of_no_device_is_refused(pair: Recorded, env: SyneraReplayEnv) -> None:
    with pytest.raises(SettingError, match=r"devices=0 must be a number at least 1"):
        run_fleet(Fleet(pair), RandomRule(env.schema), make_plan(env, 3), 0)


def test_an_empty_plan_asks_nobody(pair: Recorded, env: SyneraReplayEnv) -> None:
    fleet = Fleet(pair)
    assert run_fleet(fleet, RandomRule(env.schema), [], 2) == []
    assert not fleet.made


@pytest.mark.parametrize(
    ("seconds", "devices", "takes"),
    [([], 2, 0.0), ([3.0, 1.0, 1.0, 2.0], 1, 7.0), ([3.0, 1.0, 1.0, 2.0], 2, 4.0), ([3.0, 1.0], 5, 3.0)],
)
def test_a_fleet_takes_as_long_as_its_slowest_device(seconds: list[float], devices: int, takes: float) -> None:
    assert fleet_seconds(seconds, devices) == takes
