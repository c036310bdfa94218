"""The pair that is recorded: loaded together, run together over a growing tree of prefixes, asked for its own answers.

What does not live here: which prefixes are run (record.py) and the layers (runtime/model/decoder.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from runtime.errors import CheckpointError, ContextOverflowError, TokenizerMismatchError
from runtime.model.decoder import Decoder
from runtime.model.frame import Frame
from runtime.model.loading import fingerprint, load_decoder
from runtime.model.placement import Placement
from runtime.model.tokenizer import encode, load_tokenizer, tokenizer_hash
from runtime.settings import shown

_WAVE = 192  # rows in one forward: enough to fill the cores
_LOGITS = 2**24  # numbers in the logits of a forward, at most


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
    frame: Frame = Frame()
    """How prompts become tokens."""

    @classmethod
    def load(cls, slm: Path, llm: Path, placement: Placement = Placement(), frame: Frame = Frame()) -> Models:
        """Load both folders.

        Raises:
            TokenizerMismatchError: the two do not share a tokenizer.
            CheckpointError: a folder cannot be loaded, or one lacks tokens that the other has.
        """
        hashes = tokenizer_hash(slm), tokenizer_hash(llm)
        if hashes[0] != hashes[1]:
            raise TokenizerMismatchError(
                f"the tokenizers of {slm} ({hashes[0]}) and {llm} ({hashes[1]}) differ; device and cloud must read the same tokens"
            )
        decoders = load_decoder(slm, placement), load_decoder(llm, placement)
        if (sizes := tuple(decoder.config.vocab for decoder in decoders))[0] != sizes[1]:
            raise CheckpointError(
                f"of the tokens of their tokenizer {slm} has {sizes[0]} and {llm} has {sizes[1]}; both must have all that either says"
            )
        return cls(*decoders, load_tokenizer(slm), fingerprint(slm), fingerprint(llm), hashes[0], placement, frame)

    def is_pair(self, slm: Path, llm: Path) -> bool:
        """Whether these are the models of two folders."""
        return (self.slm_fingerprint, self.llm_fingerprint) == (fingerprint(slm), fingerprint(llm))

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer: those of either model, and of the frame."""
        return frozenset((*self.slm.config.eos_ids, *self.llm.config.eos_ids, *self.frame.ends))

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
        ids = self.frame.encode(self.tokenizer, prompt)
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


def wave_rows(models: Models) -> int:
    """Return how many nodes are run in one forward at most."""
    return max(1, min(_WAVE, _LOGITS // models.llm.config.vocab))


class PairTree:
    """Both models' caches of prefixes that share their beginnings, and the forward over their newest nodes."""

    def __init__(self, models: Models, room: int = 1024) -> None:
        """Begin empty.

        Args:
            models: the pair.
            room: slots of the caches; they grow where that is too few, at the cost of a copy.
        """
        self._slm, self._llm = models.slm, models.llm
        self._exits = models.slm.config.exit_layers
        self._slm_kv, self._llm_kv = self._slm.new_tree(room), self._llm.new_tree(room)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values that were made room for."""
        return self._slm_kv.nbytes + self._llm_kv.nbytes

    @torch.inference_mode()
    def fill(self, tokens: NDArray[np.int64], slots: NDArray[np.int64], paths: Sequence[NDArray[np.int64]]) -> None:
        """Run both models as :meth:`run`, for the keys and values alone."""
        ids, positions = self._place(tokens, slots, paths)
        for model, cache in ((self._slm, self._slm_kv), (self._llm, self._llm_kv)):
            model.run(model.embed(ids), positions, cache)

    @torch.inference_mode()
    def run(
        self, tokens: NDArray[np.int64], slots: NDArray[np.int64], paths: Sequence[NDArray[np.int64]]
    ) -> dict[str, NDArray[Any]]:
        """Run both models over the last tokens of some prefixes.

        Args:
            tokens: [rows], the last token of each prefix.
            slots: [rows], a slot for each row; what was in it is gone.
            paths: for each row, the slots from the start of its prefix to its own; those before it were run before, or are
                run in this call.

        Returns:
            What a graph stores of a node, by name of its array, and `hidden` [rows, exits, hidden]; each [rows, ...], with
            figures in float32 whatever the type of the models.
        """
        ids, positions = self._place(tokens, slots, paths)
        hidden, start, said, states = self._slm.embed(ids), 0, [], []
        for layer in self._exits:
            hidden, start = self._slm.run(hidden, positions, self._slm_kv, start, layer), layer
            said.append(_said(self._slm.logits(hidden)))
            states.append(hidden)
        ids_by_exit, best, entropy = (torch.stack(each, 1) for each in zip(*said, strict=True))
        exit_token, runner_up = ids_by_exit.unbind(-1)
        judged = self._llm.logits(self._llm.run(self._llm.embed(ids), positions, self._llm_kv)).float()
        figures = {
            "exit_token": exit_token,
            "confidence": best[..., 0],
            "margin": best[..., 0] - best[..., 1],
            "entropy": entropy,
            "runner_up": runner_up,
            "llm_probability": judged.softmax(-1).gather(1, exit_token),
            "llm_token": judged.argmax(-1),
            "hidden": torch.stack(states, 1).float(),
        }
        return {name: values.cpu().numpy() for name, values in figures.items()}

    def _place(
        self, tokens: NDArray[np.int64], slots: NDArray[np.int64], paths: Sequence[NDArray[np.int64]]
    ) -> tuple[Tensor, Tensor]:
        """Tell both caches of the next forward's rows; return their tokens and positions."""
        lengths = np.array([len(path) for path in paths])
        padded = np.zeros((len(paths), lengths.max()), np.int64)
        for row, path in zip(padded, paths, strict=True):
            row[: len(path)] = path
        for cache in (self._slm_kv, self._llm_kv):
            cache.place(torch.from_numpy(slots), torch.from_numpy(padded), torch.from_numpy(lengths))
        return torch.from_numpy(tokens), torch.from_numpy(lengths - 1)


def _said(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two likeliest tokens of logits [rows, vocab] and their probabilities [rows, 2], and the entropy [rows], in float32."""
    log = logits.float().log_softmax(-1)
    best, ids = log.topk(2, -1)
    # What is impossible counts nothing, and 0 times minus infinity would be no number.
    return ids, best.exp(), -torch.linalg.vecdot(log.exp(), log.clamp(min=-1e4))


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
