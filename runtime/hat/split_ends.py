"""The device's part of a split model whatever drafts: first layers, last layers and head, with what they remember of a prefix.

What does not live here: what drafts (ends.py with an adapter, medusa_ends.py with heads), when to draft or upload (session.py), what
work costs (a device profile).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from runtime.clock import Clock
from runtime.hat.knobs import MAX_CANDIDATES
from runtime.hat.ledger import Ledger, Work
from runtime.hat.values import DraftToken
from runtime.model.decoder import Decoder
from runtime.model.split import Split


class EndCosts(Protocol):
    """The part of a device profile that the ends need."""

    def draft_seconds(self, segments: Sequence[Work], heads: int) -> float:
        """Time to run batches of positions through layers, and `heads` output heads."""
        ...


class SplitEnds:
    """What is alike in every :class:`runtime.hat.parts.Ends` over a decoder's ends; owns their caches."""

    def __init__(self, ends: Decoder, split: Split, ledger: Ledger, clock: Clock, costs: EndCosts) -> None:
        self._decoder, self._split, self._ledger = ends, split, ledger
        self._clock, self._costs = clock, costs
        self._back = ends.config.layers - split.last  # first of the last layers

    def begin(self, prompt: Sequence[int]) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        self._prefix = list(prompt)
        self._ledger.begin(len(prompt))
        # One for the first layers, which run ahead, and one for the last, which follow what comes back.
        self._kv, self._back_kv = self._decoder.new_cache(), self._decoder.new_cache()
        self._states = torch.empty(64, self._decoder.config.hidden, dtype=self._decoder.dtype, device=self._decoder.device)
        self._looked = 0  # positions that went through the last layers

    def read(self, length: int) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        began, ran = self._clock.now(), self._ledger.ran
        works = self._ledger.run(length)
        self._run(ran, length)
        self._clock.charge(self._costs.draft_seconds(works, 0), since=began)

    def states(self, first: int, stop: int) -> Tensor:
        """See :class:`runtime.hat.parts.Ends`: [stop - first, hidden]."""
        self.read(stop)
        return self._states[first:stop]

    def choose(self, states: Sequence[Tensor], wanted: int) -> list[int]:
        """See :class:`runtime.hat.parts.Ends`."""
        began, rows = self._clock.now(), torch.cat(list(states)).to(self._states)
        if self._split.last:
            positions = torch.arange(self._looked, self._looked + len(rows))
            rows = self._decoder.run(rows, positions, self._back_kv, self._back)
            self._looked += len(rows)
        chosen = self._tokens(rows[-wanted:])
        self._clock.charge(self._costs.draft_seconds(self._ledger.choose(len(rows)), 1), since=began)
        return chosen

    def trim(self, tokens: int) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        self._cut(len(self._prefix) - tokens)
        self._ledger.keep(len(self._prefix))

    # ------------------------------------------------------------ pieces

    def _tokens(self, finals: Tensor) -> list[int]:
        """What the whole model says after its last states, [rows, hidden]."""
        chosen: list[int] = self._decoder.logits(finals).argmax(-1).tolist()
        return chosen

    def _run(self, first: int, stop: int) -> None:
        """Run positions through the first layers, and keep their states."""
        if stop <= first:
            return
        states = self._decoder.embed(torch.tensor(self._prefix[first:stop]))
        states = self._decoder.run(states, torch.arange(first, stop), self._kv, 0, self._split.first)
        self._keep(states, first)

    @torch.inference_mode()
    def _keep(self, states: Tensor, first: int) -> None:
        stop = first + len(states)
        if stop > len(self._states):
            grown = self._states.new_empty(max(stop, 2 * len(self._states)), self._states.shape[1])
            grown[: len(self._states)] = self._states
            self._states = grown
        self._states[first:stop] = states

    def _stand(self, length: int, token: int) -> None:
        """Keep so many positions, and append a token."""
        self._cut(length)
        self._prefix.append(token)
        self._looked = min(self._looked, length)

    def _cut(self, length: int) -> None:
        del self._prefix[length:]
        for kv in (self._kv, self._back_kv):
            kv.truncate(length)


def said(logits: Tensor) -> list[DraftToken]:
    """What is drafted by each row, [rows, vocab]."""
    chances = logits.float().softmax(-1)
    best, ids = chances.topk(min(MAX_CANDIDATES, chances.shape[-1]), -1)
    return [
        DraftToken(said[0], top[0], top[0] - top[1], tuple(said)) for top, said in zip(best.tolist(), ids.tolist(), strict=True)
    ]
