"""The pair that is recorded: loaded together, run together over a growing tree of prefixes, asked for its own answers.

What does not live here: which prefixes are run (record.py) and the layers (runtime/model/decoder.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from runtime.errors import CheckpointError, ContextOverflowError, TokenizerMismatchError
from runtime.model.decoder import Decoder
from runtime.model.loading import fingerprint, load_decoder
from runtime.model.placement import Placement
from runtime.model.tokenizer import encode, load_tokenizer, tokenizer_hash
from runtime.settings import shown
from runtime.synera.drafter import predict


@dataclass(frozen=True)
class Models:
    """The pair that is recorded."""

    slm: Decoder
    llm: Decoder
    tokenizer: Tokenizer
    slm_fingerprint: str
    llm_fingerprint: str
    tokenizer_hash: str
    placement: Placement
    """Of both."""

    @classmethod
    def load(cls, slm: Path, llm: Path, placement: Placement = Placement()) -> Models:
        """Load both folders.

        Raises:
            TokenizerMismatchError: the two do not share a tokenizer.
            CheckpointError: a folder cannot be loaded.
        """
        hashes = tokenizer_hash(slm), tokenizer_hash(llm)
        if hashes[0] != hashes[1]:
            raise TokenizerMismatchError(
                f"the tokenizers of {slm} ({hashes[0]}) and {llm} ({hashes[1]}) differ; device and cloud must read the same tokens"
            )
        decoders = load_decoder(slm, placement), load_decoder(llm, placement)
        return cls(*decoders, load_tokenizer(slm), fingerprint(slm), fingerprint(llm), hashes[0], placement)

    def is_pair(self, slm: Path, llm: Path) -> bool:
        """Whether these are the models of two folders."""
        return (self.slm_fingerprint, self.llm_fingerprint) == (fingerprint(slm), fingerprint(llm))

    @property
    def context(self) -> int:
        """The shorter context of the two."""
        return min(self.slm.config.context, self.llm.config.context)

    def encode(self, prompt: str, max_new_tokens: int) -> list[int]:
        """Return the tokens of a prompt that leaves room for an answer.

        Raises:
            ContextOverflowError: it leaves none, or has no tokens.
            CheckpointError: the tokenizer gives a token that a model does not have.
        """
        ids = encode(self.tokenizer, prompt)
        room, vocab = self.context - max_new_tokens, min(self.slm.config.vocab, self.llm.config.vocab)
        if not 0 < len(ids) <= room:
            raise ContextOverflowError(
                f"the prompt {shown(prompt, 60)} has {len(ids)} tokens; with answers of {max_new_tokens} the context of "
                f"{self.context} takes 1 to {room}"
            )
        if max(ids) >= vocab:
            raise CheckpointError(
                f"the tokenizer gives token {max(ids)} for the prompt {shown(prompt, 60)}, but the models have only {vocab}; "
                "the tokenizer belongs to another model"
            )
        return ids


class PairTree:
    """Both models' caches of prefixes that share their beginnings, and the forward over their newest nodes."""

    def __init__(self, models: Models) -> None:
        self._slm, self._llm = models.slm, models.llm
        self._exits = models.slm.config.exit_layers
        self._slm_kv, self._llm_kv = self._slm.new_tree(), self._llm.new_tree()

    @torch.inference_mode()
    def run(
        self, tokens: NDArray[np.int64], slots: NDArray[np.int64], paths: Sequence[NDArray[np.int64]]
    ) -> dict[str, NDArray[Any]]:
        """Run both models over the last tokens of some prefixes.

        Args:
            tokens: [rows], the last token of each prefix.
            slots: [rows], a fresh slot for each row.
            paths: for each row, the slots from the start of its prefix to its own.

        Returns:
            What a graph stores of a node, by name of its array, and `hidden` [rows, exits, hidden]; each [rows, ...], with
            figures in float32 whatever the type of the models.
        """
        lengths = np.array([len(p) for p in paths])
        padded = np.zeros((len(paths), lengths.max()), np.int64)
        for row, path in enumerate(paths):
            padded[row, : len(path)] = path
        ids, positions = torch.from_numpy(tokens), torch.from_numpy(lengths - 1)
        for cache in (self._slm_kv, self._llm_kv):
            cache.place(torch.from_numpy(slots), torch.from_numpy(padded), torch.from_numpy(lengths))
        hidden, start, guesses, states = self._slm.embed(ids), 0, [], []
        for layer in self._exits:
            hidden, start = self._slm.run(hidden, positions, self._slm_kv, start, layer), layer
            guesses.append(predict(self._slm.logits(hidden)))
            states.append(hidden)
        judged = predict(self._llm.logits(self._llm.run(self._llm.embed(ids), positions, self._llm_kv)))
        exit_token = torch.stack([g.token for g in guesses], 1)
        figures = {
            "exit_token": exit_token,
            "confidence": torch.stack([g.confidence for g in guesses], 1),
            "margin": torch.stack([g.margin for g in guesses], 1),
            "entropy": torch.stack([g.entropy for g in guesses], 1),
            "runner_up": torch.stack([g.runner_up for g in guesses], 1),
            "llm_probability": judged.probabilities.gather(1, exit_token),
            "llm_token": judged.token,
            "hidden": torch.stack(states, 1).float(),
        }
        return {name: values.cpu().numpy() for name, values in figures.items()}


def greedy_answers(model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int) -> dict[str, str]:
    """Return a model's own greedy answer to each prompt, at its last exit."""
    answers = {}
    for prompt in prompts:
        said = greedy_tokens(model, encode(tokenizer, prompt), max_new_tokens)
        answers[prompt] = tokenizer.decode(said, skip_special_tokens=True)
    return answers


@torch.inference_mode()
def greedy_tokens(model: Decoder, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
    """Return a model's own greedy answer to a tokenized prompt, with the token that ends it."""
    cache, fresh, said = model.new_cache(), list(prompt), list[int]()
    while len(said) < max_new_tokens and not (said and said[-1] in model.config.eos_ids):
        first = len(prompt) + len(said) - len(fresh)
        hidden = model.run(model.embed(torch.tensor(fresh)), torch.arange(first, first + len(fresh)), cache)
        fresh = [int(model.logits(hidden[-1:]).argmax())]
        said += fresh
    return said


def agreement(models: Models, prompts: Sequence[str], max_new_tokens: int) -> Callable[[str, str], float]:
    """Return the scorer of prompts that belong to no task: 1.0 for the LLM's own greedy answer, 0.0 for any other.

    Raises:
        ContextOverflowError: a prompt leaves no room for an answer.
    """
    for prompt in prompts:  # all of them, before the first is answered
        models.encode(prompt, max_new_tokens)
    wanted = greedy_answers(models.llm, models.tokenizer, prompts, max_new_tokens)
    return lambda prompt, answer: float(wanted[prompt] == answer)
