"""UCBSpec and EXP3Spec of BanditSpec (Hou et al., ICML 2025, arXiv 2505.15141), over draft lengths x confidence thresholds.

What does not live here: what a chunk is worth (rewards.py).
"""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agents.bandits.rewards import throughput
from agents.rules.fixed import knobs_of
from runtime.errors import SettingError
from runtime.settings import within
from synera_env import EXACT, Preference, Schema

LENGTHS = (1, 2, 4, 8)
THRESHOLDS = (0.5, 0.7, 0.9)
DELTA = 0.1
"""Confidence parameter of UCBSpec; the paper leaves it to the user."""
_Counts = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=1000)]
_Sums = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(max_length=1000)]


@dataclass(frozen=True)
class ArmState:
    """The arms of a bandit, and what it has learnt of them; a new one knows nothing."""

    __pydantic_config__ = EXACT

    kind: Literal["ucbspec", "exp3spec"]
    lengths: Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Field(min_length=1, max_length=8)] = LENGTHS
    thresholds: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1, max_length=100)] = THRESHOLDS
    pulls: _Counts = ()
    """Chunks settled by each arm, threshold by threshold of the first length, then of the next; none before the first."""
    sums: _Sums = ()
    """By arm: of UCBSpec its rewards, of EXP3Spec its estimated losses."""

    def __post_init__(self) -> None:
        arms = len(self.lengths) * len(self.thresholds)
        if arms < 2:
            raise SettingError("a bandit needs two arms at least")
        for name in ("pulls", "sums"):
            if len(getattr(self, name)) not in (0, arms):
                raise SettingError(f"{name} of a bandit of {arms} arms has {len(getattr(self, name))} entries")

    def controller(self, schema: Schema) -> Arms:
        """Take it up.

        Raises:
            SettingError: the schema lacks the knobs.
        """
        return {"ucbspec": UCBSpec, "exp3spec": EXP3Spec}[self.kind](schema, self)


class _Memory(NamedTuple):
    """Of one answer."""

    rng: np.random.Generator
    settling: int
    """The arm that drafted the chunk in hand, and whose threshold settles it; -1 for the first, which none did."""
    probability: float
    """With which it was drawn."""
    drafting: int
    """The arm that the next chunk was drafted by."""
    drawn_with: float


class Arms(ABC):
    """A bandit that chooses for each chunk a draft length, then, once it is drafted, settles it by the same arm's threshold.

    Implements :class:`agents.base.Seeded` and :class:`agents.base.Learner`. BanditSpec chooses one hyperparameter for each
    round of drafting and checking, within one prompt. Ours: an arm is a draft length and a confidence threshold; a round is a
    chunk, checked or kept; what is learnt goes on from answer to answer of the controller; the reward is in 0..1
    (:func:`agents.bandits.rewards.throughput`), where the paper has lengths in 1..L+1, so its radius has 1 for L. The first
    chunk of an answer is drafted before any arm is chosen, and the last one ends it before anybody asks again: of neither is learnt.
    Answers may be given side by side; what is learnt then depends on their order.
    """

    def __init__(self, schema: Schema, begun: ArmState) -> None:
        """See :meth:`ArmState.controller`."""
        self._schema, self._begun, self._lock = schema, begun, threading.Lock()
        base = knobs_of(schema, "threshold", offload_budget=1.0)
        self._arms = list(itertools.product(begun.lengths, begun.thresholds))
        knobs = [
            [replace(base, confidence_threshold=threshold, draft_length=length) for length, _ in self._arms]
            for _, threshold in self._arms
        ]
        self._actions = np.stack([[schema.action(each) for each in row] for row in knobs])
        """[settling arm, drafting arm, knobs]"""
        count = len(self._arms)
        self._pulls = np.array(begun.pulls or (0,) * count)
        self._sums = np.array(begun.sums or (0.0,) * count)

    @abstractmethod
    def _probabilities(self) -> NDArray[np.float64]:
        """With which each arm is to be chosen now."""

    @abstractmethod
    def _learn(self, arm: int, reward: float, probability: float) -> None:
        """Take note of a reward in 0..1."""

    def initial_state(self, seed: int) -> _Memory:
        """See :class:`agents.base.Seeded`."""
        return _Memory(np.random.default_rng([seed, 23]), -1, 1.0, -1, 1.0)

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`; a batch is decided by one arm."""
        memory: _Memory = self.initial_state(0) if state is None else state
        with self._lock:
            probabilities = self._probabilities()
        arm = int(memory.rng.choice(len(probabilities), p=probabilities))
        settling = memory.drafting if memory.drafting >= 0 else arm
        action = np.broadcast_to(self._actions[settling, arm], (*np.shape(observation)[:-1], self._actions.shape[-1])).copy()
        return action, _Memory(memory.rng, memory.drafting, memory.drawn_with, arm, float(probabilities[arm]))

    def settled(self, record: Any, preference: Preference, state: Any) -> None:
        """See :class:`agents.base.Learner`."""
        if state.settling >= 0:
            with self._lock:
                self._learn(state.settling, throughput(record), state.probability)

    def saved(self) -> ArmState:
        """Return what was learnt so far, to be taken up by another."""
        with self._lock:
            return replace(self._begun, pulls=tuple(map(int, self._pulls)), sums=tuple(map(float, self._sums)))


class UCBSpec(Arms):
    """Chooses the arm with the largest mean reward plus confidence radius (Algorithm 4); arms that nobody tried come first.

    With n pulls of an arm, t of all, K arms: `radius = 1/2 * sqrt((1 + n) / n^2 * (1 + 2 log(K t^2 sqrt(1 + n) / delta)))`.
    """

    @classmethod
    def new(cls, schema: Schema) -> Self:
        """One that knows nothing."""
        return cls(schema, ArmState("ucbspec"))

    def _probabilities(self) -> NDArray[np.float64]:
        pulls, chosen = self._pulls, np.zeros(len(self._arms))
        if not pulls.all():
            chosen[int(np.argmin(pulls))] = 1.0
            return chosen
        size = np.log(len(pulls) * pulls.sum() ** 2.0 * np.sqrt(1.0 + pulls) / DELTA)
        radius = 0.5 * np.sqrt((1.0 + pulls) / pulls**2.0 * (1.0 + 2.0 * size))
        chosen[int(np.argmax(self._sums / pulls + radius))] = 1.0
        return chosen

    def _learn(self, arm: int, reward: float, probability: float) -> None:
        self._pulls[arm] += 1
        self._sums[arm] += reward


class EXP3Spec(Arms):
    """Draws an arm by exponential weights of its estimated losses (Algorithm 5): `p_i ~ exp(-eta_t * sum_s Z_i,s)`.

    `Z = (1 - reward) / p` of the arm drawn, 0 of the others; `eta_t = sqrt(log K / (t K))` at chunk t, so that no horizon is needed.
    """

    @classmethod
    def new(cls, schema: Schema) -> Self:
        """One that knows nothing."""
        return cls(schema, ArmState("exp3spec"))

    def _probabilities(self) -> NDArray[np.float64]:
        count = len(self._arms)
        rate = np.sqrt(np.log(count) / ((self._pulls.sum() + 1) * count))
        weights = np.exp(-rate * (self._sums - self._sums.min()))
        return weights / weights.sum()

    def _learn(self, arm: int, reward: float, probability: float) -> None:
        within("reward", reward, 0.0, 1.0)
        self._pulls[arm] += 1
        self._sums[arm] += (1.0 - reward) / probability
