from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cloud.engine.embedded.forward import TorchForward, Work
from runtime.model.loading import load_decoder
from runtime.model.placement import Placement
from tests.support.engine import greedy
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


def test_bfloat16_differs_by_its_steps_alone_however_the_batch_is_made() -> None:
    """Logits of the bundled LLM reach 26, where a step of bfloat16 is 0.125."""
    folder, parts = bundled.PAIR / "llm", [(list(range(5, 5 + n)), wanted) for n, wanted in ((3, 1), (17, 5), (60, 4))]
    half = TorchForward(load_decoder(folder, Placement(dtype="bfloat16")))
    full = TorchForward(load_decoder(folder))
    alone = [half.run([Work(half.new_cache(), 0, tokens, wanted)])[0] for tokens, wanted in parts]
    together = half.run([Work(half.new_cache(), 0, tokens, wanted) for tokens, wanted in parts])
    exact = full.run([Work(full.new_cache(), 0, tokens, wanted) for tokens, wanted in parts])
    for one, each, rows in zip(alone, together, exact, strict=True):
        assert each.logits.dtype == torch.bfloat16
        torch.testing.assert_close(each.logits, one.logits, atol=0.25, rtol=0)
        torch.testing.assert_close(each.logits.float(), rows.logits, atol=0.5, rtol=0)
        assert not torch.equal(each.logits.float(), rows.logits)  # it was not float32 after all
