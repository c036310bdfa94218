"""A link that breaks in the middle of an answer: the plan, and how a controller that notices is told from one that does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agents.base import Controller
from agents.breaks import Adaptation, Breaks
from agents.evaluation import answer_all, make_plan
from agents.registry import rules
from synera_env import UncoveredError
from synera_env.radio import BROKEN, SOUND, Outages
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.recorded import Recorded


class Notices:
    """Sends every chunk until the estimated round trip is above 100 ms."""

    def __init__(self, env: SyneraReplayEnv) -> None:
        self._send, self._keep = (env.schema.action(env.schema.presets[name]) for name in ("always", "never"))
        self._rtt = list(env.schema.entries).index("rtt")

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False) -> Any:
        return (self._keep if observation[self._rtt] > np.log10(0.1) else self._send), state


@pytest.fixture(scope="module")
def world(pair: Recorded) -> tuple[Breaks, SyneraReplayEnv]:
    """On a device slow enough for several chunks on either side of the break."""
    env = pair.env()
    slow = SyneraReplayEnv(env.graphs, env.links, replace(env.device, layer_ms=100.0), env.cloud, outages=Outages.never())
    breaks = Breaks.of(slow, make_plan(slow, 6))
    return breaks, SyneraReplayEnv(
        slow.graphs, [radio.trace for radio in breaks.radios], slow.device, slow.cloud, outages=Outages.never()
    )


def adapted(world: tuple[Breaks, SyneraReplayEnv], controller: Controller) -> Adaptation:
    breaks, env = world
    return breaks.adaptation(answer_all(env, controller, breaks.plan))


def rates(found: Adaptation) -> tuple[float, ...]:
    return tuple(np.nan if each is None else each.mean for each in (found.before, found.after, found.after_held))


def test_each_answer_is_given_twice_and_its_link_breaks_halfway_through_what_the_device_takes(
    world: tuple[Breaks, SyneraReplayEnv],
) -> None:
    breaks, env = world
    held, broken = breaks.plan[:6], breaks.plan[6:]
    assert [(a.prompt, a.seed) for a in held] == [(b.prompt, b.seed) for b in broken]
    assert breaks.radios[0] is SOUND
    assert {each.link for each in held} == {0}
    assert [each.link for each in broken] == [1, 2, 3, 4, 5, 6]
    assert {each.link_offset_seconds for each in breaks.plan} == {0.0}
    alone = answer_all(env, rules(env.schema)["never"], held)
    assert breaks.at_seconds == pytest.approx([a.metrics.seconds / 2 for a in alone if a.metrics], abs=1e-3)
    for radio, at in zip(breaks.radios[1:], breaks.at_seconds, strict=True):
        assert radio.uplink_seconds(at - 1e-4, 0) == SOUND.uplink_seconds(0.0, 0) == pytest.approx(0.02)
        assert radio.uplink_seconds(at, 0) == BROKEN.uplink_seconds(0.0, 0) == pytest.approx(0.3)


def test_who_never_sends_loses_nothing(world: tuple[Breaks, SyneraReplayEnv]) -> None:
    found = adapted(world, rules(world[1].schema)["never"])
    for rate in (found.before, found.after, found.after_held):
        assert rate is not None
        assert (rate.mean, rate.low, rate.high) == (0.0, 0.0, 0.0)
    for more in (found.seconds_more, found.quality_more, found.reward_more):
        assert (more.mean, more.low, more.high) == (0.0, 0.0, 0.0)


def test_who_notices_loses_less_than_who_does_not(world: tuple[Breaks, SyneraReplayEnv]) -> None:
    always, notices = (adapted(world, each) for each in (rules(world[1].schema)["always"], Notices(world[1])))
    assert rates(always) == (1.0, 1.0, 1.0)
    before, after, after_held = rates(notices)
    assert (before, after_held) == (1.0, 1.0)
    assert after < 0.8
    assert notices.seconds_more.mean < 0.5 < always.seconds_more.mean
    assert always.reward_more.mean < 0


def test_answers_that_left_the_graphs_say_nothing(world: tuple[Breaks, SyneraReplayEnv]) -> None:
    breaks, env = world
    answered = answer_all(env, rules(env.schema)["always"], breaks.plan)
    lost = [replace(each, metrics=None) for each in answered]
    with pytest.raises(UncoveredError):
        breaks.adaptation([*answered[:6], *lost[6:]])
    one = breaks.adaptation([*answered[:7], *lost[7:]])
    assert rates(one) == (1.0, 1.0, 1.0)
