"""Greedy decoding with Medusa heads on one device, a draft and its verification at a time.

What does not live here: the loop and the figures (adapter_drafts.py), which are those of an adapter's drafts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runtime.hat.medusa import MedusaHeads
from runtime.model.decoder import Decoder


class MedusaAnswer:
    """The whole model's cache of an answer under way, and the state that the heads read."""

    def __init__(self, decoder: Decoder, heads: MedusaHeads, prompt: Sequence[int]) -> None:
        self._decoder, self._heads, self._kv = decoder, heads, decoder.new_cache()
        hidden = decoder.run(decoder.embed(torch.tensor(prompt)), torch.arange(len(prompt)), self._kv)
        self._final = hidden[-1:]
        self.first_token = int(decoder.logits(self._final).argmax())
        self._length, self._token = len(prompt), self.first_token

    def draft(self, token: int, eta: float, longest: int) -> tuple[list[int], list[float]]:
        """Draft behind the answer's last token; return the tokens and their probabilities."""
        self._token = token
        if not longest:
            return [], []
        [logits] = self._heads.logits(self._decoder, self._final)
        best = logits.softmax(-1).max(-1)
        tokens, confidences = best.indices.tolist()[:longest], best.values.tolist()[:longest]
        ends = (i for i, t in enumerate(tokens) if confidences[i] < eta or t in self._decoder.config.eos_ids)
        stop = next(ends, len(tokens)) + 1
        return tokens[:stop], confidences[:stop]

    def verify(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Run the model over a draft; return how many of its tokens stand, and the model's own token after them."""
        rows = [self._token, *tokens]
        places = torch.arange(self._length, self._length + len(rows))
        hidden = self._decoder.run(self._decoder.embed(torch.tensor(rows)), places, self._kv)
        own = self._decoder.logits(hidden).argmax(-1).tolist()
        accepted = next((i for i, token in enumerate(tokens) if token != own[i]), len(tokens))
        self._length += accepted + 1
        self._kv.truncate(self._length)
        self._final = hidden[accepted][None]
        return accepted, own[accepted]
