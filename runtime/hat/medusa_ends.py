"""The device's part of a split model for which Medusa heads draft, from the last state that came back.

What does not live here: what is alike whatever drafts (split_ends.py), the heads' arithmetic (medusa.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from runtime.clock import Clock
from runtime.hat.ledger import MedusaLedger
from runtime.hat.medusa import MedusaHeads
from runtime.hat.split_ends import EndCosts, SplitEnds, said
from runtime.hat.values import DraftToken
from runtime.model.decoder import Decoder
from runtime.model.split import Split


class MedusaEnds(SplitEnds):
    """Implements :class:`runtime.hat.parts.Ends` over a decoder's ends and Medusa heads.

    A draft is a chain of at most as many tokens as there are heads, all said at once. Nothing is drafted ahead: the heads read the state
    that comes back, and while a draft is away it is not there.
    """

    def __init__(self, ends: Decoder, split: Split, heads: MedusaHeads, clock: Clock, costs: EndCosts) -> None:
        super().__init__(ends, split, MedusaLedger(split.first, split.last, heads.heads), clock, costs)
        self._heads = heads
        self._finals = torch.empty(0, ends.config.hidden)
        self.begin(())

    def begin(self, prompt: Sequence[int]) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        super().begin(prompt)
        self._place = 0  # of _finals, the row after which the whole model said the last committed token
        self._chain: list[DraftToken] | None = None  # what the heads say and is not drafted; None before they are asked

    def ready_to_draft(self) -> None:
        """See :class:`runtime.hat.parts.Ends`; the heads read nothing of the prefix but a state that is not there yet."""

    def draft(self) -> DraftToken | None:
        """See :class:`runtime.hat.parts.Ends`."""
        began = self._clock.now()
        if self._chain is None:
            [logits] = self._heads.logits(self._decoder, self._finals[self._place][None])
            self._chain = said(logits)
        if not self._chain:
            return None
        token = self._chain.pop(0)
        if works := self._ledger.draft():
            self._clock.charge(self._costs.draft_seconds(works, 1), since=began)
        self._prefix.append(token.token)
        return token

    def branch(self, candidates: int) -> int:
        """See :class:`runtime.hat.parts.Ends`: there are none."""
        return 0

    def step_branches(self) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        raise AssertionError("there are no branches")

    def commit(self, length: int, token: int) -> tuple[DraftToken, ...]:
        """See :class:`runtime.hat.parts.Ends`."""
        self._place = length - 1 - (len(self._prefix) - len(self._finals))
        self._chain = None
        self._stand(length, token)
        self._ledger.commit(length, 0)
        return ()

    def _tokens(self, finals: Tensor) -> list[int]:
        self._finals = finals
        return super()._tokens(finals)
