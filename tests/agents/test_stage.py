"""Scenarios are products of links, loads and preferences; a contest has everybody answer the same plan in each; what is tuned is tuned there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.bandits import LinUCB
from agents.comparison import worth
from agents.contest import ONLY, Contestant, hold
from agents.evaluation import answer_all
from agents.registry import controller
from agents.stage import Stage
from agents.tuning import FAMILIES, FIXED, Tuning, families
from runtime.errors import SettingError
from synera_env import Outages, Preference, TraceError
from synera_env.mixes import BUILT_IN, Mix, OwnLoad, OwnPreference, Worlds, read_mix, scenarios_of
from synera_env.reward import named_preferences
from tests.support.recorded import GPU, PHONE, Recorded
from traces import bundled
from traces.links.generators import constant_link, markov_link
from traces.workload.generators import Lengths, poisson
from traces.workload.store import save_workload

LINKS = [constant_link(rtt_ms=20.0), markov_link(7, seconds=20.0), markov_link(8, seconds=20.0, family="remote")]


def stage(pair: Recorded, mix: Mix, answers: int = 6, **more: Any) -> Stage:
    substitutes = more.pop("substitutes", ())
    worlds = Worlds(mix, pair.graphs, more.pop("links", LINKS), PHONE, GPU, outages=Outages.never(), substitutes=substitutes)
    return Stage(worlds, answers, **more)


# ---------------------------------------------------------------- what they are


def test_a_mix_is_a_product_with_every_changing_family() -> None:
    mix = Mix((20.0, "families"), ("profile", "idle"), ("balanced", "cost"))
    found = scenarios_of(mix, LINKS)
    assert [each.name for each in found[:2]] == ["20 ms / profile / balanced", "20 ms / profile / cost"]
    assert len({each.name for each in found}) == len(found) == 3 * 2 * 2
    assert {each.link for each in found} == {"20 ms", "markov", "remote"}
    assert {each.weights for each in found} == {named_preferences()[name] for name in ("balanced", "cost")}


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_the_built_in_mixes_are_those_of_the_bundled_test_links(name: str) -> None:
    found = scenarios_of(read_mix(name), bundled.links("test"))
    assert len(found) == {"mix": 6 * 2 * 4, "quick": 3 * 3}[name]


def test_a_file_states_a_mix(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "links: [75, markov]\n"
        "loads: [idle, {name: ten, users: 10}]\n"
        "preferences:\n  - speed\n  - {name: mine, weights: {latency: 0.5}}\n"
    )
    mix = read_mix(str(path))
    assert mix == Mix((75.0, "markov"), ("idle", OwnLoad("ten", users=10)), ("speed", OwnPreference("mine", {"latency": 0.5})))
    found = scenarios_of(mix, LINKS)
    assert found[-1].name == "markov / ten / mine"
    assert found[-1].weights == replace(Preference(), latency=0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("links: []", "links"),
        ("loads: [profile]", "links"),
        ("links: [75]\nlink: [3]", "link"),
        ("links: [-5]", "links.0"),
        ("links: [.nan]", "links.0"),
        ("links: [75]\nloads: [{name: x}]", "must state either users or a workload"),
        ("links: [75]\nloads: [{name: x, users: 0}]", "users"),
        ("links: [75]\npreferences: [{name: x, weights: {latency: -1}}]", "latency"),
        ("links: [75", "line 1: expected "),
        ("just words", "Mix"),
        ("", "Mix"),
        ("a: &x [1]\nlinks: *x", "alias"),
        ("links: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("[" * 5000, "not a file of scenarios"),
        ("links: ['\x00']", "not a file of scenarios"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        read_mix(str(path))
    assert "is not a file of scenarios" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        (Mix(("dial-up",)), "'dial-up' of the scenarios is not a family; there are constant, markov, remote"),
        (Mix((1.0,), ("heavy",)), "loads='heavy'"),
        (Mix((1.0,), ("idle", "idle")), "loads of the scenarios name one twice"),
        (Mix((1.0, 1.0)), "links of the scenarios name one twice"),
        (Mix((1.0,), ("idle",), ("best",)), "preferences='best'"),
        (Mix((1.0,), ("idle",), ("cost", "cost")), "preferences of the scenarios name one twice"),
        (Mix((1.0,), ("idle",), (OwnPreference("x", {"speed": 1.0}),)), "'x' has a weight that is not one of quality, latency"),
        (Mix(tuple(float(i) for i in range(1001))), "the scenarios are 1001"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(mix: Mix, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        scenarios_of(mix, LINKS)
    assert said in str(caught.value)


def test_no_such_mix(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="neither one of mix, quick nor a YAML file"):
        read_mix(str(tmp_path / "none.yaml"))


# ---------------------------------------------------------------- the worlds


def test_all_scenarios_ask_the_same_prompts_on_their_own_links_and_loads(pair: Recorded, tmp_path: Path) -> None:
    save_workload(poisson(2.0, 60.0, lengths=Lengths(context=2000, generated=300)), tmp_path / "others.csv")
    loads = ("profile", "idle", OwnLoad("others", workload=str(tmp_path / "others.csv")), OwnLoad("few", users=3))
    mix = Mix((300.0, "markov"), loads, ("balanced", "speed"))
    here, found = stage(pair, mix), scenarios_of(mix, LINKS)
    plans = [[planned.prompt for planned in here.plan(each)] for each in found]
    assert all(plan == plans[0] for plan in plans)
    for each in found:
        env = here.env(each)
        assert {planned.preference for planned in here.plan(each)} == {each.weights}
        assert [link.family for link in env.links] == ["constant" if each.link == "300 ms" else "markov"]
        assert env.links[0].rtt_ms[0] == 300.0 or each.link == "markov"
        assert (env.cloud_load is not None) == (each.load in ("others", "few"))
        assert env.cloud.queue_ms_quantiles == ((0.0,) if each.load == "idle" else GPU.queue_ms_quantiles)
    always = controller("always", here.env(found[0]).schema)
    seconds = {
        each.name: np.mean([a.metrics.seconds for a in here.rows(each).answers(always, here.plan(each)) if a.metrics])
        for each in found
    }
    assert seconds["300 ms / others / balanced"] > seconds["300 ms / idle / balanced"]
    assert seconds["300 ms / idle / balanced"] > seconds["markov / idle / balanced"]
    assert seconds["300 ms / idle / balanced"] == seconds["300 ms / idle / speed"]


def test_families_that_are_not_there_are_taken_from_the_substitutes(pair: Recorded) -> None:
    mix = Mix(("families",))
    here = stage(pair, mix, links=LINKS[:2], substitutes=LINKS)
    families = [[link.name for link in here.env(each).links] for each in scenarios_of(mix, LINKS)]
    assert families == [["markov-7"], ["remote-8"]]


# ---------------------------------------------------------------- who answers


def test_everybody_answers_the_same_plan_everywhere_and_learners_begin_anew(pair: Recorded) -> None:
    mix = Mix((20.0, "markov"), preferences=("balanced", "cost"))
    here, found = stage(pair, mix, answers=9), scenarios_of(mix, LINKS)
    schema, made, told = pair.env().schema, [], []

    def learner(_: Any) -> LinUCB:
        made.append(LinUCB.new(schema))
        return made[-1]

    who = [
        Contestant("always", lambda _: controller("always", schema)),
        Contestant("linucb", learner),
        Contestant("mine", lambda _: controller("staged", schema), "1"),
        Contestant("mine", lambda _: controller("staged", schema), "2"),
    ]
    contest = hold(here, found, who, lambda: told.append(None))
    assert (len(made), len(told)) == (len(found), len(found) * len(who))
    assert {name: list(seeds) for name, seeds in contest.answered.items()} == {
        "always": [ONLY],
        "linucb": [ONLY],
        "mine": ["1", "2"],
    }
    for each in found:
        wanted = answer_all(here.env(each), controller("always", schema), here.plan(each))
        answered = contest.answered["always"][ONLY][each.name]
        assert [a.tokens for a in answered] == [a.tokens for a in wanted]
        assert [a.metrics.reward for a in answered if a.metrics] == pytest.approx(
            [a.metrics.reward for a in wanted if a.metrics]
        )
    with pytest.raises(SettingError, match="two controllers are named 'always'"):
        hold(here, found, [who[0], who[0]])


# ---------------------------------------------------------------- what is tuned


def test_what_is_tuned_is_the_best_of_each_scenario_and_the_best_for_all(pair: Recorded) -> None:
    """Against all candidates tried on all prompts; dear clouds want none of it, near and cheap ones all."""
    mix = Mix((20.0,), ("idle",), ("quality", OwnPreference("dear", {"cost": 500.0, "latency": 5.0})))
    train, validation = stage(pair, mix), stage(pair, mix, seed=1)
    found, schema = scenarios_of(mix, LINKS), pair.env().schema
    candidates = {name: controller(name, schema) for name in ("never", "always", "confidence=0.5")}
    told: list[None] = []
    tuned = Tuning(candidates, train, validation, found, lambda: told.append(None)).tune()
    rewards = {
        (each.name, name): worth(answer_all(validation.env(each), candidate, validation.plan(each)))
        for each in found
        for name, candidate in candidates.items()
    }
    for each in found:
        best = max(candidates, key=lambda name: rewards[each.name, name])
        assert tuned.of_each[each.name] == best
        assert tuned.rewards[each.name] == pytest.approx(rewards[each.name, best])
    assert tuned.single == max(candidates, key=lambda name: sum(rewards[each.name, name] for each in found))
    assert tuned.of_each[found[1].name] == "never"
    assert tuned.of_each[found[0].name] != "never"
    assert (tuned.tried, len(told)) == (3, 3)


def test_the_families_are_the_grid_and_rules_of_one_level(pair: Recorded) -> None:
    schema = pair.env().schema
    found = families(schema)
    assert list(found) == [FIXED, *FAMILIES]
    assert len(found[FIXED]) == len(schema.grid())
    assert len(found["confidence"]) == len(FAMILIES["confidence"])
