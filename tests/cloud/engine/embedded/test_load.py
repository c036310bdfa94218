"""What of a server's config reaches the embedded engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cloud.config import ServerConfig
from cloud.engine.base import Check
from cloud.engine.embedded.loading import load
from runtime.errors import CheckpointError


@pytest.fixture
def threads() -> Iterator[int]:
    """A number of threads that is not that of now, which comes back afterwards."""
    before = torch.get_num_threads()
    yield before + 1
    torch.set_num_threads(before)


def test_the_info_is_the_models(tiny_llm: Path) -> None:
    info = load(ServerConfig(model=tiny_llm)).info
    assert (info.engine, info.model, info.architecture) == ("torch", tiny_llm.name, "LlamaForCausalLM")
    assert (info.context_tokens, info.eos_ids, len(info.fingerprint)) == (256, (2,), 16)


def test_a_missing_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no model at {tmp_path}"):
        load(ServerConfig(model=tmp_path))


def test_threads_are_set(tiny_llm: Path, threads: int) -> None:
    load(ServerConfig(model=tiny_llm, threads=threads))
    assert torch.get_num_threads() == threads


def test_a_batch_keeps_to_the_token_budget(tiny_llm: Path) -> None:
    async def live() -> None:
        engine = load(ServerConfig(model=tiny_llm, token_budget=1))
        await engine.start()
        names = ("long", "a", "b")
        for name in names:
            await engine.open(name)
        # While the long one runs the others wait; they would share a forward if the budget let them.
        lengths = {"long": 200, "a": 2, "b": 2}
        checks = [engine.check(name, Check(0, [5] * lengths[name], [])) for name in names]
        for checked in await asyncio.gather(*checks):
            assert checked.compute_share_ms == checked.compute_ms
        await engine.stop()

    asyncio.run(live())
