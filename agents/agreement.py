"""How a controller's live answers compare with its replayed ones, over a whole plan.

What does not live here: the comparison of one answer, and the error of a metric (synera_env/fidelity.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents.evaluation import Answered
from synera_env import DecisionEnv
from synera_env.fidelity import replay_error, same_tokens


@dataclass(frozen=True)
class Agreement:
    """Shares of a controller's answers, in 0..1."""

    tokens_identical: float
    """Live answers whose tokens the replay reproduces from the live knobs, chunk by chunk."""
    bytes_identical: float
    """Those whose messages take the same bytes in it, too; less than 1 where something was sent again."""
    same_knobs: float
    """For which the controller, deciding by itself in both worlds, set the same knobs."""
    same_tokens: float
    """For which that gave the same tokens."""
    replay_error: dict[str, dict[str, float]]
    """By metric, see :func:`synera_env.fidelity.replay_error`."""
    differences: tuple[str, ...]
    """Where the answers that are not identical first differ."""


def agreement(replay: DecisionEnv, live: Sequence[Answered], replayed: Sequence[Answered]) -> Agreement:
    """Compare the answers of one controller.

    Args:
        replay: replays the prompts of the plan.
        live: the live answers.
        replayed: the answers to the same plan, decided in replay.

    Raises:
        ValueError: the two are not of one plan.
    """
    checks = [same_tokens(a.records, replay, a.prompt) for a in live]
    pairs = list(zip(live, replayed, strict=True))
    both = [(a.metrics, b.metrics) for a, b in pairs if a.metrics and b.metrics]
    return Agreement(
        tokens_identical=float(np.mean([c.identical for c in checks])),
        bytes_identical=float(np.mean([c.same_bytes for c in checks])),
        same_knobs=float(np.mean([[r.knobs for r in a.records] == [r.knobs for r in b.records] for a, b in pairs])),
        same_tokens=float(np.mean([a.tokens == b.tokens for a, b in pairs])),
        replay_error=replay_error([a for a, _ in both], [b for _, b in both]),
        differences=tuple(c.first_difference for c in checks if not c.identical),
    )
