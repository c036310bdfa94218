"""HAT's own control (arXiv 2503.18989): chunks by what link and cloud are measured to take, drafts until a token is unsure.

What does not live here: the formula of the chunk size (runtime/hat/rules.py), the session that it controls.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.hat.rules import LEAST_CHUNK_TOKENS, MOST_CHUNK_TOKENS
from synera_env import Schema

SYSTEM = "hat"


class HatRule:
    """The paper's rule. Chunks are balanced by :func:`runtime.hat.rules.chunk_tokens`, between 32 and 512 tokens; the first, before
    anything is measured, has 32, which is ours. All else is the preset `hat-fixed`: eta is 0.6 as in the paper; that all four candidates
    are drafted on from, and the longest draft of 8, are ours, as is bf16 for its fp16.
    """

    def __init__(self, schema: Schema) -> None:
        """Make it.

        Raises:
            SettingError: the schema is of another system.
        """
        if schema.system != SYSTEM:
            raise SettingError(f"this rule controls the system {SYSTEM}, not {schema.system}")
        self._schema = schema
        self._knobs = schema.presets["hat-fixed"]
        self._action = schema.action(self._knobs)
        names = ("state_upload", "queue", "forward", "forward_token")
        self._upload, self._queue, self._forward, self._token = (int(schema.places(name)[0]) for name in names)
        self._unknown = float(schema.low[self._upload])

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        seen = np.asarray(observation, float)
        rows = seen.reshape(-1, seen.shape[-1])
        tokens = self._chunks(*(rows[:, place] for place in (self._upload, self._queue, self._forward, self._token)))
        actions = np.stack([self._of(chunk) for chunk in np.log2(tokens)])
        return actions.reshape(*seen.shape[:-1], -1), state

    def _of(self, doublings: float) -> NDArray[np.float32]:
        return self._schema.action(replace(self._knobs, chunk_doublings=float(doublings)))

    def _chunks(
        self, upload: NDArray[np.float64], queue: NDArray[np.float64], forward: NDArray[np.float64], token: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Chunk sizes [rows] of log10 seconds [rows]; X (A/beta - b) = W + a, the floor of the features counting as nothing."""
        waits, base, each = (np.where(log > self._unknown, 10.0**log, 0.0) for log in (queue, forward, token))
        gained = 10.0**upload - each
        fixed = waits + base
        balanced = np.where(gained > 0, fixed / np.maximum(gained, 1e-12), np.inf)
        chunks = np.clip(np.floor(np.minimum(balanced, MOST_CHUNK_TOKENS) + 1e-9), LEAST_CHUNK_TOKENS, MOST_CHUNK_TOKENS)
        return np.where(upload > self._unknown, chunks, LEAST_CHUNK_TOKENS)
