"""The same controllers on the same plan in two worlds: first in replay, which also says how long it will take live, then live.

What does not live here: devices side by side (fleet.py), how alike controllers rank (ranking.py), links that break (breaks.py), and
how it is shown (scripts/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agents.agreement import Agreement, agreement
from agents.base import Controller
from agents.evaluation import Answered, PlannedAnswer, answer_all
from agents.fleet import fleet_seconds, run_fleets
from synera_env import DecisionEnv

Makers = Mapping[str, Callable[[], Controller]]
"""By name, what makes a controller; called once a world, as some learn while they answer."""


@dataclass(frozen=True)
class Replayed:
    """A plan answered in replay, before it is answered live."""

    env: DecisionEnv
    plan: Sequence[PlannedAnswer]
    makers: Makers
    answers: Mapping[str, Sequence[Answered]]
    """By controller."""

    @classmethod
    def of(
        cls, env: DecisionEnv, plan: Sequence[PlannedAnswer], makers: Makers, finished: Callable[[], object] = lambda: None
    ) -> Replayed:
        """Answer the plan with each controller.

        Args:
            env: the replay.
            plan: of it.
            makers: the controllers.
            finished: called after each.

        Raises:
            BundleError: a controller was not trained for a planned preference.
        """
        answers = {}
        for name, make in makers.items():
            answers[name] = answer_all(env, make(), plan)
            finished()
        return cls(env, plan, makers, answers)

    def live_seconds(self, devices: int) -> float:
        """How long the same takes live, if it is as the replay says; what was lost counts for nothing."""
        in_turn = [answer for of_all in zip(*self.answers.values(), strict=True) for answer in of_all]
        return fleet_seconds([each.metrics.seconds for each in in_turn if each.metrics], devices)

    def live(
        self, make_env: Callable[[], DecisionEnv], devices: int, on_answer: Callable[[], None] = lambda: None
    ) -> BothWorlds:
        """Answer the plan live with each controller, in turn answer by answer.

        Args:
            make_env: makes a device's live environment, of the same prompts and links; closed here.
            devices: at a time.
            on_answer: called after each answer.

        Raises:
            SyneraError: as the environments raise, or `on_answer`.
        """
        controllers = {name: make() for name, make in self.makers.items()}
        live = run_fleets(make_env, controllers, self.plan, devices, on_answer)
        agreements = {name: agreement(self.env, live[name], self.answers[name]) for name in live}
        return BothWorlds(self.answers, live, agreements)


@dataclass(frozen=True)
class BothWorlds:
    """What came of one plan, by controller."""

    replayed: Mapping[str, Sequence[Answered]]
    live: Mapping[str, Sequence[Answered]]
    agreements: Mapping[str, Agreement]

    def worlds(self, name: str) -> dict[str, Sequence[Answered]]:
        """The answers of a controller, replay first."""
        return {"replay": self.replayed[name], "live": self.live[name]}
