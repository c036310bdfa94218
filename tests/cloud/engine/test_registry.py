"""What it takes to add an engine: a row, shown here with an engine that lives in this file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import pytest

from cloud.config import ServerConfig
from cloud.engine import registry
from cloud.engine.base import Check, Checked, Chunk, EngineInfo, EngineUsage, Iteration, Ran, Streamed
from cloud.engine.embedded.engine import EmbeddedEngine
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.errors import CloudRejectedError, CloudUnavailableError, SessionLostError
from runtime.model.tokenizer import tokenizer_hash
from runtime.sampling import Sampling
from runtime.wire import synera_pb2 as pb
from tests.test_imports import ROOT


class Parrot:
    """An engine that agrees with every draft and then repeats its first token; owns nothing but the ids of its sessions."""

    def __init__(self, model: str) -> None:
        self.info = EngineInfo("parrot", model, "Parrot", "0" * 16, 50, 100, ())
        self._sessions: set[str] = set()

    @property
    def pid(self) -> int:
        return os.getpid()

    @property
    def usage(self) -> EngineUsage:
        return EngineUsage(0, 0, 0, 0, 0)

    def watch(self, watcher: Callable[[Iteration], None]) -> None:
        pass

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self._sessions.clear()

    async def failed(self) -> CloudUnavailableError:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def open(self, session_id: str, account: str = "") -> None:
        self._sessions.add(session_id)

    async def check(self, session_id: str, check: Check) -> Checked:
        if session_id not in self._sessions:
            raise SessionLostError(f"no session {session_id!r}")
        count = len(check.draft)
        return Checked(count, check.draft[0], (0.0,) * count, 0.0, 0.0, 1.0, 1.0, count + 1, 1)

    async def forward(self, session_id: str, chunk: Chunk) -> Ran:
        raise CloudRejectedError("a parrot has no middle")

    async def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | None = None,
        account: str = "",
        log_probabilities: bool = False,
    ) -> AsyncGenerator[Streamed, None]:
        for _ in range(max_new_tokens):
            yield Streamed(prompt[0], 0.0, 1.0)

    async def close(self, session_id: str) -> None:
        self._sessions.discard(session_id)


def load(config: ServerConfig) -> Parrot:
    return Parrot(config.model.name)


def test_an_engine_is_added_by_a_row(tiny_llm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.LOADERS, "parrot", __name__)
    config = ServerConfig(model=tiny_llm, engine="parrot")
    with running_server(config) as port, CloudClient(f"127.0.0.1:{port}") as client:
        assert client.model_info().engine == "parrot"
        session_id = client.open(tokenizer_hash(tiny_llm)).session_id
        asked = pb.VerifyRequest(session_id=session_id, seq=1, context=[1, 2], draft=[7, 8])
        answer = client.verify(asked)
        assert (answer.accepted, answer.next_token) == (2, 7)
        assert [each.token for each in client.generate([9], 3)] == [9, 9, 9]
        client.close_session(session_id)
        with pytest.raises(SessionLostError):
            client.verify(pb.VerifyRequest(session_id=session_id, seq=2, prefix_length=5, draft=[7]))


def test_the_default_is_the_embedded_engine(tiny_llm: Path) -> None:
    assert isinstance(registry.load_engine(ServerConfig(model=tiny_llm)), EmbeddedEngine)


def test_to_name_an_engine_loads_none() -> None:
    code = "import sys; from pathlib import Path; from cloud.config import ServerConfig; ServerConfig(model=Path('x')); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
