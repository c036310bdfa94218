from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from synera_env import chance

WORDS = st.integers(0, 2**64 - 1)


def test_draws_are_what_they_were() -> None:
    """Recorded runs name seeds; whoever changes the hash changes all of them."""
    drawn = [chance.uniform(seed, purpose, number) for seed, purpose, number in ((0, 1, 0), (1, 3, 5), (2**64 - 1, 7, 2**40))]
    assert drawn == [0.28176129772258496, 0.9100719052772521, 0.9056493217743864]


@given(seed=WORDS, purpose=st.integers(0, 50), number=WORDS)
def test_a_draw_depends_on_each_of_its_arguments_alone(seed: int, purpose: int, number: int) -> None:
    drawn = chance.uniform(seed, purpose, number)
    assert 0 <= drawn < 1
    assert drawn == chance.uniform(seed, purpose, number)
    others = {(seed ^ 1, purpose, number), (seed, purpose + 1, number), (seed, purpose, number ^ 1)}
    assert drawn not in {chance.uniform(*other) for other in others}


@pytest.mark.parametrize("along", ["seed", "purpose", "number"])
def test_neighbours_are_uniform_and_independent(along: str) -> None:
    """Seeds one apart, purposes one apart, numbers one apart: 20,000 draws each, none more regular than chance."""
    draws = np.array([chance.uniform(**{"seed": 5, "purpose": 1, "number": 3} | {along: at}) for at in range(20_000)])
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    cells = np.histogram2d(draws[:-1:2], draws[1::2], bins=10, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.ravel()).pvalue > 1e-3


def test_a_choice_is_one_of_those_there_are() -> None:
    assert [chance.choice(uniform, 3) for uniform in (0.0, 0.33, 0.34, 0.67, 1 - 2.0**-53)] == [0, 0, 1, 2, 2]
    assert chance.choice(1 - 2.0**-53, 2**60) == 2**60 - 128


def test_times_are_exponential() -> None:
    times = [chance.exponential(chance.uniform(0, 1, number), 4.0) for number in range(20_000)]
    assert stats.kstest(times, "expon", args=(0, 4.0)).pvalue > 1e-3
    assert chance.exponential(0.0, 4.0) == 0.0
    assert math.isfinite(chance.exponential(1 - 2.0**-53, 4.0))


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_drawn_one_after_the_other_they_are_those_of_their_numbers(seed: int) -> None:
    for purpose in (chance.OUTAGE, chance.BLIP):
        drawn = list(islice(chance.uniforms(seed, purpose), 40))
        assert drawn == [chance.uniform(seed, purpose, number) for number in range(40)]
