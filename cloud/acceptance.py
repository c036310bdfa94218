"""The acceptance rule: which draft tokens the LLM lets stand. Pure.

What does not live here: how the LLM's choices are computed (engine/) and what is done with a verdict (verification.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Acceptance(NamedTuple):
    """What stands of a draft."""

    accepted: int
    """Draft tokens kept, from the first."""
    next_token: int
    """The LLM's token after them: the correction or the bonus."""


def accept_greedy(draft: Sequence[int], choices: Sequence[int]) -> Acceptance:
    """Keep the longest prefix of the draft that the LLM would have written itself.

    *Accepted* are the draft tokens before the first that differs from the LLM's choice at its place. The *correction*
    is the LLM's choice at that place. The *bonus* is its choice after the whole draft, when nothing differs. Either
    way the result is what the LLM alone would write, greedily (Leviathan et al., arXiv 2211.17192, at temperature 0).

    Args:
        draft: token ids [n].
        choices: the LLM's argmax ids [n + 1]; choices[i] is its token after the history and draft[:i].

    Raises:
        ValueError: the lengths do not fit.
    """
    if len(choices) != len(draft) + 1:
        raise ValueError(f"a draft of {len(draft)} tokens needs {len(draft) + 1} choices of the LLM, got {len(choices)}")
    accepted = next((i for i, (ours, theirs) in enumerate(zip(draft, choices, strict=False)) if ours != theirs), len(draft))
    return Acceptance(accepted, choices[accepted])
