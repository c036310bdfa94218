"""Discrete actions: what each does, and which of them cannot be done."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from synera_env import DiscreteChoices, Outages, SettingError, synera_schema
from tests.support.graphs import CLOUD, DEVICE
from traces.links.generators import constant_link
from traces.synera.graph import GraphSet

SCHEMA = synera_schema(2)
SENDS = np.array([choice.offload_budget > 0 for choice in SCHEMA.choices])


@pytest.fixture
def world(akin_graphs: GraphSet) -> dict[str, Any]:
    return {"graphs": akin_graphs, "links": [constant_link()], "device": DEVICE, "cloud": CLOUD}


def test_choices_are_distinct_settings_and_half_of_them_send() -> None:
    assert len(set(SCHEMA.choices)) == len(SCHEMA.choices) == 24
    assert SENDS.sum() == 12
    assert len(synera_schema(1).choices) == 8
    assert SCHEMA.choice_table().count("\n") == 25
    for choice in SCHEMA.choices:
        np.testing.assert_array_equal(SCHEMA.action(SCHEMA.knobs(SCHEMA.action(choice))), SCHEMA.action(choice))


@pytest.mark.parametrize("number", [0, 11, 12, 23])
def test_a_choice_is_what_it_says(world: dict[str, Any], number: int) -> None:
    env = gym.make("SyneraReplay-discrete-v0", **world, outages=Outages.never())
    boxed = gym.make("SyneraReplay-v0", **world, outages=Outages.never())
    assert env.action_space.n == 24
    for each in (env, boxed):
        each.reset(seed=1)
    for _ in range(3):
        one, other = env.step(number), boxed.step(SCHEMA.action(SCHEMA.choices[number]))
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1] == other[1]
        assert one[4]["offloaded"] == SENDS[number]
        if one[2]:
            break


def test_nothing_is_masked_while_the_cloud_is_there(world: dict[str, Any]) -> None:
    env = gym.make("SyneraReplay-discrete-v0", **world, outages=Outages.never())
    assert env.get_wrapper_attr("action_masks")().all()
    env.reset(seed=0)
    assert env.get_wrapper_attr("action_masks")().all()


def test_while_the_cloud_is_left_alone_nothing_can_be_sent(world: dict[str, Any]) -> None:
    """Each loss leaves it alone for a while; a probe then finds it again, for which a choice that sends must be open."""
    seen = set()
    env = gym.make("SyneraReplay-discrete-v0", **world, outages=Outages(every_seconds=0.5, mean_seconds=1.5))
    masks, shut = env.get_wrapper_attr("action_masks"), 0
    for seed in range(12):
        env.reset(seed=seed)
        ended = False
        while not ended:
            possible = masks()
            assert possible[~SENDS].all()
            assert possible[SENDS].all() or not possible[SENDS].any()
            seen.add(bool(possible[SENDS].any()))
            shut += env.unwrapped.point.cloud_shut
            before = env.unwrapped.point.cloud_shut
            *_, terminated, truncated, _ = env.step(15)
            assert not before or env.unwrapped.session.records[-1].error is not None  # choosing it all the same loses the check
            ended = terminated or truncated
    assert seen == {True, False}
    assert shut > 0


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_a_hard_limit_holds_whatever_is_chosen(world: dict[str, Any], share: float) -> None:
    env = gym.wrappers.RecordEpisodeStatistics(DiscreteChoices(gym.make("SyneraReplay-v0", **world), max_offload=share))
    env.reset(seed=2)
    chunks = sent = 0
    ended = False
    while not ended:
        chunks += 1
        open_to = env.get_wrapper_attr("action_masks")()
        affordable = share > 0 and sent + 1 <= math.ceil(share * chunks)
        assert open_to[SENDS].all() == (affordable or share == 0)  # without any budget no choice asks for the cloud
        *_, terminated, truncated, info = env.step(12 + 11)
        assert info["offloaded"] == affordable
        sent += info["offloaded"]
        ended = terminated or truncated
    assert sent <= math.ceil(share * chunks)


def test_what_cannot_be_limited_is_said(world: dict[str, Any]) -> None:
    env = gym.make("SyneraReplay-v0", **world)
    with pytest.raises(SettingError, match=r"max_offload=1.5 must be in 0..1|max_offload=1.5"):
        DiscreteChoices(env, max_offload=1.5)
    with pytest.raises(SettingError, match="env='CartPoleEnv' has no schema"):
        DiscreteChoices(gym.make("CartPole-v1"))


def test_knobs_that_ask_for_nothing_are_always_possible(world: dict[str, Any]) -> None:
    env = gym.make("SyneraReplay-v0", **world)
    env.reset(seed=0)
    point = replace(env.unwrapped.point, cloud_shut=True)
    never, always = SCHEMA.presets["never"], SCHEMA.presets["always"]
    assert not SCHEMA.impossible(point, never)
    assert SCHEMA.impossible(point, always)
    assert not SCHEMA.impossible(replace(point, cloud_shut=False), always)
    sure = replace(always, confidence_threshold=0.0)
    assert not SCHEMA.impossible(point, sure)
