"""Rules of the literature, with the knobs that exist here; each says what of the original it cannot do.

A chunk is drafted before anything is decided of it, and what is kept stands unchecked, so no rule can stop a draft in its middle
or have earlier tokens checked later. What does not live here: rules of levels (levels.py), what is fitted on prompts
(agents/fitting.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agents.rules.fixed import FixedRule, knobs_of
from runtime.errors import SettingError
from runtime.settings import within
from synera_env import EXACT, Schema

UNSURE = 0.6
"""Below it a token is unsure: HAT's eta (arXiv 2503.18989)."""
STAGES = (0.8, 0.9, 1.0)
STAGE_CHUNKS = 4
"""Chunks of a stage; ours: an answer to a bundled task has about ten."""
REJECTION = 0.5
"""Default of the most that P(any rejection) may be."""
LONGEST = 8
"""Tokens of a draft."""
_LEAST_DOUBT = 1e-3  # of a token: what is surer tells no more of how many tokens may follow


def until_unsure(schema: Schema, level: float = UNSURE) -> FixedRule:
    """Return the rule that drafts on until a token is unsure: its top-1 probability is below the level.

    HAT drafts token by token, stops after the first unsure one, and has all of them checked. Here a decision comes once a chunk
    is whole, so drafts are of one token each: sure ones are kept, the first unsure one is sent. That checks where HAT checks, but
    not the sure tokens before it: a rejection among them, which HAT would find, stays. To have them checked, a knob would have to
    stop a draft at a confidence; `draft_length` stops it at a number of tokens, whatever they are.

    Raises:
        SettingError: the level is outside 0..1, or the schema lacks the knobs.
    """
    within("until-unsure", level, 0.0, 1.0)
    return FixedRule(knobs_of(schema, "threshold", confidence_threshold=level, draft_length=1), schema)


class StagedRule:
    """Offloads chunks below a confidence threshold that rises in stages, by the chunk's place in the answer.

    A stage has so many chunks, the last one all that follow. At 1.0 every chunk is sent. How long a stage is, is ours.
    """

    def __init__(self, schema: Schema, thresholds: Sequence[float] = STAGES, chunks: int = STAGE_CHUNKS) -> None:
        """See the class.

        Args:
            schema: of a system with confidence thresholds that shows how many chunks were settled.
            thresholds: of the stages.
            chunks: of each stage but the last.

        Raises:
            SettingError: there is no threshold, one is outside 0..1, or the schema lacks what is needed.
        """
        if not thresholds:
            raise SettingError("staged needs at least one threshold")
        for threshold in thresholds:
            within("staged", threshold, 0.0, 1.0)
        within("chunks of a stage", chunks, 1)
        places = schema.places("chunks")
        if not len(places):
            raise SettingError(f"the system {schema.system} does not show how many chunks were settled; staged needs it")
        self.thresholds = tuple(thresholds)
        self._place, self._chunks = int(places[0]), chunks
        knobs = [knobs_of(schema, "threshold", confidence_threshold=threshold) for threshold in thresholds]
        self._actions = np.stack([schema.action(each) for each in knobs])

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        settled = np.rint(np.asarray(observation)[..., self._place] * 16)  # the feature is in chunks / 16
        stage = np.minimum(settled // self._chunks, len(self._actions) - 1)
        return self._actions[stage.astype(np.intp)], state


@dataclass(frozen=True)
class Rejection:
    """Sends a chunk when P(any rejection) > h; the longest next draft is one that stays below h at the present rate.

    After SpecDec++ (Huang et al., arXiv 2405.19715): it is optimal there to stop drafting, and to check, once the probability that
    a token of the draft gets rejected exceeds h. P(any rejection) = 1 - prod p_i, p_i how likely the LLM takes token i. A draft
    cannot be stopped by it here, so ours: the next draft is of L tokens, the most with 1 - p^L <= h at p, the geometric mean of
    the chunk in hand. SpecDec++ trains a head for p_i; ours is a logistic fit of log-doubt, log(1 - confidence), on training
    prompts, or, unfitted, the confidence itself. What is kept here stands, where SpecDec++ checks everything in the end.
    """

    __pydantic_config__ = EXACT

    h: float = REJECTION
    """0..1."""
    intercept: float = 0.0
    slope: float | None = None
    """Of the log-odds of a rejection in log-doubt; None takes the confidence for p_i."""
    kind: Literal["rejection"] = "rejection"

    def __post_init__(self) -> None:
        within("rejection", self.h, 0.0, 1.0)

    def accepted(self, confidence: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return how likely the LLM takes tokens, by their confidence; any shape."""
        doubt = np.maximum(1.0 - np.asarray(confidence, np.float64), _LEAST_DOUBT)
        if self.slope is None:
            return 1.0 - doubt
        return 1.0 / (1.0 + np.exp(self.intercept + self.slope * np.log(doubt)))

    def controller(self, schema: Schema) -> RejectionRule:
        """Make it act."""
        return RejectionRule(self, schema)


class RejectionRule:
    """:class:`Rejection`, acting."""

    def __init__(self, figures: Rejection, schema: Schema) -> None:
        """See :class:`Rejection`.

        Raises:
            SettingError: the schema shows no confidences or draft length, or lacks the knobs.
        """
        self.figures = figures
        self._confidence, tokens = schema.places("confidence"), schema.places("draft_tokens")
        if not len(self._confidence) or not len(tokens):
            raise SettingError(f"the system {schema.system} shows no confidence of draft tokens; rejection needs it")
        self._tokens = int(tokens[0])
        always = knobs_of(schema, "always", confidence_threshold=1.0)
        rows = [replace(always, offload_budget=b, draft_length=n) for b in (0.0, 1.0) for n in range(1, LONGEST + 1)]
        self._actions = np.stack([schema.action(knobs) for knobs in rows]).reshape(2, LONGEST, -1)

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        seen = np.asarray(observation)
        tokens = np.rint(seen[..., self._tokens] * LONGEST)
        accepted = self.figures.accepted(np.take(seen, self._confidence, axis=-1))
        held = np.arange(LONGEST) < tokens[..., None]  # past the end nothing can be rejected
        log_kept = np.sum(np.log(np.maximum(accepted, 1e-12)), axis=-1, where=held)
        send = -np.expm1(log_kept) > self.figures.h
        usual = np.minimum(log_kept / np.maximum(tokens, 1), np.log1p(-_LEAST_DOUBT))
        allowed = np.log1p(-min(self.figures.h, 1 - 1e-9)) / usual
        length = np.clip(np.floor(allowed + 1e-9), 1, LONGEST).astype(np.intp)
        return self._actions[send.astype(np.intp), length - 1], state
