"""An engine in a process of its own: it answers as the embedded one does, and what becomes of either process reaches the other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cloud.config import ServerConfig
from cloud.engine.base import Check, Iteration
from cloud.engine.process.remote import EngineProcess
from cloud.engine.registry import load_here
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.errors import CheckpointError, CloudUnavailableError, PlacementError, SessionLostError
from runtime.model.tokenizer import tokenizer_hash
from runtime.sampling import Sampling
from tests.support.embedded import failure
from tests.support.engine import greedy
from tests.support.process import ROOT

PROMPT = [1, 60, 61, 62, 63]
LONG = Check(0, [5] * 250, [])
Body = Callable[[EngineProcess], Awaitable[None]]


def config(model: Path) -> ServerConfig:
    return ServerConfig(model=model, threads=1, engine_process=True)


def run(model: Path, body: Body) -> None:
    """Serve while `body` runs; afterwards there is no process any more, and nothing went wrong unseen."""
    engine = EngineProcess(config(model))

    async def live() -> None:
        unseen: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
        await engine.start()
        try:
            await body(engine)
        finally:
            await engine.stop()
            await engine.stop()  # does nothing more
        assert await failure(engine.open("late"))
        assert not unseen

    asyncio.run(asyncio.wait_for(live(), 60))
    assert not is_there(engine)


def is_there(engine: EngineProcess) -> bool:
    try:
        os.kill(engine.pid, 0)
    except ProcessLookupError:
        return False
    return True


async def settled(engine: EngineProcess) -> None:
    """Wait until the engine tells that it holds nothing."""
    while engine.usage.used_blocks or engine.usage.waiting:
        await asyncio.sleep(0.01)


def test_it_answers_as_the_embedded_engine_does(tiny_llm: Path) -> None:
    """Checks, a sampled and a greedy stream, errors, cancellation, closing meanwhile, and what is told of it all."""
    seen: list[Iteration] = []

    async def body(engine: EngineProcess) -> None:
        engine.watch(seen.append)
        assert engine.info == load_here(ServerConfig(model=tiny_llm)).info
        await engine.open("a")
        with pytest.raises(ValueError, match="'a' is open already"):
            await engine.open("a")
        truth = greedy(tiny_llm, PROMPT, 6)
        checked = await engine.check("a", Check(0, PROMPT, [*truth[:2], truth[2] + 1]))
        assert (checked.accepted, checked.next_token, checked.processed_tokens) == (2, truth[2], len(PROMPT) + 3)
        with pytest.raises(SessionLostError, match="holds 8 tokens, not the 9"):
            await engine.check("a", Check(9, [], []))
        assert [each.token async for each in engine.stream(PROMPT, 6)] == truth
        sampling = Sampling(temperature=1.0, seed=3)
        assert [each.token async for each in engine.stream(PROMPT, 6, sampling)] == await drawn_here(tiny_llm, sampling)
        assert engine.usage.blocks > 0
        assert engine.usage.used_blocks > 0
        # A check that is cancelled is over when that is known here; the next one of its session finds what was held before.
        task = asyncio.create_task(engine.check("a", Check(8, [5] * 200, [])))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await engine.check("a", Check(8, [], []))).next_token == truth[3]
        # A stream that is left early, and a session that is closed while a check of it runs.
        stream = engine.stream(PROMPT, 100)
        assert (await anext(stream)).token == truth[0]
        await stream.aclose()
        await engine.open("b")
        running = asyncio.create_task(engine.check("b", LONG))
        await asyncio.sleep(0)
        await engine.close("b")
        with pytest.raises(SessionLostError, match="no session 'b'"):
            await running
        await engine.close("a")
        await engine.close("nobody")
        await settled(engine)

    run(tiny_llm, body)
    assert sum(each.decode_tokens for each in seen) >= 5
    assert all(each.seconds > 0 and each.requests > 0 for each in seen)


async def drawn_here(model: Path, sampling: Sampling) -> list[int]:
    """What the embedded engine draws in this process."""
    engine = load_here(ServerConfig(model=model))
    await engine.start()
    try:
        return [each.token async for each in engine.stream(PROMPT, 6, sampling)]
    finally:
        await engine.stop()


def test_a_killed_process_is_a_dead_engine_to_all_that_wait_and_come(tiny_llm: Path) -> None:
    async def body(engine: EngineProcess) -> None:
        await engine.open("a")
        waiting = [failure(engine.check("a", LONG)), failure(drained(engine))]
        tasks = [asyncio.create_task(each) for each in waiting]
        death = asyncio.create_task(engine.failed())
        await asyncio.sleep(0)
        os.kill(engine.pid, signal.SIGKILL)
        why = str(await death)
        assert why == "the engine's process ended by itself (killed by signal 9); restart the verifier, its log says more"
        assert [str(each) for each in await asyncio.gather(*tasks)] == [why, why]
        assert str(await failure(engine.open("b"))) == why
        await engine.close("a")  # nothing happens

    run(tiny_llm, body)


async def drained(engine: EngineProcess) -> None:
    async for _ in engine.stream(PROMPT, 200):
        pass


def test_it_ignores_the_signals_that_its_parent_is_stopped_by(tiny_llm: Path) -> None:
    """A terminal and a unit send them to all processes; answers in flight still go on then."""

    async def body(engine: EngineProcess) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            os.kill(engine.pid, each)
        await engine.open("a")
        assert (await engine.check("a", Check(0, PROMPT, []))).next_token == greedy(tiny_llm, PROMPT, 1)[0]

    run(tiny_llm, body)


def test_what_the_loader_says_is_raised_here_and_no_process_is_left(tmp_path: Path, tiny_llm: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no model at {tmp_path}"):
        EngineProcess(config(tmp_path))
    nowhere = ServerConfig(model=tiny_llm, device="cuda:63", engine_process=True)
    with pytest.raises(PlacementError, match="device='cuda:63'"):
        EngineProcess(nowhere)


def test_an_engine_that_was_never_started_can_be_stopped(tiny_llm: Path) -> None:
    engine = EngineProcess(config(tiny_llm))
    asyncio.run(engine.stop())
    assert not is_there(engine)


def test_it_ends_with_its_parent_however_that_ends(tiny_llm: Path) -> None:
    script = f"""
        from pathlib import Path
        from cloud.config import ServerConfig
        from cloud.engine.process.remote import EngineProcess
        engine = EngineProcess(ServerConfig(Path({str(tiny_llm)!r}), engine_process=True))
        print(engine.pid, flush=True)
        input()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        while os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            os.sched_yield()


def test_a_verifier_serves_with_it_and_says_when_it_died(tiny_llm: Path) -> None:
    with running_server(config(tiny_llm)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        assert [each.token for each in client.generate(PROMPT, 5)] == greedy(tiny_llm, PROMPT, 5)
        client.open(tokenizer_hash(tiny_llm))
        children = (Path("/proc") / "self" / "task").glob("*/children")
        [pid] = [int(pid) for each in children for pid in each.read_text().split() if is_worker(pid)]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(CloudUnavailableError, match="engine's process ended by itself"):
            opened_for_ever(client, tiny_llm)


def opened_for_ever(client: CloudClient, model: Path) -> None:
    while True:
        client.open(tokenizer_hash(model))


def is_worker(pid: str) -> bool:
    return b"cloud.engine.process.worker" in (Path("/proc") / pid / "cmdline").read_bytes()
