from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError
from runtime.sampling import LARGEST_SEED, MOST_IDS, TOTAL, Draws, Proposal, Purpose, SampledDraft, Sampling

TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=20)
SEEDS = st.integers(0, LARGEST_SEED)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *[({"temperature": bad}, "temperature=.* must be a number in 0.01..100") for bad in (-1, 0.001, 101, "1", True, None)],
        *[({"temperature": bad}, "temperature=.* must be a number") for bad in (float("nan"), float("inf"), 10**400)],
        ({"temperature": 0}, r"temperature=0 is greedy decoding; ask for it with no sampling at all \(None\)"),
        *[({"top_p": bad}, "top_p=.* must be a number in 0..1") for bad in (-0.1, 1.1, float("nan"), "1", None)],
        ({"top_p": 0}, "top_p=0 leaves no token"),
        *[({"top_k": bad}, "top_k=.* must be an integer in 0..16777216") for bad in (-1, 1.0, True, 2**24 + 1, None)],
        *[({"seed": bad}, f"seed=.* must be an integer in 0..{LARGEST_SEED}") for bad in (-1, 0.5, False, 2**64, None)],
    ],
)
def test_what_is_no_sampling_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message) as raised:
        Sampling(**given)
    assert str(raised.value).isprintable()


def test_the_bounds_themselves_are_allowed() -> None:
    for fields in (
        {"temperature": 0.01, "top_p": 1e-9},
        {"temperature": 100, "top_p": 1, "top_k": 2**24, "seed": LARGEST_SEED},
    ):
        assert vars_of(Sampling(**fields)) == vars_of(Sampling()) | fields  # type: ignore[arg-type]


def vars_of(sampling: Sampling) -> dict[str, object]:
    return {name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k", "seed")}


def test_every_answer_has_a_seed_of_its_own_and_the_same_settings() -> None:
    config = Sampling(0.7, 0.9, 5, seed=3)
    answers = [config.of_answer(n) for n in (*range(1000), 2**64 - 1)]
    assert len({each.seed for each in answers}) == 1001
    assert {each.seed for each in answers}.isdisjoint(Sampling(seed=4).of_answer(n).seed for n in range(1000))
    assert all(vars_of(each) == vars_of(config) | {"seed": each.seed} for each in answers)
    assert config.of_answer(7) == config.of_answer(7)


# ---------------------------------------------------------------- draws


def test_the_numbers_are_the_same_on_every_machine() -> None:
    draws = Draws(2**63 + 5, [1, 2, 70_000])
    assert [draws.uniform(purpose) for purpose in Purpose] == GOLDEN
    assert Sampling(seed=1).of_answer(2).seed == GOLDEN_SEED


GOLDEN = [0.7581832550211283, 0.3855412133916819, 0.8543376309162447]
GOLDEN_SEED = 5934767605065585203


@given(SEEDS, TOKENS, TOKENS)
def test_a_place_is_named_by_the_tokens_before_it_however_one_comes_there(seed: int, one: list[int], more: list[int]) -> None:
    before = Draws(seed, one)
    there, again = before.after(more), Draws(seed, [*one, *more])
    for purpose in Purpose:
        assert there.uniform(purpose) == again.uniform(purpose) == there.uniform(purpose)
    assert before.uniform(Purpose.TOKEN) == Draws(seed, one).uniform(Purpose.TOKEN)  # going on changes nothing behind


@given(SEEDS, TOKENS, SEEDS, TOKENS)
def test_another_seed_prefix_or_purpose_is_another_number(seed: int, tokens: list[int], other: int, others: list[int]) -> None:
    cases = {(seed, tuple(tokens)), (other, tuple(tokens)), (seed, tuple(others)), (seed, (*tokens, 0)), (seed, (0, *tokens))}
    numbers = [Draws(s, t).uniform(purpose) for s, t in cases for purpose in Purpose]
    assert len(set(numbers)) == len(numbers)


def test_numbers_are_spread_evenly_and_purposes_know_nothing_of_each_other() -> None:
    drawn = np.array([[Draws(9, [n]).uniform(purpose) for purpose in Purpose] for n in range(20_000)])
    assert 0 <= drawn.min() < 0.001 < 0.999 < drawn.max() < 1
    counts = np.array([np.histogram(column, 50, (0, 1))[0] for column in drawn.T])
    assert (((counts - 400) ** 2 / 400).sum(1) < 100).all()  # chi-square of 49 degrees of freedom; 2e-5 beyond
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.03


# ---------------------------------------------------------------- proposals

PROBABILITIES = st.lists(st.floats(0, 1), min_size=1, max_size=MOST_IDS).filter(lambda p: sum(p) > 1e-6)


@given(PROBABILITIES)
def test_rounding_keeps_a_distribution_near_what_it_was(probabilities: list[float]) -> None:
    made = Proposal.rounded(range(100, 100 + len(probabilities)), probabilities)
    exact = {100 + i: p / sum(probabilities) for i, p in enumerate(probabilities)}
    off = [made.probability(token) - p for token, p in exact.items()]
    assert sum(made.weights) == TOTAL
    assert sum(abs(each) for each in off) / 2 <= (len(probabilities) - 1) / TOTAL
    assert sorted(off)[-1] == off[max(range(len(off)), key=probabilities.__getitem__)] or max(off) <= 1e-12
    assert list(made.weights) == sorted(made.weights, reverse=True)
    assert made.probabilities == [made.probability(token) for token in made.ids]


@given(PROBABILITIES)
def test_a_draw_has_exactly_its_weight(probabilities: list[float]) -> None:
    """Quantiles in the middle of each 1 / TOTAL, and at both of its ends."""
    made = Proposal.rounded(range(len(probabilities)), probabilities)
    if len(made.ids) > 6:
        return
    ends = np.cumsum(made.weights)
    for token, first, end in zip(made.ids, (0, *ends), ends, strict=False):
        assert {made.draw(first / TOTAL), made.draw(np.nextafter(end / TOTAL, 0))} == {token}
    drawn = Counter(made.draw((i + 0.5) / 512) for i in range(512))
    assert all(abs(drawn[token] / 512 - made.probability(token)) <= 1 / 512 for token in made.ids)


def test_what_is_not_proposed_has_no_probability() -> None:
    assert Proposal((3, 5), (TOTAL - 1, 1)).probability(4) == 0.0


@pytest.mark.parametrize(
    ("ids", "weights", "message"),
    [
        ((), (), "a proposal of 0 token ids must have 1..32"),
        (tuple(range(33)), (TOTAL - 32, *[1] * 32), "a proposal of 33 token ids"),
        ((1, 2), (TOTAL,), "must be 2, one an id"),
        ((1, 2), (TOTAL, 0), "each at least 1"),
        ((1, 2), (TOTAL + 1, -1), "each at least 1"),
        ((1, 2), (TOTAL - 1, 2), "in all 65536"),
        ((1, 1), (TOTAL - 1, 1), "must differ"),
    ],
)
def test_what_is_no_distribution_is_refused(ids: tuple[int, ...], weights: tuple[int, ...], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Proposal(ids, weights)


def test_a_draft_must_fit_its_proposals() -> None:
    one, two = Proposal((3,), (TOTAL,)), Proposal((4, 5), (TOTAL - 1, 1))
    sampled = SampledDraft(Sampling(), (one, two))
    sampled.require_fit([3, 5])
    with pytest.raises(SettingError, match="2 proposals for a draft of 1 tokens"):
        sampled.require_fit([3])
    with pytest.raises(SettingError, match="draft token 1, 3, has no weight in its own proposal"):
        sampled.require_fit([3, 3])
