"""Sampled answers of which every chunk is checked are distributed as the LLM's own, whatever drafts and whoever decides.

The real session, drafter and acceptance answer 20,000 times by seeds that are fixed; the answers are held against the exact
probabilities by chi-square. What such a test would find is stated, and faults that are planted must be found by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from runtime import sampling
from runtime.model import distributions
from runtime.sampling import Draws, Proposal, Purpose, Sampling
from runtime.synera.chunk import DecisionPoint
from runtime.synera.knobs import Knobs
from tests.support.chance import ChiSquare, Controller, Pair, Prefix, answers, checked

ANSWERS, FEWER = 20_000, 5_000
LEVEL, POWER = 1e-3, 0.99
FOUND = 1e-6
"""A planted fault is found when counts as far off had this probability; it is looked for among FEWER answers."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("chance"))


@pytest.fixture
def pair(models: Pair) -> Pair:
    models.asked.clear()  # proposals that a fault has touched
    return models


def by_the_draft(point: DecisionPoint) -> Knobs:
    """Chooses the next exit by how likely the last token in hand was, which may be refused or follow one that is."""
    last = point.draft.tokens[-1]
    assert last.proposal is not None
    return checked(exit_index=int(last.token == last.proposal.ids[0]), draft_length=2, draft_ahead=0.0)


CASES: dict[str, tuple[Prefix, Sampling, Controller]] = {
    "one token at a time, the first exit": ((1,), Sampling(1.0, seed=1), Controller(checked(exit_index=0, draft_length=1))),
    "whole answers, drafting ahead, top-p": (
        (1, 4, 5),
        Sampling(0.7, top_p=0.9, seed=2),
        Controller(checked(draft_length=3, draft_ahead=0.0)),
    ),
    "early exits by margin, top-k and top-p": (
        (6, 6, 3, 1, 0, 7),
        Sampling(1.6, top_p=0.95, top_k=5, seed=3),
        Controller(checked(draft_length=2, exit_margin=0.3)),
    ),
    "a controller that looks at what is then refused": (
        (1, 4, 5),
        Sampling(0.7, seed=4),
        Controller(checked(exit_index=0, draft_length=2), by_the_draft),
    ),
}


def compared(pair: Pair, name: str, count: int) -> ChiSquare:
    prompt, asked, controller = CASES[name]
    return ChiSquare(answers(pair, prompt, asked, controller, count), pair.exact(prompt, asked))


@pytest.mark.parametrize("name", CASES)
def test_answers_are_distributed_as_the_llms_own(pair: Pair, name: str) -> None:
    found = compared(pair, name, ANSWERS)
    assert found.probability > LEVEL
    assert found.detectable(LEVEL, POWER) < 0.05  # of total variation, whatever the deviation looks like


def judge_by_the_likeliest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Proposal, "probability", lambda self, token: self.weights[0] / sampling.TOTAL)


def claim_what_was_not_drawn_from(patch: pytest.MonkeyPatch) -> None:
    """The cloud is told the distribution before it was rounded; rounding is coarse here, so that 5,000 answers show it."""
    honest = Proposal.rounded.__func__  # type: ignore[attr-defined]
    claims: dict[Proposal, dict[int, float]] = {}

    def rounded(cls: type[Proposal], ids: Sequence[int], probabilities: Sequence[float]) -> Proposal:
        made: Proposal = honest(cls, ids, probabilities)
        claims[made] = dict(zip(ids, probabilities, strict=True))
        return made

    patch.setattr(sampling, "TOTAL", 8)
    patch.setattr(Proposal, "rounded", classmethod(rounded))
    patch.setattr(Proposal, "probability", lambda self, token: claims[self][token])
    patch.setattr(Proposal, "probabilities", property(lambda self: [claims[self][token] for token in self.ids]))


def recover_from_p(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(distributions, "_excess", lambda target, proposal: target)


def use(one: Purpose, instead: Purpose) -> Callable[[pytest.MonkeyPatch], None]:
    honest = Draws.uniform

    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Draws, "uniform", lambda self, purpose: honest(self, one if purpose is instead else purpose))

    return plant


def forget_the_tokens(patch: pytest.MonkeyPatch) -> None:
    """Key the draws by the position alone."""
    patch.setattr(sampling, "_packed", lambda tokens: bytes(4 * len(tokens)))


WHOLE, LOOKING = "whole answers, drafting ahead, top-p", "a controller that looks at what is then refused"


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        pytest.param(WHOLE, judge_by_the_likeliest, id="p/q of the wrong token"),
        pytest.param(WHOLE, claim_what_was_not_drawn_from, id="unquantised q"),
        pytest.param(WHOLE, recover_from_p, id="recovered from p"),
        pytest.param(WHOLE, use(Purpose.ACCEPT, instead=Purpose.RECOVER), id="recovered with the number of the acceptance"),
        pytest.param(WHOLE, use(Purpose.TOKEN, instead=Purpose.ACCEPT), id="accepted with the number of the draft token"),
        pytest.param(LOOKING, forget_the_tokens, id="draws keyed by seed, position and purpose alone"),
    ],
)
def test_a_planted_fault_is_found(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, name: str, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    plant(monkeypatch)
    p = compared(pair, name, FEWER).probability
    assert p < FOUND


def test_coarse_rounding_costs_no_exactness(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes `unquantised q` a fair fault: with the same coarse weights, and the cloud told them, all is well."""
    monkeypatch.setattr(sampling, "TOTAL", 8)
    p = compared(pair, WHOLE, FEWER).probability
    assert p > LEVEL
