"""What the cloud holds of an answer, as the device knows it: how little a check has to send, and what the cloud runs for it.

The same bookkeeping live and in replay. What does not live here: who sends (verifier.py) and how long it takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.sampling import SampledDraft
from runtime.values import value
from runtime.wire.sizes import on_the_link, verify_request_bytes


@value()
class CheckRequest:
    """One check, as it travels."""

    seq: int
    prefix_length: int
    """Tokens of history that the cloud holds already."""
    context: Sequence[int]
    """The history from there on."""
    draft: Sequence[int]
    cloud_tokens: int
    """Tokens that the LLM has to process for it."""
    sampled: SampledDraft | None = None
    """How the draft was sampled; None where it was not."""

    @property
    def link_bytes(self) -> int:
        """Bytes on the link."""
        return on_the_link(verify_request_bytes(self.prefix_length, self.context, self.draft, self.seq, self.sampled))


class HeldHistory:
    """A session in the cloud, from its opening on."""

    def __init__(self) -> None:
        self._seq = 0
        self._tokens: list[int] = []

    def request(self, history: Sequence[int], draft: Sequence[int], sampled: SampledDraft | None = None) -> CheckRequest:
        """Number and trim the next check; `history` is all committed tokens, at least one."""
        prefix = common_prefix(history, self._tokens)
        cloud_tokens = processed_tokens(prefix, len(self._tokens), len(history), len(draft))
        self._seq += 1
        return CheckRequest(self._seq, prefix, history[prefix:], draft, cloud_tokens, sampled)

    def settled(self, history: Sequence[int], draft: Sequence[int], accepted: int, next_token: int) -> None:
        """The check was answered: the cloud now holds what stands of it."""
        self._tokens = [*history, *draft[:accepted], next_token]


def processed_tokens(prefix: int, held: int, history: int, draft: int) -> int:
    """Return how many tokens the LLM has to process for a check.

    Args:
        prefix: tokens that begin both what the cloud holds and the history.
        held: tokens that the cloud holds.
        history: tokens of the history.
        draft: tokens of the draft.
    """
    # The cloud's caches end before the token that it said last; the history's last token is always run.
    return history - max(0, min(prefix, held - 1, history - 1)) + draft


def common_prefix(one: Sequence[int | None], other: Sequence[int | None]) -> int:
    """Return how many tokens begin both."""
    shared = min(len(one), len(other))
    if tuple(one[:shared]) == tuple(other[:shared]):  # nearly always: a device seldom takes anything back
        return shared
    return next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
