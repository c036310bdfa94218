from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cloud.engine.embedded.forward import TorchForward, Work
from runtime.model.loading import load_decoder
from runtime.model.placement import Placement
from tests.support.engine import greedy
from tests.support.placements import assert_near
from traces import bundled


@pytest.fixture(scope="module")
def forward(tiny_llm: Path) -> TorchForward:
    return TorchForward(load_decoder(tiny_llm))


def test_greedy_equals_transformers(forward: TorchForward, tiny_llm: Path) -> None:
    prompt, answer, cache, tokens = [1, 40, 41, 42], [], forward.new_cache(), [1, 40, 41, 42]
    for _ in range(20):
        [rows] = forward.run([Work(cache, len(prompt) + len(answer) - len(tokens), tokens, 1)])
        answer += rows.choices
        tokens = rows.choices
    assert answer == greedy(tiny_llm, prompt, 20)


def test_a_ragged_batch_gives_what_each_would_alone(forward: TorchForward) -> None:
    parts = [([1, 5, 6], 1), ([1, 9], 2), ([1, 30, 31, 32, 33], 3)]
    alone = [forward.run([Work(forward.new_cache(), 0, tokens, wanted)])[0] for tokens, wanted in parts]
    together = forward.run([Work(forward.new_cache(), 0, tokens, wanted) for tokens, wanted in parts])
    assert [len(each.choices) for each in together] == [1, 2, 3]
    for one, each in zip(alone, together, strict=True):
        assert each.choices == one.choices
        torch.testing.assert_close(each.logits, one.logits)


def test_logits_are_those_of_transformers_and_choices_their_largest(forward: TorchForward, tiny_llm: Path) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_llm).eval()
    parts = [([1, 5, 6, 7], 2), ([1, 30, 31, 32, 33], 3)]
    for (tokens, wanted), rows in zip(parts, forward.run([Work(forward.new_cache(), 0, t, w) for t, w in parts]), strict=True):
        with torch.inference_mode():
            expected = model(torch.tensor([tokens])).logits[0, -wanted:]
        torch.testing.assert_close(rows.logits, expected, atol=2e-5, rtol=1e-4)
        assert rows.choices == rows.logits.argmax(-1).tolist()


def test_rollback_forgets(forward: TorchForward) -> None:
    cache = forward.new_cache()
    forward.run([Work(cache, 0, [1, 5, 6, 7, 8], 1)])
    [again] = forward.run([Work(cache, 2, [9, 10], 2)])
    [fresh] = forward.run([Work(forward.new_cache(), 0, [1, 5, 9, 10], 2)])
    assert again.choices == fresh.choices
    torch.testing.assert_close(again.logits, fresh.logits)


def test_a_ragged_batch_gives_what_each_would_alone_wherever_it_runs(placement: Placement) -> None:
    folder, parts = bundled.PAIR / "llm", [(list(range(5, 5 + n)), wanted) for n, wanted in ((3, 1), (17, 5), (60, 4))]
    placed, exact = TorchForward(load_decoder(folder, placement)), TorchForward(load_decoder(folder))
    alone = [placed.run([Work(placed.new_cache(), 0, tokens, wanted)])[0] for tokens, wanted in parts]
    together = placed.run([Work(placed.new_cache(), 0, tokens, wanted) for tokens, wanted in parts])
    cpu = exact.run([Work(exact.new_cache(), 0, tokens, wanted) for tokens, wanted in parts])
    for one, each, rows in zip(alone, together, cpu, strict=True):
        assert (each.logits.dtype, each.logits.device.type) == (placement.torch_dtype, placement.torch_device.type)
        assert_near(each.logits, one.logits, placement.dtype, float32_limit=1e-3)
        assert_near(each.logits, rows.logits, placement.dtype, float32_limit=1e-3)
        assert torch.equal(each.logits.float().cpu(), rows.logits) == (placement == Placement())
