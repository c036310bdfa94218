"""The device's part of a split model whose first layers draft with an adapter, also ahead while a draft is away.

What does not live here: what is alike whatever drafts (split_ends.py), when to draft or upload (session.py), the adapter's arithmetic
(adapter.py), what work costs (a device profile).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.clock import Clock
from runtime.hat.adapter import Adapter
from runtime.hat.branches import BranchKV
from runtime.hat.knobs import MAX_DRAFT_LENGTH
from runtime.hat.ledger import Ledger
from runtime.hat.split_ends import EndCosts, SplitEnds, said
from runtime.hat.values import DraftToken
from runtime.model.decoder import Decoder
from runtime.model.split import Split


class ModelEnds(SplitEnds):
    """Implements :class:`runtime.hat.parts.Ends` over a decoder's ends and an adapter; owns their caches."""

    def __init__(
        self, ends: Decoder, split: Split, adapter: Adapter, clock: Clock, costs: EndCosts, eos_ids: frozenset[int]
    ) -> None:
        super().__init__(ends, split, Ledger(split.first, split.last), clock, costs)
        self._adapter, self._eos_ids = adapter, eos_ids
        self.begin(())

    def begin(self, prompt: Sequence[int]) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        super().begin(prompt)
        self._adapter_kv = self._adapter.new_cache()
        self._drafted: list[DraftToken] = []  # the last tokens of the prefix, those that were drafted
        self._branches: _Branches | None = None

    def ready_to_draft(self) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        began, ledger = self._clock.now(), self._ledger
        ran, adapted = ledger.ran, ledger.adapted
        works = ledger.adapt(ledger.length)
        self._run(ran, ledger.length)
        self._adapted(adapted, ledger.length)
        self._clock.charge(self._costs.draft_seconds(works, 0), since=began)

    def draft(self) -> DraftToken:
        """See :class:`runtime.hat.parts.Ends`."""
        began, ledger = self._clock.now(), self._ledger
        ran, adapted, stop = ledger.ran, ledger.adapted, ledger.length
        works = ledger.draft()
        self._run(ran, stop)
        [token] = self._say(self._adapted(adapted, stop)[-1:])
        self._clock.charge(self._costs.draft_seconds(works, 1), since=began)
        self._prefix.append(token.token)
        self._drafted.append(token)
        return token

    def branch(self, candidates: int) -> int:
        """See :class:`runtime.hat.parts.Ends`."""
        self._ledger.branch()
        base, roots = self._ledger.base, self._drafted[-1].candidates[:candidates]
        self._branches = _Branches(
            roots, BranchKV(self._kv, base, len(roots)), BranchKV(self._adapter_kv, base, len(roots)), [], []
        )
        return len(roots)

    def step_branches(self) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        branches = self._branches
        assert branches is not None, "branch() comes first"
        began, place = self._clock.now(), self._ledger.base + len(branches.said)
        entering = torch.tensor(branches.entering)
        positions = torch.full_like(entering, place)
        states = self._decoder.run(self._decoder.embed(entering), positions, branches.kv, 0, self._split.first)
        adapted = self._adapter.run(states, self._decoder.turns(positions), branches.adapter_kv)
        branches.states.append(states)
        branches.said.append(self._say(adapted))
        self._clock.charge(self._costs.draft_seconds(self._ledger.step(len(entering)), 1), since=began)

    @torch.inference_mode()
    def commit(self, length: int, token: int) -> tuple[DraftToken, ...]:
        """See :class:`runtime.hat.parts.Ends`."""
        branches, self._branches = self._branches, None
        self._stand(length, token)
        self._drafted = []
        adopted = branches.led_to(self._prefix[self._ledger.base :], self._eos_ids) if branches is not None else None
        if branches is None or adopted is None:
            self._ledger.commit(length, 0)
            return ()
        number, kept = adopted
        base = self._ledger.base
        self._ledger.commit(length, len(kept))
        branches.adopt(number, self._ledger.ran - base)
        for place in range(base, self._ledger.ran):
            self._keep(branches.states[place - base][number][None], place)
        self._prefix += [each.token for each in kept]
        self._drafted = list(kept)
        return kept

    def trim(self, tokens: int) -> None:
        """See :class:`runtime.hat.parts.Ends`."""
        super().trim(tokens)
        del self._drafted[len(self._drafted) - tokens :]

    # ------------------------------------------------------------ pieces

    def _adapted(self, first: int, stop: int) -> Tensor:
        """Run states of positions through the adapter: [stop - first, hidden]."""
        if stop <= first:
            return self._states[:0]
        return self._adapter.run(self._states[first:stop], self._decoder.turns(torch.arange(first, stop)), self._adapter_kv)

    def _say(self, adapted: Tensor) -> list[DraftToken]:
        """What the draft model says after each row."""
        return said(self._decoder.logits(adapted))

    def _cut(self, length: int) -> None:
        super()._cut(length)
        self._adapter_kv.truncate(length)


@dataclass
class _Branches:
    """What is drafted on, from several tokens in one place."""

    roots: tuple[int, ...]
    kv: BranchKV
    adapter_kv: BranchKV
    states: list[Tensor]
    """By step, [branches, hidden]."""
    said: list[list[DraftToken]]
    """By step and branch."""

    @property
    def entering(self) -> list[int]:
        """The token that each branch goes on from."""
        return [each.token for each in self.said[-1]] if self.said else list(self.roots)

    def led_to(self, tokens: Sequence[int], eos_ids: frozenset[int]) -> tuple[int, tuple[DraftToken, ...]] | None:
        """The branch that begins with these tokens, and what it says after them; None where no branch does, or says nothing."""
        for number, root in enumerate(self.roots):
            path = [each[number] for each in self.said]
            if list(tokens) == [root, *(each.token for each in path)][: len(tokens)] and 0 < len(tokens) <= len(path):
                return number, cut_ahead(path[len(tokens) - 1 :], eos_ids)
        return None

    def adopt(self, number: int, steps: int) -> None:
        """Let the prefix's caches go on with a branch."""
        self.kv.adopt(number, steps)
        self.adapter_kv.adopt(number, steps)


def cut_ahead(tokens: Sequence[DraftToken], eos_ids: frozenset[int]) -> tuple[DraftToken, ...]:
    """Return as much of what was drafted ahead as a draft can have: the longest draft, up to and with a token that ends the answer."""
    kept: list[DraftToken] = []
    for token in tokens[:MAX_DRAFT_LENGTH]:
        kept.append(token)
        if token.token in eos_ids:
            break
    return tuple(kept)
