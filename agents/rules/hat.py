"""HAT's own control (arXiv 2503.18989): chunks by what link and cloud are measured to take, drafts until a token is unsure.

What does not live here: the formula of the chunk size (runtime/hat/rules.py), the session that it controls.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.hat.rules import LEAST_CHUNK_TOKENS, chunk_tokens, evenly
from synera_env import Schema

SYSTEM = "hat"


class HatRule:
    """The paper's rule. Chunks are balanced by :func:`runtime.hat.rules.chunk_tokens`, between 32 and 512 tokens; the first, before
    anything is measured, has 32; and all that are left are equal, where that balance would leave a smaller last one. Both are ours. All else is the preset `hat-fixed`: eta is 0.6 as in the paper; that all four candidates
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
        names = ("state_upload", "queue", "forward", "forward_token")
        self._left = int(schema.places("tokens_left")[0])
        self._places = [int(schema.places(name)[0]) for name in names]
        self._unknown = float(schema.low[self._places[0]])

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        seen = np.asarray(observation, float)
        rows = seen.reshape(-1, seen.shape[-1])
        actions = np.stack([self._of(math.log2(self._chunk(row))) for row in rows])
        return actions.reshape(*seen.shape[:-1], -1), state

    def _of(self, doublings: float) -> NDArray[np.float32]:
        return self._schema.action(replace(self._knobs, chunk_doublings=float(doublings)))

    def _chunk(self, seen: NDArray[np.float64]) -> int:
        """Tokens of the next chunk, by the log10 seconds that a row shows; the floor of the features is nothing known."""
        upload, queue, forward, token = (10.0 ** seen[place] if seen[place] > self._unknown else 0.0 for place in self._places)
        # What a state takes on the link is all that the rule makes of its bytes and the link's rate.
        balanced = chunk_tokens(upload, 1.0, queue, forward, token) if upload else LEAST_CHUNK_TOKENS
        left = round(2.0 ** seen[self._left]) - 1
        return evenly(left, balanced) if left > balanced else balanced
