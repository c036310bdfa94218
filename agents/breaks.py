"""A link that breaks in the middle of an answer: the plan that meets it, and what a controller makes of it in time.

What does not live here: the network (synera_env/radio.py), and the answers (worlds.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agents.comparison import Estimate, mean_of, resampled, resampled_means
from agents.evaluation import Answered, PlannedAnswer, answer_all
from agents.rules import FixedRule
from synera_env import DecisionEnv
from synera_env.radio import SOUND, Radio, breaking

_ALONE, _SOONEST = "never", 1e-3


@dataclass(frozen=True)
class Breaks:
    """Every answer of a plan twice: first all on a link that holds, then each on one that breaks in its middle."""

    at_seconds: tuple[float, ...]
    """When the link of each answer breaks: halfway through what the device alone takes for it."""
    radios: tuple[Radio, ...]
    """The network that holds, and one for each answer."""
    plan: tuple[PlannedAnswer, ...]
    """On the links of the radios: the answers on the one that holds, then the same on those that break."""

    @classmethod
    def of(cls, replay: DecisionEnv, plan: Sequence[PlannedAnswer]) -> Breaks:
        """Find the middles in replay.

        Args:
            replay: of the prompts; its links do not matter.
            plan: the answers; their links are replaced.

        Raises:
            UncoveredError: no answer of the device alone stays inside the recorded graphs.
        """
        alone = answer_all(replay, FixedRule(replay.schema.presets[_ALONE], replay.schema), plan)
        mean = mean_of(alone, "seconds")
        middles = [(a.metrics.seconds if a.metrics else mean) / 2 for a in alone]
        at_seconds = tuple(max(_SOONEST, round(each, 3)) for each in middles)
        radios = (SOUND, *map(breaking, at_seconds))
        held = [replace(planned, link=0, link_offset_seconds=0.0) for planned in plan]
        return cls(at_seconds, radios, (*held, *(replace(each, link=number) for number, each in enumerate(held, 1))))

    def adaptation(self, answered: Sequence[Answered]) -> Adaptation:
        """Say what a controller made of it.

        Args:
            answered: its outcomes of the plan, in one world.

        Raises:
            UncoveredError: it kept no answer of one of the halves.
        """
        held, broken = answered[: len(self.at_seconds)], answered[len(self.at_seconds) :]
        seconds, quality, reward = (
            Estimate.of(minus[0], minus[1:])
            for minus in (resampled(broken, name) - resampled(held, name) for name in ("seconds", "quality", "reward"))
        )
        return Adaptation(
            before=self._offloaded(broken, before=True),
            after=self._offloaded(broken, before=False),
            after_held=self._offloaded(held, before=False),
            seconds_more=seconds,
            quality_more=quality,
            reward_more=reward,
        )

    def _offloaded(self, answered: Sequence[Answered], *, before: bool) -> Estimate | None:
        """Share of the chunks begun on one side of the break that were sent; None where none was begun there."""
        rates, prompts = [], []
        for each, at in zip(answered, self.at_seconds, strict=True):
            sent = [r.offloaded for r in each.records if (r.committed_at - r.cost.seconds < at) == before]
            if each.metrics is not None and sent:
                rates.append(float(np.mean(sent)))
                prompts.append(each.prompt)
        if not rates:
            return None
        found: NDArray[np.float64] = resampled_means(np.array(rates), np.array(prompts))
        return Estimate.of(found[0], found[1:])


@dataclass(frozen=True)
class Adaptation:
    """What a controller made of links that break, in one world; each answer's own mean, each prompt counting once."""

    before: Estimate | None
    """Share of the chunks begun before the break that were sent."""
    after: Estimate | None
    """Of those begun afterwards."""
    after_held: Estimate | None
    """Of those begun after the same time, on the link that holds."""
    seconds_more: Estimate
    """Seconds of an answer on the link that breaks minus those of the same answer on the one that holds."""
    quality_more: Estimate
    reward_more: Estimate
