from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from cloud.engine.embedded.forward import Rows, TorchForward, Work
from cloud.engine.embedded.kv_pool import blocks_for
from runtime.model.loading import load_decoder
from runtime.model.placement import Placement
from tests.support.engine import greedy
from tests.support.placements import assert_near
from traces import bundled


@pytest.fixture(scope="module")
def forward(tiny_llm: Path) -> TorchForward:
    return TorchForward(load_decoder(tiny_llm), 40)


class Sequences:
    """Gives each sequence blocks of its own, in an order of nobody's."""

    def __init__(self, forward: TorchForward) -> None:
        self._free = list(range(forward.blocks))
        random.Random(3).shuffle(self._free)

    def new(self, tokens: int = 64) -> list[int]:
        return [self._free.pop() for _ in range(blocks_for(tokens))]


def alone_and_together(forward: TorchForward, parts: list[tuple[list[int], int]]) -> tuple[list[Rows], list[Rows]]:
    sequences = Sequences(forward)
    alone = [forward.run([Work(sequences.new(len(tokens)), 0, tokens, wanted)])[0] for tokens, wanted in parts]
    return alone, forward.run([Work(sequences.new(len(tokens)), 0, tokens, wanted) for tokens, wanted in parts])


def test_greedy_equals_transformers(forward: TorchForward, tiny_llm: Path) -> None:
    prompt, answer, blocks, tokens = [1, 40, 41, 42], [], Sequences(forward).new(), [1, 40, 41, 42]
    for _ in range(20):
        [rows] = forward.run([Work(blocks, len(prompt) + len(answer) - len(tokens), tokens, 1)])
        answer += rows.choices
        tokens = rows.choices
    assert answer == greedy(tiny_llm, prompt, 20)


def test_a_ragged_batch_gives_what_each_would_alone(forward: TorchForward) -> None:
    parts = [([1, 5, 6], 1), ([1, 9], 2), ([1, 30, 31, 32, 33], 3), ([7] * 50, 2), ([8] * 40, 0)]
    alone, together = alone_and_together(forward, parts)
    assert [len(each.choices) for each in together] == [1, 2, 3, 2, 0]
    for one, each in zip(alone, together, strict=True):
        assert each.choices == one.choices
        torch.testing.assert_close(each.logits, one.logits)


def test_logits_are_those_of_transformers_and_choices_their_largest(forward: TorchForward, tiny_llm: Path) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_llm).eval()
    parts = [([1, 5, 6, 7], 2), ([1, 30, 31, 32, 33], 3)]
    for (tokens, wanted), rows in zip(parts, alone_and_together(forward, parts)[1], strict=True):
        with torch.inference_mode():
            expected = model(torch.tensor([tokens])).logits[0, -wanted:]
        torch.testing.assert_close(rows.logits, expected, atol=2e-5, rtol=1e-4)
        assert rows.choices == rows.logits.argmax(-1).tolist()


def test_rollback_forgets(forward: TorchForward) -> None:
    sequences = Sequences(forward)
    blocks = sequences.new()
    forward.run([Work(blocks, 0, [1, 5, 6, 7, 8], 1)])
    [again] = forward.run([Work(blocks, 2, [9, 10], 2)])
    [fresh] = forward.run([Work(sequences.new(), 0, [1, 5, 9, 10], 2)])
    assert again.choices == fresh.choices
    torch.testing.assert_close(again.logits, fresh.logits)


def test_a_prompt_read_in_chunks_is_the_prompt(forward: TorchForward) -> None:
    sequences, prompt = Sequences(forward), [(7 * i) % 50 for i in range(100)]
    blocks, start = sequences.new(100), 0
    [whole] = forward.run([Work(sequences.new(100), 0, prompt, 3)])
    for size in (1, 40, 16, 33):
        forward.run([Work(blocks, start, prompt[start : start + size], 0)])
        start += size
    [last] = forward.run([Work(blocks, start, prompt[start:], 3)])
    torch.testing.assert_close(last.logits, whole.logits, atol=2e-5, rtol=1e-4)


def test_sequences_may_share_their_first_blocks(forward: TorchForward) -> None:
    sequences, prompt = Sequences(forward), [(7 * i) % 50 for i in range(32)]
    shared = sequences.new(32)
    forward.run([Work(shared, 0, prompt, 0)])
    works = [Work([*shared, *sequences.new(8)], 32, [5, 6, i], 1) for i in range(4)]
    for i, rows in enumerate(forward.run(works)):
        [whole] = forward.run([Work(sequences.new(40), 0, [*prompt, 5, 6, i], 1)])
        torch.testing.assert_close(rows.logits, whole.logits, atol=2e-5, rtol=1e-4)


def test_a_ragged_batch_gives_what_each_would_alone_wherever_it_runs(placement: Placement) -> None:
    folder, parts = bundled.PAIR / "llm", [(list(range(5, 5 + n)), wanted) for n, wanted in ((3, 1), (17, 5), (60, 4))]
    placed, exact = TorchForward(load_decoder(folder, placement), 40), TorchForward(load_decoder(folder), 40)
    alone, together = alone_and_together(placed, parts)
    _, cpu = alone_and_together(exact, parts)
    for one, each, rows in zip(alone, together, cpu, strict=True):
        assert (each.logits.dtype, each.logits.device.type) == (placement.torch_dtype, placement.torch_device.type)
        assert_near(each.logits, one.logits, placement.dtype, float32_limit=1e-3)
        assert_near(each.logits, rows.logits, placement.dtype, float32_limit=1e-3)
        assert torch.equal(each.logits.float().cpu(), rows.logits) == (placement == Placement())
