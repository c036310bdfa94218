"""LinUCB (Li et al., WWW 2010, arXiv 1003.0146; disjoint linear models) over the observation: keep the chunk in hand, or offload it.

What does not live here: what a chunk is worth (rewards.py).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agents.bandits.rewards import utility
from agents.rules.fixed import keep_and_offload
from runtime.errors import SettingError
from synera_env import EXACT, Preference, Schema

ALPHA = 0.5
"""Width of the confidence bound; rewards of a chunk are within about 0.1 of each other."""
ANSWER_TOKENS = 40.0
"""What an answer to a bundled task has, about: a trusted token is worth the quality's weight by this; ours."""
_REWARD_SCALE = 10.0  # brings rewards to the order of 1, which the ridge of 1 and alpha suit
_SHOWN = 3.0  # a scaled entry beyond is shown as that, so that one outlier does not rule the sum
_ARMS = 2
_Numbers = Annotated[tuple[float, ...], Field(max_length=4_000_000)]


@dataclass(frozen=True)
class LinUCBState:
    """What was learnt, arm by arm: keep, offload. A new one knows nothing."""

    __pydantic_config__ = EXACT

    entries: Annotated[int, Field(ge=0)] = 0
    """Of the context: those of an observation, and 1."""
    gram: _Numbers = ()
    """[arms, entries, entries]: sums of x x^T, without the ridge; flat."""
    rewarded: _Numbers = ()
    """[arms, entries]: sums of x times reward; flat."""
    worth: float = 0.0
    """Sum of the utilities of all chunks."""
    tokens: Annotated[float, Field(ge=0)] = 0.0
    """That they committed."""
    kind: Literal["linucb"] = "linucb"

    def __post_init__(self) -> None:
        if (len(self.gram), len(self.rewarded)) != (_ARMS * self.entries**2, _ARMS * self.entries):
            raise SettingError(f"linucb of {self.entries} entries has {len(self.gram)} and {len(self.rewarded)} sums")

    def controller(self, schema: Schema) -> LinUCB:
        """Take it up.

        Raises:
            SettingError: it is of another number of entries.
        """
        return LinUCB(schema, self)


class _Memory(NamedTuple):
    """Of one answer."""

    context: NDArray[np.float64] | None
    """Of the last decision, [entries]; None before the first, and of batches."""
    arm: int


class LinUCB:
    """Offloads where the upper bound of offloading's reward, linear in the observation, is above that of keeping.

    Implements :class:`agents.base.Learner`. `x^T theta_a + alpha sqrt(x^T A_a^-1 x)`, `A_a = I + sum x x^T`, `theta_a = A_a^-1 sum r x`.
    x is the observation, centred and scaled as a network is shown it, and 1. The reward is ours: a chunk's utility
    (:func:`agents.bandits.rewards.utility`) less what its tokens are worth on the average so far, as an answer is a number of tokens and
    not of chunks: what commits more of them must not seem the dearer for it. Drafts are as the presets draft.
    """

    def __init__(self, schema: Schema, begun: LinUCBState | None = None) -> None:
        """See :meth:`LinUCBState.controller`."""
        size = len(schema.low) + 1
        begun = begun or LinUCBState()
        if begun.entries not in (0, size):
            raise SettingError(f"linucb has learnt of {begun.entries} entries, the system {schema.system} shows {size}")
        self._actions, self._lock = keep_and_offload(schema), threading.Lock()
        self._center, self._scale = schema.center, schema.scale
        self._gram = np.array(begun.gram or (0.0,) * (_ARMS * size**2)).reshape(_ARMS, size, size)
        self._rewarded = np.array(begun.rewarded or (0.0,) * (_ARMS * size)).reshape(_ARMS, size)
        self._inverse = np.linalg.inv(self._gram + np.eye(size))
        self._worth, self._tokens = begun.worth, begun.tokens

    @classmethod
    def new(cls, schema: Schema) -> Self:
        """One that knows nothing."""
        return cls(schema)

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        context = np.clip((np.asarray(observation, np.float64) - self._center) / self._scale, -_SHOWN, _SHOWN)
        context = np.concatenate([context, np.ones((*context.shape[:-1], 1))], -1)
        with self._lock:
            theta = np.einsum("aij,aj->ai", self._inverse, self._rewarded)
            spread = np.einsum("...i,aij,...j->...a", context, self._inverse, context)
            bounds = context @ theta.T + ALPHA * np.sqrt(np.maximum(spread, 0.0))
        arm = np.argmax(bounds, axis=-1)
        return self._actions[arm], _Memory(context, int(arm)) if context.ndim == 1 else None

    def settled(self, record: Any, preference: Preference, state: Any) -> None:
        """See :class:`agents.base.Learner`."""
        if state is None:
            return
        worth = utility(record, preference, ANSWER_TOKENS)
        with self._lock:
            self._worth += worth
            self._tokens += len(record.committed)
            reward = _REWARD_SCALE * (worth - len(record.committed) * self._worth / self._tokens)
            x, inverse = state.context, self._inverse[state.arm]
            turned = inverse @ x
            self._inverse[state.arm] = inverse - np.outer(turned, turned) / (1.0 + x @ turned)  # Sherman and Morrison
            self._gram[state.arm] += np.outer(x, x)
            self._rewarded[state.arm] += reward * x

    def saved(self) -> LinUCBState:
        """Return what was learnt so far, to be taken up by another."""
        with self._lock:
            sums = tuple(self._gram.ravel().tolist()), tuple(self._rewarded.ravel().tolist())
            return LinUCBState(self._gram.shape[-1], *sums, self._worth, float(self._tokens))
