"""What is said of answers of which some left the recorded graphs: who stands for them, and how far that is from the truth."""

from __future__ import annotations

import warnings
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.comparison import (
    ByPrompt,
    answer_weights,
    covered_share,
    mean_of,
    resampled,
    reward_difference,
    stand_in,
    summarise_all,
    summarise_answers,
    worth,
)
from agents.evaluation import Answered, answer, make_plan
from agents.registry import controller
from synera_env import EpisodeMetrics, UncoveredError
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.cuts import likeliest
from tests.support.recorded import GPU, LINKS, PHONE, Recorded


def answered(prompt: int, reward: float | None, kind: str = "") -> Answered:
    metrics = None if reward is None else EpisodeMetrics(**{f.name: 1 for f in fields(EpisodeMetrics)} | {"reward": reward})
    return Answered(prompt, kind, metrics, (), ())


# ---------------------------------------------------------------- who stands for whom


def test_an_answer_stands_for_others_to_its_prompt_first_and_then_for_prompts_of_its_kind() -> None:
    outcomes = [
        *(answered(0, 1.0, "a"), answered(0, None, "a")),
        *(answered(1, None, "a"), answered(1, None, "a")),
        *(answered(2, 0.5, "a"), answered(2, 0.7, "a")),
        *(answered(3, 3.0, "b"), answered(3, 3.0, "b")),
    ]
    assert answer_weights(outcomes).tolist() == [3.0, 0.0, 0.0, 0.0, 1.5, 1.5, 1.0, 1.0]
    assert mean_of(outcomes, "reward") == pytest.approx((6 * (1.0 + 0.6) / 2 + 2 * 3.0) / 8)
    assert ByPrompt.of(outcomes).weights.tolist() == [1.5, 0.0, 1.5, 1.0]
    assert resampled(outcomes, "reward")[0] == pytest.approx((3 * 0.8 + 3.0) / 4)


kinds_and_answers = st.lists(
    st.tuples(st.integers(0, 7), st.one_of(st.none(), st.floats(-1, 1))), min_size=1, max_size=40
).filter(lambda drawn: any(reward is not None for _, reward in drawn))


@given(kinds_and_answers)
def test_weights_make_each_kind_count_as_it_was_planned(drawn: list[tuple[int, float | None]]) -> None:
    outcomes = [answered(prompt, reward, "ab"[prompt % 2]) for prompt, reward in drawn]
    weights = answer_weights(outcomes)
    lost = np.array([a.metrics is None for a in outcomes])
    assert (weights[lost] == 0).all()
    assert (weights[~lost] >= 1 - 1e-9).all()
    for kind in "ab":
        own = np.array([a.kind == kind for a in outcomes])
        if (own & ~lost).any():
            assert weights[own].sum() == pytest.approx(own.sum())
    means = resampled(outcomes, "reward")
    rewards = [a.metrics.reward for a in outcomes if a.metrics]
    assert np.isfinite(means).all()
    assert min(rewards) - 1e-9 <= means.min() <= means.max() <= max(rewards) + 1e-9


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-1, 1)), min_size=1, max_size=30))
def test_where_nothing_is_lost_each_answer_stands_for_itself(drawn: list[tuple[int, float]]) -> None:
    outcomes = [answered(prompt, reward, "ab"[prompt % 2]) for prompt, reward in drawn]
    assert answer_weights(outcomes).tolist() == pytest.approx([1.0] * len(outcomes))
    assert mean_of(outcomes, "reward") == pytest.approx(np.mean([reward for _, reward in drawn]))
    assert summarise_answers(outcomes)["reward"] == pytest.approx(mean_of(outcomes, "reward"))


def test_a_kind_of_which_all_is_lost_counts_for_nothing_and_is_named() -> None:
    outcomes = [answered(0, 0.5, "a"), answered(1, 0.7, "a"), answered(2, None, "b")]
    assert stand_in(np.ones(3), np.array(["a", "a", "b"]), np.array([True, True, False])).tolist() == [1, 1, 0]
    with pytest.warns(UserWarning, match="what is said of x") as told:
        found = summarise_all({"x": outcomes})
    assert found["x"]["reward"] == pytest.approx(0.6)
    assert [str(w.message).partition(";")[0] for w in told] == [
        "what is said of x rests on 67% of the answers, to 2 of 3 prompts, the others left the recorded graphs",
        "what is said of x says nothing of prompts of the kind b: every answer left the recorded graphs",
    ]


# ---------------------------------------------------------------- summaries


def test_controllers_are_compared_each_on_its_own_answers() -> None:
    careful = [answered(i, 0.5) for i in range(10)] + [answered(10, 0.1), answered(11, 0.1)]
    bold = [answered(i, 0.4) for i in range(10)] + [answered(10, None), answered(11, None)]
    with pytest.warns(UserWarning, match=r"what is said of bold rests on 83% of the answers, to 10 of 12 prompts"):
        found = summarise_all({"careful": careful, "bold": bold})
    assert (found["careful"]["reward"], found["bold"]["reward"]) == (pytest.approx(5.2 / 12), pytest.approx(0.4))
    assert [s["answers"] for s in found.values()] == [12, 10]
    assert [s["uncovered_rate"] for s in found.values()] == [0.0, pytest.approx(2 / 12)]
    for wrong in (bold[::-1], bold[1:]):
        with pytest.raises(ValueError, match="one plan"):
            summarise_all({"careful": careful, "bold": wrong})


