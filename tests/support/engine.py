"""Stand-ins for the cloud's tests: a forward whose choices are arithmetic and whose caches tell on misuse."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cloud.engine.base import EngineInfo, MiddleInfo
from cloud.engine.embedded.engine import EmbeddedEngine
from cloud.engine.embedded.forward import Rows, Work
from cloud.engine.embedded.middle import MiddleEngine
from runtime.model.paged_kv import BLOCK_TOKENS

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


class FakeForward:
    """Runs nothing; can be held at a gate and made to fail."""

    def __init__(self, blocks: int = 400) -> None:
        self.blocks = blocks
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.failures: list[BaseException] = []
        """Raised by the next forwards, one each."""
        self.short = 0
        """So many results the next forward lacks."""
        self.poisoned: set[int] = set()
        """Tokens that no forward can run."""
        self.batches: list[list[int]] = []
        """Tokens of each work of each forward that ran."""
        self._held: dict[tuple[int, int], Any] = {}  # token, or state, by block and place

    def run(self, batch: Sequence[Work[Any]]) -> list[Any]:
        self.entered.set()
        assert self.gate.wait(30)
        written = [{work.blocks[at // BLOCK_TOKENS] for at in _places(work)} for work in batch]
        assert sum(map(len, written)) == len(set().union(*written)), "two works write to one block"
        if self.failures or any(self._is_poisoned(work) for work in batch):
            for work in batch:  # a failed forward may leave anything behind
                self._write(work, [-1] * len(work.inputs))
            raise self.failures.pop(0) if self.failures else RuntimeError("poisoned")
        self.batches.append([len(work.inputs) for work in batch])
        results = [self._one(work) for work in batch]
        short, self.short = self.short, 0
        return results[: len(results) - short]

    def _is_poisoned(self, work: Work[Any]) -> bool:
        return bool(self.poisoned & set(work.inputs))

    def _write(self, work: Work[Any], inputs: Sequence[Any]) -> None:
        for at, each in zip(_places(work), inputs, strict=True):
            self._held[work.blocks[at // BLOCK_TOKENS], at % BLOCK_TOKENS] = each

    def _read(self, work: Work[Any]) -> list[Any]:
        """Take what goes in, and return all that is there of the sequence."""
        self._write(work, work.inputs)
        end = work.position + len(work.inputs)
        return [self._held[work.blocks[at // BLOCK_TOKENS], at % BLOCK_TOKENS] for at in range(end)]

    def _one(self, work: Work[Any]) -> Any:
        read = self._read(work)
        wanted = range(len(read) - work.wanted + 1, len(read) + 1)
        logits = [logits_after(read[:to]) for to in wanted]
        return Rows([choice(read[:to]) for to in wanted], torch.stack(logits) if logits else torch.empty(0, VOCAB))


HIDDEN = 4


def after_middle(states: torch.Tensor) -> torch.Tensor:
    """What the fake middle makes of the states [places, HIDDEN] of a sequence; each depends on all before it."""
    return (states * torch.arange(1, len(states) + 1)[:, None]).cumsum(0)


class FakeMiddle(FakeForward):
    """Likewise, of hidden states; whole numbers come out exactly."""

    def _is_poisoned(self, work: Work[Any]) -> bool:
        return bool(self.poisoned & set(work.inputs[:, 0].tolist()))

    def _one(self, work: Work[Any]) -> Any:
        made = after_middle(torch.stack(self._read(work)))
        return made[len(made) - work.wanted :]


def _places(work: Work[Any]) -> range:
    return range(work.position, work.position + len(work.inputs))


def fake_engine(
    forward: FakeForward,
    *,
    context_tokens: int = 100,
    eos_ids: tuple[int, ...] = (),
    **options: Any,
) -> EmbeddedEngine:
    """The embedded engine over a fake forward."""
    info = EngineInfo("fake", "fake", "Fake", "0" * 16, VOCAB, context_tokens, eos_ids)
    return EmbeddedEngine(info, forward, **options)


def fake_middle(forward: FakeMiddle, *, context_tokens: int = 100, max_rows: int = 40, **options: Any) -> MiddleEngine:
    """The embedded engine of a middle over a fake forward."""
    middle = MiddleInfo(first_layers=1, last_layers=0, hidden=HIDDEN, max_rows=max_rows)
    info = EngineInfo("fake", "fake", "Fake", "0" * 16, VOCAB, context_tokens, (), middle=middle)
    return MiddleEngine(info, forward, **options)


def greedy(folder: Path, prompt: Sequence[int], count: int) -> list[int]:
    """What a model writes, by transformers, without cache."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder).eval()
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]
