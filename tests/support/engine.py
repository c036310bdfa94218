"""Stand-ins for the cloud's tests: an engine whose choices are arithmetic and whose caches tell on misuse."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from cloud.engine.base import EngineInfo, Work

VOCAB = 50


def choice(prefix: Sequence[int]) -> int:
    """The fake LLM's token after a prefix; depends on all of it."""
    value = 7
    for token in prefix:
        value = (value * 31 + token + 1) % 1009
    return value % VOCAB


def continuation(prompt: Sequence[int], count: int) -> list[int]:
    """What the fake LLM writes after a prompt."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(choice(tokens))
    return tokens[len(prompt) :]


class FakeCache:
    def __init__(self) -> None:
        self.tokens: list[int] = []

    def truncate(self, length: int) -> None:
        del self.tokens[length:]


class FakeEngine:
    """Runs nothing; can be held at a gate and made to fail."""

    def __init__(self, context_tokens: int = 100, eos_ids: tuple[int, ...] = ()) -> None:
        self.info = EngineInfo("fake", "fake", "Fake", "0" * 16, VOCAB, context_tokens, eos_ids)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.failures = 0
        self.batches: list[list[int]] = []

    def new_cache(self) -> FakeCache:
        return FakeCache()

    def forward(self, batch: Sequence[Work]) -> list[list[int]]:
        self.entered.set()
        assert self.gate.wait(30)
        self.batches.append([len(work.tokens) for work in batch])
        if self.failures:
            self.failures -= 1
            batch[0].cache.tokens.append(-1)  # a failed forward may leave anything behind
            raise RuntimeError("out of memory")
        return [self._one(work) for work in batch]

    def _one(self, work: Work) -> list[int]:
        cached = work.cache.tokens
        assert len(cached) == work.position
        choices = []
        for token in work.tokens:
            cached.append(token)
            choices.append(choice(cached))
        return choices[-work.wanted :]


def greedy(folder: Path, prompt: Sequence[int], count: int) -> list[int]:
    """What a model writes, by transformers, without cache."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder).eval()
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]
