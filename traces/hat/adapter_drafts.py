"""What an adapter's drafts are worth, or those of Medusa heads: greedy speculative decoding on one device, beside plain greedy decoding.

What does not live here: how heads draft (medusa_drafts.py), the card (adapter_card.py), and drafting over a network (runtime/hat/).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from runtime.hat.adapter import Adapter
from runtime.hat.drafters import Drafter
from runtime.hat.medusa import MedusaHeads
from runtime.model.decoder import Decoder
from runtime.settings import whole, within
from traces.hat.medusa_drafts import MedusaAnswer

CONFIDENCE_BINS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0)
"""Edges of the bins of a draft token's probability."""


@dataclass(frozen=True)
class DraftRule:
    """When a draft ends.

    Raises:
        SettingError: a value is outside its range.
    """

    eta: float = 0.6
    """A token whose probability is below it is the draft's last; the paper's 0.6."""
    longest: int = 8
    """Most tokens of a draft."""

    def __post_init__(self) -> None:
        within("eta", self.eta, 0, 1)
        whole("longest", self.longest, 1, 64)


@dataclass(frozen=True)
class Draft:
    """One draft, and what the whole model said of it."""

    confidences: tuple[float, ...]
    """Probability of each token, by the draft model; none where the answer had room for one more token alone."""
    accepted: int
    """Tokens of its matching prefix."""
    committed: int
    """Tokens that the answer gained: those, and the whole model's own, but none after the answer's end."""


@dataclass(frozen=True)
class Decoded:
    """An answer, and how it came about."""

    tokens: list[int]
    seconds: float
    """From the first token, which the prompt's forward says, to the last."""
    drafts: tuple[Draft, ...] = ()


@torch.inference_mode()
def plain(decoder: Decoder, prompt: Sequence[int], max_new_tokens: int) -> Decoded:
    """Decode greedily, a token at a time."""
    kv, said = decoder.new_cache(), list[int]()
    hidden = decoder.run(decoder.embed(torch.tensor(prompt)), torch.arange(len(prompt)), kv)
    said.append(int(decoder.logits(hidden[-1:]).argmax()))
    began = time.perf_counter()
    while len(said) < max_new_tokens and said[-1] not in decoder.config.eos_ids:
        place = torch.tensor([len(prompt) + len(said) - 1])
        hidden = decoder.run(decoder.embed(torch.tensor(said[-1:])), place, kv)
        said.append(int(decoder.logits(hidden).argmax()))
    return Decoded(said, time.perf_counter() - began)


@torch.inference_mode()
def speculative(decoder: Decoder, drafter: Drafter, prompt: Sequence[int], max_new_tokens: int, rule: DraftRule) -> Decoded:
    """Decode greedily with drafts, each verified by what of the model has not seen it; the tokens are :func:`plain`'s."""
    answer = MedusaAnswer(decoder, drafter, prompt) if isinstance(drafter, MedusaHeads) else _Answer(decoder, drafter, prompt)
    said, drafts, ends = [answer.first_token], list[Draft](), decoder.config.eos_ids
    began = time.perf_counter()
    while len(said) < max_new_tokens and said[-1] not in ends:
        room = max_new_tokens - len(said) - 1
        tokens, confidences = answer.draft(said[-1], rule.eta, min(rule.longest, room))
        accepted, own = answer.verify(tokens)
        gained = [*tokens[:accepted], own]
        gained = gained[: next((i + 1 for i, token in enumerate(gained) if token in ends), len(gained))]
        said += gained
        drafts.append(Draft(tuple(confidences), accepted, len(gained)))
    return Decoded(said, time.perf_counter() - began, tuple(drafts))


