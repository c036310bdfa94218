"""An exported model that answers from one of its exits: by `transformers`, greedy, in fp32, many answers at once.

What does not live here: the runtime's own decoder (runtime/model/decoder.py), and what is made of the answers (card.py,
positions.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

MAX_NEW_TOKENS = 160
"""Of an answer."""
_ROWS = 128  # of a batch


@dataclass(frozen=True)
class Said:
    """What a model says at each place of an answer that it is led through."""

    tokens: Tensor
    """int64 [places]."""
    confidence: Tensor
    """Their probability, fp32 [places]."""


class Exit:
    """A model, cut after one of its layers."""

    def __init__(self, folder: Path, layer: int | None = None) -> None:
        """Load it; without a layer it is left whole."""
        self._model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        layers, config = self._model.model.layers, self._model.config
        self.layer = layer or len(layers)
        per_layer, head = sum(p.numel() for p in layers[0].parameters()), self._model.lm_head.weight.numel()
        self.relative_cost = (self.layer * per_layer + head) / (len(layers) * per_layer + head)
        """Parameters read for one token (layers run + head), relative to the whole model."""
        self._model.model.layers, config.num_hidden_layers = layers[: self.layer], self.layer
        self.eos, self._pad = int(config.eos_token_id), int(config.pad_token_id)

    @torch.inference_mode()
    def finish(self, prompts: Sequence[Sequence[int]], begun: Sequence[Sequence[int]]) -> list[list[int]]:
        """Go on with answers to their end, or to :data:`MAX_NEW_TOKENS`; return them whole, <eos> included.

        Args:
            prompts: token ids, framed as a prompt is.
            begun: as much of each answer as stands; one that has ended, or has as many tokens, is left as it is.
        """
        answers = [list(answer) for answer in begun]
        left = [i for i, answer in enumerate(answers) if self.eos not in answer and len(answer) < MAX_NEW_TOKENS]
        for rows in _alike(left, [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]):
            prefixes = [[*prompts[i], *answers[i]] for i in rows]
            width = max(map(len, prefixes))
            ids = torch.tensor([[self._pad] * (width - len(p)) + p for p in prefixes])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prefixes])
            room = MAX_NEW_TOKENS - min(len(answers[i]) for i in rows)
            out = self._model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=room, do_sample=False)
            for i, tokens in zip(rows, out[:, width:].tolist(), strict=True):
                stop = tokens.index(self.eos) + 1 if self.eos in tokens else len(tokens)
                answers[i] = [*answers[i], *tokens[:stop]][:MAX_NEW_TOKENS]
        return answers

    @torch.inference_mode()
    def read(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Said]:
        """Say what it would say at each place of answers, given the prompt and what stands before it."""
        found: dict[int, Said] = {}
        for rows in _alike(range(len(prompts)), [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]):
            texts = [[*prompts[i], *answers[i]] for i in rows]
            width = max(map(len, texts))
            logits = self._model(torch.tensor([text + [self._pad] * (width - len(text)) for text in texts])).logits
            for row, i in zip(logits, rows, strict=True):
                best = row[len(prompts[i]) - 1 : len(prompts[i]) + len(answers[i]) - 1].softmax(-1).max(-1)
                found[i] = Said(best.indices, best.values)
        return [found[i] for i in range(len(prompts))]


def exit_layers(folder: Path) -> list[int]:
    """Return the exits that an exported model offers, shallow to deep."""
    return [int(layer) for layer in LlamaConfig.from_pretrained(folder).exit_layers]


def _alike(rows: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Batches of rows of similar lengths."""
    order = sorted(rows, key=lambda i: lengths[i])
    return (order[at : at + _ROWS] for at in range(0, len(order), _ROWS))
