"""The rules that decide about tokens, as pure functions of plain values: acceptance, offloading.

The live session, the replay, the engines and compiled kernels call the same ones. What does not live here: who chooses
their parameters, what anything costs (traces/profile.py), and the acceptance of sampled drafts, which needs whole distributions
(runtime/model/distributions.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


def wants_offload(
    confidence: float,
    importance: float,
    chunk: int,
    offloaded: int,
    confidence_threshold: float,
    importance_threshold: float,
    budget: float,
) -> bool:
    """Decide on a chunk: it is sent when it is uncertain, important and within the budget. The rule is ours.

    Args:
        confidence: top-1 probability of the chunk's least confident token.
        importance: how likely the LLM rejects a token of the chunk, as a quantile in 0..1 (runtime/synera/lens.py).
        chunk: number of this chunk in the answer, from 1.
        offloaded: chunks offloaded before it.
        confidence_threshold: below it a chunk is uncertain; at 1 every chunk is.
        importance_threshold: from it on a chunk is important.
        budget: chunk t may be sent while offloaded + 1 <= ceil(budget * t).
    """
    uncertain = confidence < confidence_threshold or confidence_threshold >= 1.0
    # The small term keeps budgets such as 0.1 * 10 from rounding up past their exact product.
    affordable = offloaded + 1 <= math.ceil(budget * chunk - 1e-9)
    return uncertain and importance >= importance_threshold and affordable


class Acceptance(NamedTuple):
    """What stands of a draft."""

    accepted: int
    """Draft tokens kept, from the first."""
    next_token: int
    """The LLM's token after them: the correction or the bonus."""


def accept_greedy(draft: Sequence[int], choices: Iterable[int]) -> Acceptance:
    """Keep the longest prefix of the draft that the LLM would have written itself.

    *Accepted* are the draft tokens before the first that differs from the LLM's choice at its place. The *correction*
    is the LLM's choice at that place. The *bonus* is its choice after the whole draft, when nothing differs. Either
    way the result is what the LLM alone would write, greedily (Leviathan et al., arXiv 2211.17192, at temperature 0).

    Args:
        draft: token ids [n].
        choices: the LLM's argmax ids [n + 1]; the i-th is its token after the history and draft[:i]. Read only up to
            the first difference.

    Raises:
        ValueError: there are fewer choices than that.
    """
    place = -1
    for place, choice in enumerate(choices):
        if place == len(draft) or draft[place] != choice:
            return Acceptance(place, choice)
    raise ValueError(f"a draft of {len(draft)} tokens needs {len(draft) + 1} choices of the LLM, got {place + 1}")