class _Answer:
    """The caches of an answer under way: the whole model's, whose first layers run ahead with the draft, and the adapter's."""

    def __init__(self, decoder: Decoder, adapter: Adapter, prompt: Sequence[int]) -> None:
        self._decoder, self._adapter = decoder, adapter
        self._kv, self._adapter_kv = decoder.new_cache(), adapter.new_cache()
        places = torch.arange(len(prompt))
        states = decoder.run(decoder.embed(torch.tensor(prompt)), places, self._kv, 0, adapter.first)
        adapter.run(states, decoder.turns(places), self._adapter_kv)
        hidden = decoder.run(states, places, self._kv, adapter.first)
        self.first_token = int(decoder.logits(hidden[-1:]).argmax())
        self._length = len(prompt)
        """Positions that the whole model has read."""
        self._states = list[Tensor]()
        """Of the first layers, of those that it has not."""
        self._unseen = list[Tensor]()
        """Of the first layers, of positions that the adapter has not read though they stand."""

    def draft(self, token: int, eta: float, longest: int) -> tuple[list[int], list[float]]:
        """Draft from the answer's last token; return the tokens and their probabilities."""
        tokens, confidences = list[int](), list[float]()
        self._states = [self._shallow(token, self._length)]
        while len(tokens) < longest and not (confidences and confidences[-1] < eta):
            if tokens:
                self._states.append(self._shallow(tokens[-1], self._length + len(tokens)))
            rows, stop = [*self._unseen, self._states[-1]], self._length + len(tokens) + 1
            turns = self._decoder.turns(torch.arange(stop - len(rows), stop))
            self._unseen = []
            out = self._adapter.run(torch.cat(rows), turns, self._adapter_kv)
            best = self._decoder.logits(out[-1:]).softmax(-1).max(-1)
            tokens.append(int(best.indices))
            confidences.append(float(best.values))
            if tokens[-1] in self._decoder.config.eos_ids:
                break
        return tokens, confidences

    def verify(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Run the other layers over a draft; return how many of its tokens stand, and the whole model's own token after them."""
        if tokens:
            self._states.append(self._shallow(tokens[-1], self._length + len(tokens)))
        places = torch.arange(self._length, self._length + len(self._states))
        hidden = self._decoder.run(torch.cat(self._states), places, self._kv, self._adapter.first)
        own = self._decoder.logits(hidden).argmax(-1).tolist()
        accepted = next((i for i, token in enumerate(tokens) if token != own[i]), len(tokens))
        self._length += accepted + 1
        self._kv.truncate(self._length)
        self._adapter_kv.truncate(self._length)
        self._unseen = self._states[-1:] if tokens and accepted == len(tokens) else []
        return accepted, own[accepted]

    def _shallow(self, token: int, place: int) -> Tensor:
        """States of one token after the first layers [1, hidden]."""
        embedded = self._decoder.embed(torch.tensor([token]))
        return self._decoder.run(embedded, torch.tensor([place]), self._kv, 0, self._adapter.first)


# ---------------------------------------------------------------- figures


@dataclass(frozen=True)
class Bin:
    """Draft tokens of like confidence."""

    low: float
    high: float
    tokens: int
    accepted: float
    """Share of them that stand."""
    right: float
    """Share that stand, of those before which all of the draft stood: what one more token is worth then."""


@dataclass(frozen=True)
class Figures:
    """What the drafts of some answers were worth."""

    answers: int
    same: int
    """Answers whose tokens are those of plain decoding; in float32 all are."""
    drafts: tuple[Draft, ...]
    tokens: int
    """After the first ones, of those answers."""
    plain_seconds: float
    """That they took without drafts."""
    seconds: float
    """The same, with drafts."""

    @classmethod
    def pooled(cls, figures: Sequence[Figures]) -> Figures:
        """Take the figures of several groups of answers together."""
        columns = {each.name: [getattr(one, each.name) for one in figures] for each in fields(cls) if each.name != "drafts"}
        drafts = tuple(draft for one in figures for draft in one.drafts)
        return cls(drafts=drafts, **{name: sum(values) for name, values in columns.items()})

    @property
    def committed(self) -> float:
        """Mean tokens that a verification gains, the whole model's own included."""
        return _share(sum(draft.committed for draft in self.drafts), len(self.drafts))

    @property
    def accepted(self) -> float:
        """Mean tokens of a draft that stand."""
        return _share(sum(draft.accepted for draft in self.drafts), len(self.drafts))

    @property
    def drafted(self) -> float:
        """Mean tokens of a draft."""
        return _share(sum(len(draft.confidences) for draft in self.drafts), len(self.drafts))

    @property
    def speed_up(self) -> float:
        """How many times as fast as plain decoding, by the clock."""
        return _share(self.plain_seconds, self.seconds)

    def by_position(self) -> list[tuple[int, float, float]]:
        """Of each position of a draft: how many drafts have it, the share that stand, and that of those all before which stood."""
        longest = max((len(draft.confidences) for draft in self.drafts), default=0)
        rows = []
        for place in range(longest):
            there = [draft for draft in self.drafts if len(draft.confidences) > place]
            stood = sum(draft.accepted > place for draft in there)
            rows.append((len(there), stood / len(there), _share(stood, sum(draft.accepted >= place for draft in there))))
        return rows

    def by_length(self) -> dict[int, float]:
        """Share of the drafts of each length."""
        lengths = [len(draft.confidences) for draft in self.drafts]
        return {length: lengths.count(length) / len(lengths) for length in sorted(set(lengths))}

    def by_confidence(self) -> list[Bin]:
        """What became of draft tokens by their confidence; bins without tokens are left out."""
        places = [(c, i, draft.accepted) for draft in self.drafts for i, c in enumerate(draft.confidences)]
        bins = []
        for low, high in pairwise(CONFIDENCE_BINS):
            inside = [(i, stood) for c, i, stood in places if low <= c < high or c == high == 1.0]
            if inside:
                stand, asked = sum(stood > i for i, stood in inside), sum(stood >= i for i, stood in inside)
                bins.append(Bin(low, high, len(inside), stand / len(inside), _share(stand, asked)))
        return bins


def measured(
    decoder: Decoder,
    drafter: Drafter,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    rule: DraftRule = DraftRule(),
    track: Callable[[Sequence[Sequence[int]]], Iterable[Sequence[int]]] = iter,
) -> Figures:
    """Answer prompts both ways, in turn, and compare.

    Args:
        decoder: the whole model.
        drafter: its adapter, or Medusa heads of it.
        prompts: as tokens.
        max_new_tokens: where answers are cut.
        rule: when drafts end.
        track: shows how far it is.
    """
    found = list[Figures]()
    for number, prompt in enumerate(track(prompts)):
        if number % 2:  # neither always comes second, with warm caches
            alone, drafted = plain(decoder, prompt, max_new_tokens), speculative(decoder, drafter, prompt, max_new_tokens, rule)
        else:
            drafted, alone = speculative(decoder, drafter, prompt, max_new_tokens, rule), plain(decoder, prompt, max_new_tokens)
        same = alone.tokens == drafted.tokens
        timed = (len(alone.tokens) - 1, alone.seconds, drafted.seconds) if same else (0, 0.0, 0.0)
        found.append(Figures(1, int(same), drafted.drafts, *timed))
    return Figures.pooled(found)


def _share(part: float, of: float) -> float:
    """A quotient; nothing of nothing is no number."""
    return part / of if of else float("nan")
