from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.model.distributions import accept_sampled, draw, propose, truncated
from runtime.model.placement import Placement
from runtime.sampling import MOST_IDS, TOTAL, Draws, Proposal, Purpose, Sampling

VOCAB = 60
CUTS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.01, 0.5, 1.0, 1.7, 100.0]),
    top_p=st.sampled_from([1e-9, 0.3, 0.9, 0.99, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 40, 1000]),
)


def logits_of(seed: int, vocab: int = VOCAB) -> torch.Tensor:
    return 3 * torch.randn(4, vocab, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), CUTS)
def test_distributions_are_cut_as_transformers_cuts_them(seed: int, sampling: Sampling) -> None:
    logits = logits_of(seed).double()
    warped: Any = transformers.TemperatureLogitsWarper(float(sampling.temperature))(None, logits)
    if sampling.top_k:
        warped = transformers.TopKLogitsWarper(sampling.top_k)(None, warped)
    if sampling.top_p < 1:
        warped = transformers.TopPLogitsWarper(sampling.top_p)(None, warped)
    torch.testing.assert_close(truncated(logits, sampling), warped.softmax(-1), rtol=1e-9, atol=1e-12)


def test_of_equals_the_smaller_id_is_kept() -> None:
    equal = torch.zeros(1, 8)
    assert truncated(equal, Sampling(top_k=3))[0].tolist() == pytest.approx([1 / 3] * 3 + [0] * 5)
    assert truncated(equal, Sampling(top_p=0.5))[0].tolist() == pytest.approx([1 / 4] * 4 + [0] * 4)


def test_nothing_is_cut_from_a_long_tail_by_rounding() -> None:
    tail = torch.linspace(0, -36, 200)[None]
    assert (truncated(tail, Sampling(top_p=1.0)) > 0).all()
    assert (truncated(tail, Sampling(top_p=1.0, top_k=200)) > 0).all()


def test_a_row_does_not_depend_on_its_neighbours(placement: Placement) -> None:
    logits = logits_of(5).to(placement.torch_device, getattr(torch, placement.dtype))
    sampling = Sampling(0.8, 0.9, 20)
    together, alone = truncated(logits, sampling), torch.cat([truncated(row[None], sampling) for row in logits])
    assert (together.dtype, together.device) == (torch.float64, logits.device)
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(together.cpu(), truncated(logits.cpu(), sampling), rtol=1e-9, atol=1e-12)
    assert propose(logits[:1], sampling) == propose(logits[:1].cpu(), sampling)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 99), CUTS, st.sampled_from([3, 32, 60, 500]))
def test_a_proposal_is_the_likeliest_part_of_the_same_distribution(seed: int, sampling: Sampling, vocab: int) -> None:
    logits = logits_of(seed, vocab)[:1]
    made, whole = propose(logits, sampling), truncated(logits, sampling)[0]
    likeliest = whole.sort(descending=True, stable=True)
    shares = likeliest.values[:MOST_IDS] / likeliest.values[:MOST_IDS].sum()
    wanted = {int(i): float(p) for i, p in zip(likeliest.indices, shares, strict=False)}
    assert set(made.ids) <= {token for token, share in wanted.items() if share}
    for token, share in wanted.items():
        slack = MOST_IDS / TOTAL if token == made.ids[0] or share == max(wanted.values()) else 1 / TOTAL + 1e-9
        assert abs(made.probability(token) - share) <= slack


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any), st.floats(0, 1, exclude_max=True))
def test_a_draw_takes_the_likeliest_first_and_never_what_has_no_weight(weights: list[int], uniform: float) -> None:
    given = torch.tensor(weights, dtype=torch.float64)
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    ends = np.cumsum([weights[i] for i in order])
    wanted = order[int(np.searchsorted(ends, uniform * ends[-1], side="right"))]
    for scale in (1.0, 1e-300):
        got = draw(given * scale, uniform)
        assert weights[got] > 0
        assert got == wanted or scale < 1
    assert weights[draw(given, 1 - 2.0**-53)] > 0


# ---------------------------------------------------------------- acceptance


