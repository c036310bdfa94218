"""A model run from one of its exits: batches say what single answers say, and a cut model is its own early exit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.traces.pair.test_train import TINY
from traces.pair import exits
from traces.pair import train as pair
from traces.pair.exits import Exit, exit_layers
from traces.tasks import vocabulary

PROMPTS = [[1, 40, 41, 3], [1, 50, 3], [1, 60, 61, 62, 63, 64, 3], [1, 70, 3]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was never trained, and says other things to other prompts."""
    torch.manual_seed(0)
    path, tokenizer = tmp_path_factory.mktemp("exits") / "slm", vocabulary.build_tokenizer()
    model = pair._build(TINY, tokenizer.get_vocab_size())
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.5)
    pair._export(model, tokenizer, path)
    return path


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "MAX_NEW_TOKENS", 9)
    monkeypatch.setattr(exits, "_ROWS", 3)


def test_answers_of_a_batch_are_those_of_single_prompts(folder: Path) -> None:
    model = Exit(folder)
    together = model.finish(PROMPTS, [[]] * 4)
    assert together == [model.finish([prompt], [[]])[0] for prompt in PROMPTS]
    assert len({tuple(answer) for answer in together}) > 1
    assert all(len(answer) == 9 or answer[-1] == model.eos for answer in together)
    assert all(model.eos not in answer[:-1] for answer in together)


def test_what_is_begun_is_gone_on_with_and_what_has_ended_is_left(folder: Path) -> None:
    model = Exit(folder)
    whole = model.finish(PROMPTS, [[]] * 4)
    assert model.finish(PROMPTS, [answer[:k] for k, answer in zip((0, 3, 5, 8), whole, strict=True)]) == whole
    other = [7 if whole[0][0] != 7 else 8]
    assert model.finish(PROMPTS[:1], [other])[0][:1] == other
    assert model.finish(PROMPTS[:2], [[9, model.eos], [model.eos]]) == [[9, model.eos], [model.eos]]
    assert model.finish([], []) == []


def test_an_answer_that_is_as_long_as_may_be_is_left_also_where_it_is_alone(folder: Path) -> None:
    model = Exit(folder)
    assert model.finish(PROMPTS[:2], [[7] * 9, [8] * 8])[0] == [7] * 9
    assert model.finish(PROMPTS[:1], [[7] * 9]) == [[7] * 9]


@pytest.mark.parametrize("layer", [1, 3])
def test_what_it_says_along_an_answer_is_what_the_exit_s_head_says(folder: Path, layer: int) -> None:
    answers = [[30, 31, 32], [33], [34, 35, 36, 37], [38, 39]]
    read = Exit(folder, layer).read(PROMPTS, answers)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for prompt, answer, said in zip(PROMPTS, answers, read, strict=True):
        with torch.inference_mode():
            out = model.model(torch.tensor([[*prompt, *answer]]), output_hidden_states=True)
            hidden = out.last_hidden_state if layer == 3 else model.model.norm(out.hidden_states[layer])
            wanted = model.lm_head(hidden)[0, len(prompt) - 1 : -1].softmax(-1)
        assert said.tokens.tolist() == wanted.argmax(-1).tolist()
        assert torch.allclose(said.confidence, wanted.max(-1).values, atol=1e-5)


def test_exits_and_what_they_cost(folder: Path) -> None:
    assert exit_layers(folder) == [1, 3]
    assert Exit(folder).relative_cost == Exit(folder, 3).relative_cost == 1.0
    assert 1 / 3 < Exit(folder, 1).relative_cost < 1.0
