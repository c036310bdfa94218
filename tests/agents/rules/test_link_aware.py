"""The link-aware threshold: it offloads exactly where the expected gain, priced, exceeds the expected cost."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agents.evaluation import answer, make_plan
from agents.rules import LinkAware, LinkAwareRule
from agents.rules.link_aware import LINK, Sight
from synera_env import Knobs, Preference, SettingError, synera_schema
from synera_env.synera.replay import SyneraReplayEnv
from tests.support import toy

SCHEMA = synera_schema(exits=2)
SIGHT = Sight(SCHEMA)
ZERO = (0.0,) * len(SIGHT.names)


def stated(term: str, constant: float, **of: float) -> tuple[float, ...]:
    return (constant, *(of.get(name, 0.0) for name in SIGHT.names))


FITTED = LinkAware(
    offload=Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=2, draft_ahead=0.3),
    figures=SIGHT.names,
    center=ZERO,
    scale=(1.0,) * len(SIGHT.names),
    quality=stated("quality", 0.2, least_confidence=-0.2),
    latency=stated("latency", 0.0, network=-1.0, queue=-1.0, compute=-1.0),
    cost=stated("cost", 0.0, compute=-1.0),
    energy=stated("energy", -0.5),
    traffic=stated("traffic", -0.001, bytes=-0.001),
)
"""A check saves 0.2 of quality times the doubt, and costs what the link and the cloud take."""


def seen(
    confidence: float,
    rtt: float,
    queue: float = 0.01,
    compute: float = 0.02,
    bps: float = 1e5,
    preference: Preference | None = None,
) -> NDArray[np.float32]:
    found = np.zeros(len(SCHEMA.low), np.float32)
    shown = {"least_confidence": confidence, "rtt": np.log10(rtt), "queue": np.log10(queue), "compute": np.log10(compute)}
    shown |= {"throughput": np.log10(bps)}
    for name, value in zip(
        ("quality", "latency", "cost", "energy", "traffic"), astuple(preference or Preference()), strict=True
    ):
        shown[f"weight_{name}"] = np.log10(value)
    for name, value in shown.items():
        found[SCHEMA.places(name)] = value
    return found


def by_hand(confidence: float, rtt: float, queue: float, compute: float, bps: float, p: Preference) -> float:
    gain = p.quality * 0.2 * (1 - confidence)
    cost = p.latency * (rtt + queue + compute) + p.cost * compute + p.energy * 0.5 + p.traffic * 0.001 * (1 + 8000 / bps)
    return gain - cost


@given(
    st.floats(0, 1),
    st.floats(0.002, 50),
    st.floats(0.002, 5),
    st.floats(0.002, 5),
    st.floats(1e3, 1e9),
    st.floats(0.02, 5),
    st.floats(0.05, 50),
)
def test_it_offloads_where_the_gain_exceeds_the_cost(
    confidence: float, rtt: float, queue: float, compute: float, bps: float, latency: float, cost: float
) -> None:
    preference = Preference(latency=latency, cost=cost)
    rule, observation = FITTED.controller(SCHEMA), seen(confidence, rtt, queue, compute, bps, preference)
    margin = by_hand(confidence, rtt, queue, compute, bps, preference)
    worth = float(np.sum(rule.added(observation) * SIGHT.weights(observation)))
    assert worth == pytest.approx(margin, rel=1e-4, abs=1e-5)
    knobs = SCHEMA.knobs(rule.predict(observation)[0])
    assert knobs.draft_length == 2
    if abs(margin) > 1e-4:
        assert (knobs.offload_budget == 1.0) == (margin > 0)


def test_the_same_draft_is_checked_over_a_near_link_and_kept_over_a_far_one() -> None:
    rule = FITTED.controller(SCHEMA)
    batch = np.stack([seen(0.5, rtt) for rtt in (0.02, 0.2, 2.0, 20.0)])
    assert [SCHEMA.knobs(action).offload_budget for action in rule.predict(batch)[0]] == [1.0, 1.0, 0.0, 0.0]


def test_over_the_same_link_the_doubtful_draft_is_checked_and_the_sure_one_kept() -> None:
    rule = FITTED.controller(SCHEMA)
    batch = np.stack([seen(c, 0.7) for c in (0.05, 0.5, 0.95)])
    assert [SCHEMA.knobs(action).offload_budget for action in rule.predict(batch)[0]] == [1.0, 0.0, 0.0]


def test_it_sees_only_what_a_device_sees_and_answers(env: SyneraReplayEnv) -> None:
    rule = FITTED.controller(env.schema)
    records = [r for planned in make_plan(env, 6) for r in answer(env, rule, planned).records]
    assert {r.offloaded for r in records} == {True}  # this pair is unsure, and its links are near
    dear = replace(FITTED, quality=stated("quality", 0.0)).controller(env.schema)
    assert not any(r.offloaded for planned in make_plan(env, 6) for r in answer(env, dear, planned).records)


def test_estimates_of_the_link_are_seconds_and_come_last() -> None:
    figures = SIGHT.figures(seen(0.5, 0.3, 0.04, 0.05, 16_000.0))
    assert SIGHT.names[SIGHT.draft_figures :] == LINK
    assert figures[SIGHT.draft_figures :] == pytest.approx([0.3, 0.04, 0.05, 0.0, 0.5], rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"quality": (0.0,)}, "weights for"),
        ({"center": (0.0,)}, "weights for"),
        ({"scale": ZERO}, "must be above 0"),
    ],
)
def test_figures_that_do_not_fit_each_other_are_refused(wrong: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(FITTED, **wrong)  # type: ignore[arg-type]


def test_figures_of_another_schema_are_refused() -> None:
    other = replace(FITTED, figures=(*SIGHT.names[1:], SIGHT.names[0]))
    with pytest.raises(SettingError, match="other figures"):
        LinkAwareRule(other, SCHEMA)
    with pytest.raises(SettingError, match="the system tea does not show"):
        FITTED.controller(toy.SCHEMA)
