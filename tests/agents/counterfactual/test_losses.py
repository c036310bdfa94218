"""The losses of single decisions: what each makes of gains that the policy cannot tell apart, and that training with it gets better."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.counterfactual import learning
from agents.counterfactual.learning import Evidence, Learner
from agents.counterfactual.policy import ChoiceNet
from agents.learning.settings import FUTURES, LOSSES
from synera_env import Preference
from synera_env.synera.decisions.scenarios import Ranges, Scenarios
from synera_env.synera.decisions.sight import Sight, sight_of
from tests.support.recorded import Recorded
from traces.links.generators import constant_link

RANGES = Ranges([constant_link(rtt_ms=2.0), constant_link(rtt_ms=2000.0)], Preference())
GAINS = np.array([[0.0, 1.0, -2.0], [0.0, 1.0, -2.0], [0.0, -4.0, -5.0]])
"""Of three actions in three states that look alike: the second is best in most, the first on the mean; the third never."""


def _evidence(gains: np.ndarray) -> Evidence:
    known = np.where(np.isnan(gains), -np.inf, 0.0)
    parts = np.zeros((len(gains), 2)), np.ones(len(gains)), np.nan_to_num(gains), known
    return Evidence(*(torch.from_numpy(part.astype(np.float32)) for part in parts))


def _fitted(evidence: Evidence, loss: str) -> torch.Tensor:
    """The weights of the actions that make a loss least, the same in all states."""
    weights = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.05)
    for _ in range(400):
        every = weights.expand(len(evidence.gains), 3)
        shares = torch.log_softmax(every + evidence.known, -1).clamp(min=-60.0)
        told = {"cross-entropy": lambda: evidence.cross_entropy(shares), "regression": lambda: evidence.squares(every)}  # noqa: B023
        found = told.get(loss, lambda: -evidence.surrogate(shares))()  # noqa: B023
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
    return weights.detach()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_heaviest_action_is_the_best_on_the_mean_and_not_the_best_in_most(loss: str) -> None:
    assert _fitted(_evidence(GAINS), loss).argmax() == 0
    assert _fitted(_evidence(GAINS[:2]), loss).argmax() == 1


def test_what_cannot_be_done_is_not_learned_of() -> None:
    gains = GAINS.copy()
    gains[:, 2] = np.nan
    for loss in LOSSES:
        weights = _fitted(_evidence(gains), loss)
        assert weights[:2].argmax() == 0
        assert torch.isfinite(weights).all()
    assert _fitted(_evidence(gains), "regression")[2] == 0.0


def test_cross_entropy_weighs_each_action_by_its_mean_gain_over_the_worst() -> None:
    over_the_worst = (GAINS - GAINS.min(1, keepdims=True)).mean(0)
    shares = torch.softmax(_fitted(_evidence(GAINS), "cross-entropy"), -1).numpy()
    np.testing.assert_allclose(shares, over_the_worst / over_the_worst.sum(), atol=0.02)


def test_regression_finds_the_mean_gains() -> None:
    np.testing.assert_allclose(_fitted(_evidence(GAINS), "regression").numpy(), GAINS.mean(0), atol=1e-2)


def test_the_surrogate_is_the_expected_regret_with_a_minus() -> None:
    """But for what no policy changes."""
    evidence = _evidence(GAINS)
    weights = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    shares = torch.log_softmax(weights, -1)
    regret = torch.from_numpy((GAINS.max(1, keepdims=True) - GAINS).astype(np.float32))
    (ours,) = torch.autograd.grad(evidence.surrogate(shares), weights, retain_graph=True)
    (theirs,) = torch.autograd.grad((shares.exp() * regret).sum(), weights)
    torch.testing.assert_close(ours, -theirs)


@pytest.fixture(scope="module")
def sight(pair: Recorded) -> Sight:
    return sight_of(pair.env())


def _learner(sight: Sight, loss: str, future: str) -> Learner:
    torch.manual_seed(0)
    return Learner(ChoiceNet(sight.schema, 24, 8), sight, RANGES, 0.02, 0.0, 0, loss, future)


@pytest.mark.parametrize("future", FUTURES)
@pytest.mark.parametrize("loss", LOSSES)
def test_training_makes_answers_worth_more(sight: Sight, loss: str, future: str) -> None:
    learner = _learner(sight, loss, future)
    worth = [learner.step(12, 4, 0.0, 0.02).value for _ in range(25)]
    assert np.mean(worth[-5:]) > np.mean(worth[:2]) + 0.05


def test_where_the_clairvoyant_goes_on_nothing_is_gained_over_the_best(sight: Sight, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Evidence] = {}

    def climb(learner: Learner, evidence: Evidence, *_: object) -> float:
        found[learner.future] = evidence
        return 0.0

    monkeypatch.setattr(Learner, "_climb", climb)
    for future in FUTURES:
        _learner(sight, "policy-gradient", future).step(6, 1, 0.0, 0.0)
    possible = found["clairvoyant"].known == 0
    best = torch.where(possible, found["clairvoyant"].gains, -1.0).amax(1)
    torch.testing.assert_close(best, torch.zeros_like(best), atol=1e-6, rtol=0.0)
    assert found["policy"].gains.max() > 0.01


def test_a_loss_that_makes_no_policy_sure_is_valued_as_mostly_its_heaviest_action(sight: Sight) -> None:
    seen = sight.observe(
        sight.work.process.startable, Scenarios.draw(RANGES, len(sight.work.process.startable), np.random.default_rng(0))
    )
    plain, mixed = (_learner(sight, loss, "policy")._shares(seen) for loss in ("policy-gradient", "regression"))
    np.testing.assert_allclose(mixed.sum(1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(mixed.argmax(1), plain.argmax(1))
    assert mixed.max(1).min() >= learning._GREEDY > plain.max()


def test_training_begins_from_the_best_threshold_of_the_shortest_drafts(pair: Recorded) -> None:
    sight = sight_of(pair.env())
    actions = sight.work.process.actions
    found = learning.best_rule(sight, RANGES, 32, np.random.default_rng(0))
    assert actions.knobs[found.way].draft_length == min(knobs.draft_length for knobs in actions.knobs)
    batch, seen = learning.draw_batch(sight, RANGES, 32, np.random.default_rng(0))
    confidence = seen[:, sight.schema.places("least_confidence")[0]]
    shortest = [way for way in range(actions.ways) if actions.knobs[way].draft_length == actions.knobs[found.way].draft_length]
    worth = [batch.rule(confidence < level, way).mean() for level in learning.THRESHOLDS for way in shortest]
    assert found.value == pytest.approx(max(worth))
