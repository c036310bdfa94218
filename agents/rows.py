"""The answers of a plan side by side, by the compiled rows of a replay: what `answer_all` gives, many times as fast.

What does not live here: plans and the scalar way (evaluation.py), and the compiled step (synera_env/synera/kernel/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from agents.base import Controller, Learner, Limited, Masked, Seeded
from agents.evaluation import Answered, PlannedAnswer, answer_all
from synera_env import DecisionEnv, EpisodeMetrics

MOST_ROWS = 1024
"""Answers at a time."""


class Rows:
    """A world, opened once for all who answer plans in it.

    An :class:`agents.evaluation.Answered` of it is that of the scalar way, metrics to their last digits, but has no records. A network
    that is asked for many rows at once may round its action otherwise than for one.
    """

    def __init__(self, env: DecisionEnv, rows: int = MOST_ROWS) -> None:
        """Open it; without compiled code for the world, answers come the scalar way.

        Args:
            env: the world.
            rows: answers at a time; 1..MOST_ROWS is what makes sense.
        """
        self.env, self._rows, self._startable = env, max(1, min(rows, MOST_ROWS)), frozenset(env.startable)
        self._vector = lru_cache(maxsize=2)(lambda count: env.vector(count, AutoresetMode.DISABLED))

    def answers(self, controller: Controller, plan: Sequence[PlannedAnswer], together: bool = True) -> list[Answered]:
        """Let a controller decide every answer of a plan, in its order.

        One that learns while it answers, or must be told what cannot be done, does so in the scalar way, one answer after the other.

        Args:
            controller: who decides.
            plan: the answers.
            together: whether it may be asked for many answers in one call, as :class:`agents.base.Controller` says; a class of a
                user's own, which may never have met a batch, better is not.

        Raises:
            BundleError: the controller is a bundle that was not trained for a planned preference.
        """
        begun = [place for place, planned in enumerate(plan) if planned.prompt in self._startable]
        vector = self._vector(min(self._rows, max(1, len(begun))))
        if vector is None or isinstance(controller, Learner | Masked):
            return answer_all(self.env, controller, plan)
        if isinstance(controller, Limited):
            for preference in {planned.preference for planned in plan}:
                controller.serve(preference)
        kinds = self.env.graphs.meta.kinds  # type: ignore[attr-defined]  # who has compiled rows has graphs
        found = [Answered(planned.prompt, kinds[planned.prompt], None, (), ()) for planned in plan]
        count = vector.num_envs
        for first in range(0, len(begun), count):
            places = begun[first : first + count]
            # The last ones may be fewer than there are rows: rows left over repeat the last answer, which counts once.
            padded = [*places, *([places[-1]] * (count - len(places)))]
            outcomes = self._answer(vector, controller, [plan[place] for place in padded], together)
            for place, outcome in zip(places, outcomes, strict=False):
                found[place] = outcome
        return found

    def _answer(
        self, vector: VectorEnv[Any, Any, Any], controller: Controller, plan: Sequence[PlannedAnswer], together: bool
    ) -> list[Answered]:
        """Answer as many as there are rows."""
        names = ("prompt", "link", "link_offset_seconds", "preference")
        options = [{name: getattr(planned, name) for name in names} for planned in plan]
        seeds = [planned.seed for planned in plan]
        seen, began = vector.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        decide = _Deciding(controller, seeds, len(self.env.schema.rows), together)
        over = np.zeros(len(plan), np.bool_)
        found: dict[int, EpisodeMetrics] = {}
        while not over.all():
            seen, _, terminated, truncated, info = vector.step(decide(seen, over))
            for row in np.flatnonzero(terminated).tolist():
                final = info["final_info"]["episode_metrics"]
                found[row] = _metrics({name: float(values[row]) for name, values in final.items()})
            over |= terminated | truncated
        tokens = vector.answers()  # type: ignore[attr-defined]
        return [
            Answered(planned.prompt, began["kind"][row], found.get(row), (), tokens[row]) for row, planned in enumerate(plan)
        ]


class _Deciding:
    """A controller asked for all rows at once; one that draws, row by row, as what each draws is its own."""

    def __init__(self, controller: Controller, seeds: Sequence[int], knobs: int, together: bool) -> None:
        self._controller, self._knobs = controller, knobs
        states = [controller.initial_state(seed) if isinstance(controller, Seeded) else None for seed in seeds]
        self._states = None if together and all(state is None for state in states) else states
        self._state: Any = None
        self._start = np.ones(len(seeds), np.bool_)

    def __call__(self, seen: NDArray[np.float32], over: NDArray[np.bool_]) -> NDArray[np.float32]:
        start, self._start = self._start, np.zeros(len(seen), np.bool_)
        if self._states is None:
            actions, self._state = self._controller.predict(seen, self._state, start, deterministic=True)
            return actions
        actions = np.zeros((len(seen), self._knobs), np.float32)
        for row in np.flatnonzero(~over).tolist():
            actions[row], self._states[row] = self._controller.predict(
                seen[row], self._states[row], start[row : row + 1], deterministic=True
            )
        return actions


_WHOLE = {f.name for f in fields(EpisodeMetrics) if f.type == "int"}


def _metrics(values: dict[str, float]) -> EpisodeMetrics:
    return EpisodeMetrics(**{name: int(value) if name in _WHOLE else value for name, value in values.items()})  # type: ignore[arg-type]
