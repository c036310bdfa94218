"""Rules that the live world and the replay apply alike. Pure: no models, no torch, no time.

What does not live here: who computes what a rule is applied to (cloud/engine/, traces/synera/).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


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
        choices: the LLM's argmax ids; the i-th is its token after the history and draft[:i]. Read only up to the first
            that differs from the draft, n + 1 at most.

    Raises:
        ValueError: the choices end before that.
    """
    got = 0
    for got, choice in enumerate(choices, 1):
        if got > len(draft) or draft[got - 1] != choice:
            return Acceptance(got - 1, choice)
    raise ValueError(f"a draft of {len(draft)} tokens needs {len(draft) + 1} choices of the LLM, got {got}")
