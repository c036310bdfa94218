"""What a device sees a chunk to be worth, without anybody's score.

What does not live here: who learns from it (arms.py, linucb.py) and the environment's reward (synera_env/reward.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from synera_env import Preference
from synera_env.reward import reward_terms

MOST_TOKENS_PER_SECOND = 50.0
"""What counts as 1 of :func:`throughput`; ours: about what a phone drafts, with nothing checked."""


def trusted_tokens(record: Any) -> float:
    """Return how many tokens of a settled chunk the LLM stands behind.

    Of one that was checked, all that it committed: those accepted and the LLM's own (BanditSpec counts the bonus as accepted, too).
    Of one that was kept nobody knows, so ours: how many a check would be expected to accept, were confidences right,
    `sum_i prod_{j <= i} confidence_j`.
    """
    if record.judged:
        return float(len(record.committed))
    return float(np.cumprod([token.confidence for token in record.draft.tokens]).sum())


def throughput(record: Any) -> float:
    """Return the trusted tokens by second of the chunk, as a share of :data:`MOST_TOKENS_PER_SECOND`, at most 1.

    BanditSpec rewards a speculation length by the throughput that it gives (section 6.2); all its chunks are checked.
    """
    return min(1.0, trusted_tokens(record) / max(record.cost.seconds, 1e-6) / MOST_TOKENS_PER_SECOND)


def utility(record: Any, preference: Preference, answer_tokens: float) -> float:
    """Return what a chunk is worth in the units of the environment's reward, with trust in place of the task's score; ours.

    Args:
        record: of the settled chunk.
        preference: whose weights price it.
        answer_tokens: of an answer that is worth a score of 1 where all of it is trusted.
    """
    return sum(reward_terms(record.cost, trusted_tokens(record) / answer_tokens, preference).values())
