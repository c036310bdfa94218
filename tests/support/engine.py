"""Stand-ins for the cloud's tests: a forward whose choices are arithmetic and whose caches tell on misuse."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from cloud.engine.base import EngineInfo
from cloud.engine.embedded.engine import EmbeddedEngine
from cloud.engine.embedded.forward import Rows, Work
from cloud.engine.embedded.pace import Pace

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


def logits_after(prefix: Sequence[int]) -> torch.Tensor:
    """The fake LLM's logits [VOCAB] after a prefix; the largest is that of its choice."""
    logits = torch.arange(VOCAB) * 0.01 * (1 + len(prefix) % 3)
    logits[choice(prefix)] += 3.0
    return logits


class FakeCache:
    """The tokens that were run."""

    def __init__(self) -> None:
        self.tokens: list[int] = []


class FakeForward:
    """Runs nothing; can be held at a gate and made to fail."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.failures: list[BaseException] = []
        """Raised by the next forwards, one each."""
        self.short = 0
        """So many results the next forward lacks."""
        self.batches: list[list[int]] = []
        """Tokens of each work of each forward."""

    def new_cache(self) -> FakeCache:
        return FakeCache()

    def run(self, batch: Sequence[Work]) -> list[Rows]:
        self.entered.set()
        assert self.gate.wait(30)
        self.batches.append([len(work.tokens) for work in batch])
        assert len({id(work.cache) for work in batch}) == len(batch)
        if self.failures:
            batch[0].cache.tokens.append(-1)  # a failed forward may leave anything behind
            raise self.failures.pop(0)
        results = [self._one(work) for work in batch]
        short, self.short = self.short, 0
        return results[: len(results) - short]

    def _one(self, work: Work) -> Rows:
        cached = work.cache.tokens
        assert len(cached) >= work.position
        del cached[work.position :]
        choices, logits = [], []
        for token in work.tokens:
            cached.append(token)
            choices.append(choice(cached))
            logits.append(logits_after(cached))
        return Rows(choices[-work.wanted :], torch.stack(logits[-work.wanted :]))


def fake_engine(
    forward: FakeForward,
    *,
    context_tokens: int = 100,
    eos_ids: tuple[int, ...] = (),
    pace: Pace | None = None,
    pace_seed: int = 0,
) -> EmbeddedEngine:
    """The embedded engine over a fake forward."""
    info = EngineInfo("fake", "fake", "Fake", "0" * 16, VOCAB, context_tokens, eos_ids)
    return EmbeddedEngine(info, forward, token_budget=512, pace=pace, pace_seed=pace_seed)


def greedy(folder: Path, prompt: Sequence[int], count: int) -> list[int]:
    """What a model writes, by transformers, without cache."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder).eval()
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]
