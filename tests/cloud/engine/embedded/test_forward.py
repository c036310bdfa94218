from __future__ import annotations

from pathlib import Path

import pytest

from cloud.engine.base import Work
from cloud.engine.embedded.engine import TorchEngine
from tests.support.engine import greedy


@pytest.fixture(scope="module")
def engine(tiny_llm: Path) -> TorchEngine:
    return TorchEngine.load(tiny_llm)


def test_info_is_the_models(engine: TorchEngine, tiny_llm: Path) -> None:
    info = engine.info
    assert (info.engine, info.model, info.architecture) == ("torch", tiny_llm.name, "LlamaForCausalLM")
    assert (info.context_tokens, info.eos_ids, len(info.fingerprint)) == (256, (2,), 16)


def test_greedy_equals_transformers(engine: TorchEngine, tiny_llm: Path) -> None:
    prompt, answer, cache, tokens = [1, 40, 41, 42], [], engine.new_cache(), [1, 40, 41, 42]
    for _ in range(20):
        [[token]] = engine.forward([Work(cache, len(prompt) + len(answer) - len(tokens), tokens, 1)])
        answer.append(token)
        tokens = [token]
    assert answer == greedy(tiny_llm, prompt, 20)


def test_a_ragged_batch_gives_what_each_would_alone(engine: TorchEngine) -> None:
    parts = [([1, 5, 6], 1), ([1, 9], 2), ([1, 30, 31, 32, 33], 3)]
    alone = [engine.forward([Work(engine.new_cache(), 0, tokens, wanted)])[0] for tokens, wanted in parts]
    together = engine.forward([Work(engine.new_cache(), 0, tokens, wanted) for tokens, wanted in parts])
    assert together == alone
    assert [len(each) for each in together] == [1, 2, 3]


def test_rollback_forgets(engine: TorchEngine) -> None:
    cache = engine.new_cache()
    engine.forward([Work(cache, 0, [1, 5, 6, 7, 8], 1)])
    cache.truncate(2)
    [choices] = engine.forward([Work(cache, 2, [9, 10], 2)])
    [fresh] = engine.forward([Work(engine.new_cache(), 0, [1, 5, 9, 10], 2)])
    assert choices == fresh