def test_a_controller_that_loses_all_takes_nothing_from_the_others() -> None:
    kept, lost = [answered(0, 0.5), answered(1, 0.7)], [answered(0, None), answered(1, None)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(summarise_all({"kept": kept, "lost": lost})) == ["kept"]
    with pytest.raises(UncoveredError, match="no answer of any controller stays inside the recorded graphs; record"):
        summarise_all({"lost": lost, "lost too": lost})
    for asked in (
        summarise_answers,
        lambda outcomes: mean_of(outcomes, "reward"),
        lambda outcomes: resampled(outcomes, "reward"),
    ):
        with pytest.raises(UncoveredError, match="no answer stays inside the recorded graphs; record"):
            asked(lost)


def test_intervals_of_few_answers_are_of_those() -> None:
    """One prompt that was kept has no spread to tell of, and it is said on how little all rests."""
    outcomes = [answered(0, 0.5), *(answered(i, None) for i in range(1, 9))]
    with pytest.warns(UserWarning, match="to 1 of 9 prompts"):
        found = summarise_all({"x": outcomes})["x"]
    assert (found["reward_low"], found["reward"], found["reward_high"]) == (0.5, 0.5, 0.5)


def test_a_comparison_that_loses_little_warns_of_nothing(pair: Recorded, recwarn: pytest.WarningsRecorder) -> None:
    env = pair.env()
    plan = make_plan(env, 6)
    found = summarise_all({name: [answer(env, controller(name, env.schema), p) for p in plan] for name in ("never", "random")})
    assert [s["uncovered_rate"] for s in found.values()] == [0.0, 0.0]
    assert not [w for w in recwarn if "rests on" in str(w.message)]


def test_what_a_controller_is_chosen_by_needs_half_of_its_answers() -> None:
    outcomes = [answered(0, 0.5), answered(1, 0.5), answered(2, None), answered(3, None)]
    assert (covered_share(outcomes), worth(outcomes)) == (0.5, pytest.approx(0.5))
    assert worth([*outcomes, answered(4, None)]) == float("-inf")


# ---------------------------------------------------------------- differences


def test_two_controllers_are_compared_by_prompt_each_counting_once() -> None:
    ours = [answered(0, 1.0), answered(0, 2.0), answered(1, 3.0)]
    theirs = [answered(0, 0.0), answered(0, 1.0), answered(1, 1.0)]
    difference = reward_difference(ours, theirs)
    assert difference.mean == pytest.approx((1.0 + 2.0) / 2)
    assert difference.low == pytest.approx(1.0)  # the same prompts are drawn for both, so what they share cancels
    assert difference.high == pytest.approx(2.0)
    with pytest.raises(ValueError, match="one plan"):
        reward_difference(ours, [answered(9, 1.0) for _ in ours])
    with pytest.raises(UncoveredError, match="no answer stays inside"):
        reward_difference(ours, [answered(a.prompt, None) for a in ours])


def test_a_difference_is_of_what_each_keeps() -> None:
    ours = [answered(0, 1.0), answered(1, 3.0), answered(2, None)]
    theirs = [answered(0, 0.5), answered(1, 1.0), answered(2, 0.0)]
    assert reward_difference(ours, theirs).mean == pytest.approx(2.0 - 0.5)


# ---------------------------------------------------------------- the truth


def test_what_is_said_of_a_cut_graph_is_nearer_the_truth_than_shared_answers_are() -> None:
    """A planted world in which, as in graphs, an answer that follows the LLM leaves where the models disagree.

    Of 300 prompts the small model knows 60 %, and there both answer alike. Elsewhere it is wrong and stays inside; who has
    the answer checked gets it right, and leaves half the time.
    """
    rng = np.random.default_rng(0)
    known, leaves = rng.random(300) < 0.6, rng.random(300) < 0.5
    alone = [answered(i, 1.0 if known[i] else 0.0) for i in range(300)]
    checks = [answered(i, None if leaves[i] and not known[i] else 0.9) for i in range(300)]
    truth = 0.9 - known.mean()
    shared = [(b.metrics.reward - a.metrics.reward) for a, b in zip(alone, checks, strict=True) if a.metrics and b.metrics]
    said = reward_difference(checks, alone)
    assert said.mean == pytest.approx(truth, abs=1e-9)
    assert said.low < truth < said.high
    assert abs(np.mean(shared) - truth) > 0.1


@pytest.mark.parametrize("share", [0.95, 0.8])
def test_a_cut_graph_s_answers_are_the_whole_graph_s(pair: Recorded, share: float) -> None:
    """So all that is off is whom the kept ones stand for."""
    whole, cut = pair.env(), SyneraReplayEnv(likeliest(pair.graphs, share), LINKS, PHONE, GPU, outages=pair.env().outages)
    plan = make_plan(whole, 18)
    kept = []
    for name in ("never", "always", "chance=0.5"):
        rule = controller(name, whole.schema)
        for planned in plan:
            found = answer(cut, rule, planned)
            kept.append(found.metrics is not None)
            if found.metrics is not None:
                truth = answer(whole, rule, planned)
                assert truth.metrics is not None
                assert (found.tokens, found.metrics.quality) == (truth.tokens, truth.metrics.quality)
    assert any(kept)
