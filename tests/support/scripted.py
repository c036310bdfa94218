"""An engine that runs nothing: what it holds, its forwards and what each piece of work cost are what a test says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from prometheus_client.parser import text_string_to_metric_families

from cloud.engine.base import Check, Checked, Chunk, EngineInfo, EngineUsage, Iteration, Ran, Streamed
from runtime.errors import CloudUnavailableError
from runtime.sampling import Sampling


class ScriptedEngine:
    """Implements the seam. Half of each draft stands; a check takes 4 ms after 2 ms of waiting, of which 3 ms are charged."""

    def __init__(self) -> None:
        self.info = EngineInfo("scripted", "small", "Scripted", "0" * 16, 50, 100, ())
        self.pid = os.getpid()
        self.usage = EngineUsage(0, 0, 0, 0, 0)
        self.watchers: list[Callable[[Iteration], None]] = []
        self.calls: list[tuple[object, ...]] = []
        self.death: asyncio.Future[CloudUnavailableError]

    def watch(self, watcher: Callable[[Iteration], None]) -> None:
        self.watchers.append(watcher)

    def iterate(self, forward: Iteration) -> None:
        for each in self.watchers:
            each(forward)

    async def start(self) -> None:
        self.death = asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        self.calls.append(("stop",))

    async def failed(self) -> CloudUnavailableError:
        return await asyncio.shield(self.death)

    async def open(self, session_id: str, account: str = "") -> None:
        self.calls.append(("open", session_id, account))

    async def check(self, session_id: str, check: Check) -> Checked:
        half = len(check.draft) // 2
        return Checked(half, 7, (), -0.5, 2.0, 4.0, 3.0, len(check.context) + len(check.draft), 1)

    async def forward(self, session_id: str, chunk: Chunk) -> Ran:
        return Ran(chunk.states[: chunk.returned * len(chunk.states) // chunk.rows], 2.0, 4.0, 3.0, chunk.rows, 1)

    async def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | None = None,
        account: str = "",
        log_probabilities: bool = False,
    ) -> AsyncGenerator[Streamed, None]:
        for number in range(max_new_tokens):
            yield Streamed(7, 1.0, 4.0, 2.0, len(prompt) if number == 0 else 1)

    async def close(self, session_id: str) -> None:
        self.calls.append(("close", session_id))


Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(text: str) -> dict[Sample, float]:
    """The values of an exposition, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(name: str, **labels: str) -> Sample:
    """The key of a sample."""
    return name, frozenset(labels.items())


def fetch(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and body of an HTTP request."""
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(Request(f"http://127.0.0.1:{port}{path}", method=method), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()
