"""Fixtures that several rooms share: tiny random models, saved as a user would bring them.

What does not live here: fixtures of one room (a conftest.py there).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from runtime.model.placement import Placement
from tests.support.graphs import akin_graphs, akin_models, akin_pair, tiny_graphs, tiny_models  # noqa: F401 - fixtures
from tests.support.placements import PLACEMENTS, named

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts a background job with Ctrl-C ignored
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the hub for a model; read when its library is first imported
# No test is about how long an example takes: a machine may be held up at any time. The same commit is tested by the same
# examples; `pytest --hypothesis-profile=explore` draws others.
hypothesis.settings.register_profile("synera", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile("synera")


_LONGEST = ("test_what_the_readme_says_can_be_done_in_its_order",)
"""Begun first, so that no worker waits at the end for another that has just begun one."""
_COMPILE = ("scripts", "agents", "contract", "perf", "synera_env")
"""Rooms that need the environment's compiled step, which takes most of a minute in a new checkout: of two workers one begins with
them, and the other finds it when it gets there."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> tuple[bool, bool]:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        return item.name not in _LONGEST, room not in _COMPILE

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def _logs_of_learners(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A learner that is told of no logger makes a folder for one; it is to be among those that pytest clears away."""
    os.environ["SB3_LOGDIR"] = str(tmp_path_factory.mktemp("learners"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """What a test or a command set is put back: threads that spin for a core which is not free slow down all that comes after."""
    yield
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", params=PLACEMENTS)
def placement(request: pytest.FixtureRequest) -> Placement:
    """Every device and type that values are tested on; CUDA is skipped where it is not there."""
    return named(request.param)


def save_tiny_llama(folder: Path, *, layers: int, seed: int, exit_layers: list[int] | None = None) -> Path:
    """Write a random Llama (hidden 32, 4 heads, 2 KV heads, context 256) with the bundled tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from traces.tasks.vocabulary import build_tokenizer

    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            # The initial weights would repeat the last token for ever; these make every next token depend on the prefix.
            weight.copy_(torch.randn(weight.shape, generator=noise) * (0.35 if weight.dim() > 1 else 0.5) + (weight.dim() == 1))
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    if exit_layers is not None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"exit_layers": exit_layers}))
    return folder


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLM of 3 layers."""
    return save_tiny_llama(tmp_path_factory.mktemp("pair") / "llm", layers=3, seed=1)


@pytest.fixture(scope="session")
def tiny_slm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SLM of 2 layers that can be left after each."""
    return save_tiny_llama(tmp_path_factory.mktemp("pair") / "slm", layers=2, seed=2, exit_layers=[1, 2])


@pytest.fixture(scope="session")
def tiny_deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLM of 5 layers, of which the later ones change little: its first layers often guess what it says."""
    from safetensors.torch import load_file, save_file

    folder = save_tiny_llama(tmp_path_factory.mktemp("deep") / "llm", layers=5, seed=4)
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")) and ".layers.0." not in name:
            weight *= 0.2
    save_file(weights, file, {"format": "pt"})
    return folder