class Told(Draws):
    """The numbers of a test's own, by place and purpose."""

    def __init__(self, numbers: dict[tuple[int, Purpose], float], place: int = 0) -> None:
        self.numbers, self.place = numbers, place

    def after(self, tokens: Sequence[int]) -> Told:
        return Told(self.numbers, self.place + len(tokens))

    def uniform(self, purpose: Purpose) -> float:
        return self.numbers[self.place, purpose]


def distribution(seed: int, vocab: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(vocab, 0.7)) * (rng.random(vocab) < 0.8)
    return p / p.sum() if p.sum() > 0 else np.eye(vocab)[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_one_place_is_distributed_as_p(seed: int, vocab: int) -> None:
    """Worked out, not drawn: the numbers between which the outcome changes are looked for and found to be where they must."""
    p, q = distribution(seed, vocab), distribution(seed + 1, vocab)
    proposal, target = Proposal.rounded(range(vocab), q.tolist()), torch.tensor(p)[None].repeat(2, 1)
    total, grid = np.zeros(vocab), 400
    for token in proposal.ids:
        share = proposal.probability(token)
        limit = min(1.0, p[token] / share)

        def outcome(accept: float, recover: float = 0.5, token: int = token) -> tuple[int, int]:
            told = {(0, Purpose.ACCEPT): accept, (0, Purpose.RECOVER): recover, (1, Purpose.TOKEN): 0.0}
            return accept_sampled([token], [proposal], target, Told(told))

        assert outcome(limit * (1 - 1e-9))[0] == 1 if limit else outcome(0.0)[0] == 0
        total[token] += share * limit
        if limit < 1 - 1e-6:
            accepted, recovered = outcome(limit + 1e-9)
            assert accepted == 0
            assert recovered != token
            if token == proposal.ids[0] or limit < 0.5:
                found = [outcome(limit + 1e-9, (i + 0.5) / grid)[1] for i in range(grid)]
                excess = np.bincount(found, minlength=vocab) / grid
                wanted = np.maximum(p - np.array([proposal.probability(t) for t in range(vocab)]), 0)
                np.testing.assert_allclose(excess, wanted / wanted.sum(), atol=1.01 / grid)
    refused = 1 - total.sum()
    excess = np.maximum(p - np.array([proposal.probability(t) for t in range(vocab)]), 0)
    assert refused == pytest.approx(excess.sum(), abs=1e-9)
    np.testing.assert_allclose(total + excess, p, atol=1e-9)  # Leviathan et al.: min(p, q) + max(0, p - q)


def test_places_are_judged_in_turn_and_the_bonus_comes_after_the_whole_draft() -> None:
    sure = [Proposal((token,), (TOTAL,)) for token in (3, 1)]
    targets = torch.zeros(3, 5, dtype=torch.float64)
    targets[0, 3], targets[1, 1], targets[1, 4], targets[2, 2] = 1.0, 0.6, 0.4, 1.0
    numbers = {(place, purpose): 0.9 for place in range(3) for purpose in Purpose}
    assert accept_sampled([3, 1], sure, targets, Told(numbers)) == (1, 4)
    assert accept_sampled([3, 1], sure, targets, Told(numbers | {(1, Purpose.ACCEPT): 0.59})) == (2, 2)
    assert accept_sampled([], [], targets[2:], Told(numbers)) == (0, 2)
    targets[0] = torch.tensor([1.0, 0, 0, 0, 0])
    assert accept_sampled([3, 1], sure, targets, Told(numbers | {(0, Purpose.ACCEPT): 0.0})) == (0, 0)


def test_acceptance_is_the_same_wherever_the_model_runs(placement: Placement) -> None:
    logits = logits_of(8).to(placement.torch_device, getattr(torch, placement.dtype))
    sampling = Sampling(1.3, 0.95, 30)
    proposals = [propose(row[None].cpu() * 0.7, sampling) for row in logits[:3]]
    outcomes = set()
    for seed in range(40):
        draws = Draws(seed, [1, 2])
        draft = [each.draw(Draws(seed, [i]).uniform(Purpose.TOKEN)) for i, each in enumerate(proposals)]
        there = accept_sampled(draft, proposals, truncated(logits, sampling), draws)
        assert there == accept_sampled(draft, proposals, truncated(logits.cpu(), sampling), draws)
        outcomes.add(there)
    assert len(outcomes) > 10
