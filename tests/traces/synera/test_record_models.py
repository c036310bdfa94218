"""The pair that is recorded: what refuses to be loaded, and what the two say over a tree and by themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from runtime.errors import CheckpointError, TokenizerMismatchError
from runtime.model.placement import Placement
from tests.support.graphs import last_row, tiny_prompts
from traces.synera.record_models import Models, PairTree, greedy_tokens

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


def test_models_that_share_a_tokenizer_must_both_have_its_tokens(tiny_slm: Path, tiny_llm: Path, tmp_path: Path) -> None:
    """One whose embedding was not grown with its tokenizer."""
    for name, folder in (("slm", tiny_slm), ("llm", tiny_llm)):
        shutil.copytree(folder, tmp_path / name)
        tokenizer = Tokenizer.from_file(str(tmp_path / name / "tokenizer.json"))
        tokenizer.add_tokens(["extraordinary"])
        tokenizer.save(str(tmp_path / name / "tokenizer.json"))
    weights = load_file(tmp_path / "llm" / "model.safetensors")
    table = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat([table, table[:1]])
    save_file(weights, tmp_path / "llm" / "model.safetensors", metadata={"format": "pt"})
    path = tmp_path / "llm" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": len(table) + 1}))
    with pytest.raises(CheckpointError, match=rf"slm has {len(table)} and .*llm has {len(table) + 1}; both must have all"):
        Models.load(tmp_path / "slm", tmp_path / "llm")


def test_a_pair_is_told_by_its_fingerprints(akin_models: Models, akin_pair: Path, tiny_llm: Path) -> None:
    assert akin_models.is_pair(akin_pair / "slm", akin_pair / "llm")
    assert not akin_models.is_pair(akin_pair / "slm", tiny_llm)
    assert not akin_models.is_pair(akin_pair / "llm", akin_pair / "slm")
