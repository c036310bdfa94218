"""The pair that is recorded: what refuses to be loaded, and what the two say over a tree and by themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import ContextOverflowError, TokenizerMismatchError
from runtime.model.placement import Placement
from tests.support.graphs import last_row, tiny_prompts
from traces.synera import record_models
from traces.synera.record_models import Models, PairTree, agreement, greedy_answers, greedy_tokens

LIMITS = {"float32": 1e-5, "bfloat16": 0.02, "float16": 0.004}
"""How far a probability may be off between a forward of many rows and one of a single sequence."""


@pytest.fixture(scope="module")
def models(akin_pair: Path, placement: Placement) -> Models:
    return Models.load(akin_pair / "slm", akin_pair / "llm", placement)


def test_models_that_read_other_tokens_are_refused(tiny_slm: Path, tiny_llm: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_llm, other)
    stated = json.loads((other / "tokenizer.json").read_text())
    vocabulary = stated["model"]["vocab"]
    one, two = list(vocabulary)[10:12]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(stated))
    with pytest.raises(TokenizerMismatchError, match=r"the tokenizers of .*slm.* and .*other.* differ") as error:
        Models.load(tiny_slm, other)
    assert Models.load(tiny_slm, tiny_llm).tokenizer_hash in str(error.value)


def test_both_models_are_placed(models: Models, placement: Placement) -> None:
    assert models.placement == placement
    for decoder in (models.slm, models.llm):
        assert (decoder.device.type, decoder.dtype) == (placement.torch_device.type, placement.torch_dtype)


def test_a_tree_says_what_single_sequences_say(models: Models) -> None:
    """Two branches under a shared prompt, then a child of the second; figures are float32 in every type."""
    tree, prompt = PairTree(models), models.tokenizer.encode(tiny_prompts()[0].text).ids
    limit, exits = LIMITS[models.placement.dtype], models.slm.config.exit_layers
    n = len(prompt)
    tree.run(np.array(prompt), np.arange(n), [np.arange(i + 1) for i in range(n)])
    for tails, own in (([[7], [9]], [[n], [n + 1]]), ([[9, 12]], [[n + 1, n + 2]])):
        paths = [np.array([*range(n), *slots]) for slots in own]
        figures = tree.run(np.array([tail[-1] for tail in tails]), np.array([slots[-1] for slots in own]), paths)
        for row, tail in enumerate(tails):
            judged = last_row(models.llm, [*prompt, *tail])
            for e, layer in enumerate(exits):
                said = last_row(models.slm, [*prompt, *tail], stop=layer)
                token = figures["exit_token"][row, e]
                assert said.max() - said[token] <= limit
                assert figures["confidence"][row, e] == pytest.approx(said.max(), abs=limit)
                assert figures["llm_probability"][row, e] == pytest.approx(judged[token], abs=limit)
            assert judged.max() - judged[figures["llm_token"][row]] <= limit
    hidden = figures["hidden"]
    assert hidden.shape == (1, len(exits), models.slm.config.hidden)
    assert {figures[name].dtype.name for name in ("confidence", "margin", "entropy", "hidden")} == {"float32"}


def test_greedy_tokens_end_at_the_limit_or_with_the_end_of_the_answer(models: Models) -> None:
    ended = set()
    for prompt in tiny_prompts():
        ids = models.tokenizer.encode(prompt.text).ids
        said = greedy_tokens(models.llm, ids, 12)
        assert greedy_tokens(models.llm, ids, 5) == said[:5]
        assert len(said) == 12 or said[-1] in models.llm.config.eos_ids
        assert not set(said[:-1]) & set(models.llm.config.eos_ids)
        ended.add(len(said) < 12)
    assert ended == {True, False}


def test_agreement_is_one_for_the_llm_s_own_answer_alone(akin_models: Models) -> None:
    prompts = [p.text for p in tiny_prompts()]
    score, wanted = agreement(akin_models, prompts, 6), greedy_answers(akin_models.llm, akin_models.tokenizer, prompts, 6)
    assert len(set(wanted.values())) > 1
    for prompt in prompts:
        assert [score(prompt, answer) for answer in (wanted[prompt], wanted[prompt] + " ", "")] == [1.0, 0.0, 0.0]
    with pytest.raises(KeyError):
        score("another prompt", "")


def test_prompts_are_held_to_the_context_before_the_first_is_answered(
    akin_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(record_models, "greedy_answers")
    prompts = [*(p.text for p in tiny_prompts()), "Bill " * 250]
    with pytest.raises(ContextOverflowError, match=r"the prompt 'Bill Bill .* has 252 tokens; .* takes 1 to 250"):
        agreement(akin_models, prompts, 6)


def test_a_pair_is_told_by_its_fingerprints(akin_models: Models, akin_pair: Path, tiny_llm: Path) -> None:
    assert akin_models.is_pair(akin_pair / "slm", akin_pair / "llm")
    assert not akin_models.is_pair(akin_pair / "slm", tiny_llm)
    assert not akin_models.is_pair(akin_pair / "llm", akin_pair / "slm")
