"""The two scales of a result: how much of what is between a reference and a bound a controller takes, clairvoyant and informed.

What does not live here: how the bounds are found (informed.py, beam.py), and what is said of lost answers (agents/comparison.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.base import Controller
from agents.comparison import Estimate, resampled, resampled_means
from agents.counterfactual.beam import WIDTH, Bracket, Planner
from agents.counterfactual.informed import Informed, InformedConfig, Round, informed
from agents.evaluation import Answered, PlannedAnswer, answer_all
from synera_env import Preference, SyneraReplayEnv, UncoveredError
from synera_env.synera.decisions.scenarios import Ranges
from synera_env.synera.decisions.sight import sight_of


@dataclass(frozen=True)
class Bounds:
    """Those of one plan: what its answers are worth by each."""

    brackets: tuple[Bracket | None, ...]
    """[answers]: of the clairvoyant; None where no plan stays inside the recorded graphs."""
    informed: tuple[Answered, ...] | None
    """What came of the answers, decided by the informed policy; None where none was given."""
    prompts: tuple[int, ...]
    """[answers]"""

    def clairvoyant(self, end: str = "lower") -> NDArray[np.float64]:
        """The mean worth, [1 + resamples] as of :func:`agents.comparison.resampled`, each prompt counting once.

        Args:
            end: `lower`, what was replayed, or `upper`, what cannot be exceeded.

        Raises:
            UncoveredError: no answer has a plan.
        """
        known = [(getattr(each, end), prompt) for each, prompt in zip(self.brackets, self.prompts, strict=True) if each]
        if not known:
            raise UncoveredError(
                "no plan of any answer stays inside the recorded graphs; record them with a larger node budget"
            )
        values, prompts = zip(*known, strict=True)
        return resampled_means(np.array(values), np.array(prompts))

    def mean(self, end: str = "lower") -> float:
        """Return the mean of :meth:`clairvoyant`, each answer counting once.

        Raises:
            UncoveredError: as there.
        """
        known = [getattr(each, end) for each in self.brackets if each]
        return float(np.mean(known)) if known else float(self.clairvoyant(end)[0])

    def closed(self, ours: Sequence[Answered], reference: Sequence[Answered]) -> dict[str, Estimate | None]:
        """Return the share of each gap that a controller closes, by the name of the bound; None where there is nothing to close.

        Args:
            ours: what came of the plan's answers, decided by the controller.
            reference: the same by whom the gap begins at.

        Raises:
            UncoveredError: as of :func:`agents.comparison.resampled`.
        """
        low, high = resampled(reference, "reward"), resampled(ours, "reward")
        bounds = {"clairvoyant": self.clairvoyant()}
        if self.informed is not None:
            bounds["informed"] = resampled(self.informed, "reward")
        return {name: share_closed(high, low, bound) for name, bound in bounds.items()}


def share_closed(ours: NDArray[np.float64], reference: NDArray[np.float64], bound: NDArray[np.float64]) -> Estimate | None:
    """Return `(ours - reference) / (bound - reference)` with its interval; None where the bound is not above the reference.

    Args:
        ours: mean rewards, [1 + resamples], of the prompts as they are and of prompts drawn again.
        reference: likewise, of the same draws.
        bound: likewise.
    """
    gap, taken = bound - reference, ours - reference
    if gap[0] <= 0:
        return None
    open_ = gap[1:] > 0  # of a draw without a gap there is no share
    return Estimate.of(taken[0] / gap[0], taken[1:][open_] / gap[1:][open_])


def find_bounds(
    env: SyneraReplayEnv,
    plan: Sequence[PlannedAnswer],
    policy: Controller | None = None,
    width: int = WIDTH,
    finished: Callable[[], object] = lambda: None,
) -> Bounds:
    """Bound the answers of a plan.

    Args:
        env: over recorded graphs.
        plan: the answers.
        policy: the informed one, if it is there.
        width: of the search.
        finished: called after each answer that was searched.

    Raises:
        SettingError: as of :class:`agents.counterfactual.beam.Planner`.
    """
    planner = Planner(env, width)
    brackets: list[Bracket | None] = []
    for planned in plan:
        try:
            brackets.append(planner.bracket(planned))
        except UncoveredError:
            brackets.append(None)  # nothing is invented
        finished()
    answered = None if policy is None else tuple(answer_all(env, policy, plan))
    return Bounds(tuple(brackets), answered, tuple(planned.prompt for planned in plan))


def fit_informed(
    env: SyneraReplayEnv,
    config: InformedConfig = InformedConfig(),  # noqa: B008 - frozen
    preference: Preference | None = Preference(),  # noqa: B008 - frozen
    load_spread: float = 1.0,
    on_round: Callable[[Round], object] = lambda done: None,
) -> tuple[Informed, Controller]:
    """Fit the informed policy on an environment's prompts and links; return it, and the same as a controller.

    Args:
        env: over recorded graphs to train on.
        config: how.
        preference: of all answers; None draws each.
        load_spread: see :class:`synera_env.synera.decisions.scenarios.Ranges`.
        on_round: called after each round.

    Raises:
        SettingError: the graphs grow, or there are too few prompts.
    """
    sight = sight_of(env)
    found = informed(sight, Ranges(env.links, preference, load_spread), config, on_round=on_round)
    return found, found.controller(sight)
