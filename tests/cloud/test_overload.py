"""Peers that take more than their share, or take and do not read, against a real server; an honest one must get its answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloud.admission import Limits
from cloud.connections import Connections
from runtime.wire import ERROR_KIND_KEY, RETRY_AFTER_KEY
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import verify_response_bytes
from tests.support.attacked import PROMPT, World, refusal, run
from tests.support.engine import choice, continuation
from tests.support.http2 import Http2, has

LONG = [4] * 3000


# ---------------------------------------------------------------- work that nobody waits for


def test_rounds_of_open_check_cancel_and_close_leave_no_backlog(tiny_llm: Path) -> None:
    async def body(world: World) -> None:
        _, verdict = await world.held_up()
        attacker = world.device()
        for _ in range(60):
            session_id = await world.session(attacker)
            asked = attacker.Verify(pb.VerifyRequest(session_id=session_id, seq=1, context=LONG), timeout=30)
            await world.until(lambda: world.admission.held.requests == 2)
            asked.cancel()
            await attacker.Close(pb.CloseRequest(session_id=session_id), timeout=30)
        await world.until(lambda: world.admission.held.requests == 1)
        assert len(world.table) == 1
        world.forward.gate.set()
        assert (await verdict).next_token == choice(PROMPT)
        assert world.forward.batches == [[3]]

    run(tiny_llm, body)


def test_a_session_that_sends_many_checks_at_once_has_one_in_the_queue(tiny_llm: Path) -> None:
    async def body(world: World) -> None:
        _, verdict = await world.held_up()
        attacker = world.device()
        session_id = await world.session(attacker)
        requests = [pb.VerifyRequest(session_id=session_id, seq=seq, context=LONG) for seq in range(1, 101)]
        asked = [attacker.Verify(each, timeout=30) for each in requests]
        refused = [await refusal(each) for each in asked[1:]]
        kinds = {dict(each.trailing_metadata() or ()).get(ERROR_KIND_KEY) for each in refused}
        assert kinds <= {"CloudBusyError", "CloudRejectedError"}
        assert world.admission.held.requests == 2
        await attacker.Close(pb.CloseRequest(session_id=session_id), timeout=30)
        assert (await refusal(asked[0])).code() is grpc.StatusCode.NOT_FOUND
        world.forward.gate.set()
        await verdict
        assert world.forward.batches == [[3]]

    run(tiny_llm, body)


@pytest.mark.parametrize("how", ["deadline", "reset", "connection"])
def test_work_ends_with_the_deadline_the_call_or_the_connection_of_who_asked(tiny_llm: Path, how: str) -> None:
    async def body(world: World) -> None:
        _, verdict = await world.held_up()
        session_id = await world.session(world.device())
        request = pb.VerifyRequest(session_id=session_id, seq=1, context=LONG)
        with Http2(world.port) as raw:  # which never resets by itself, as a client would
            number = raw.call("Verify", request, timeout="300m" if how == "deadline" else None)
            stream = raw.call("Generate", pb.GenerateRequest(prompt=LONG, max_new_tokens=9), timeout="300m")
            await world.until(lambda: world.admission.held.requests == 3)
            if how == "reset":
                raw.reset(number)
                raw.reset(stream)
            if how != "connection":
                await world.until(lambda: world.admission.held.requests == 1)
        await world.until(lambda: world.admission.held.requests == 1)
        assert world.admission.held.streams == 0
        world.forward.gate.set()
        await verdict
        assert world.forward.batches == [[3]]

    run(tiny_llm, body)


def test_a_repeat_over_another_connection_keeps_the_work(tiny_llm: Path) -> None:
    async def body(world: World) -> None:
        device, verdict = await world.held_up()
        session_id = await world.session(device)
        request = pb.VerifyRequest(session_id=session_id, seq=1, context=[5, 6])
        first, repeat = device.Verify(request, timeout=30), world.device().Verify(request, timeout=30)
        work = world.table.get(session_id, "ipv4:127.0.0.1")

        def waiting() -> int:
            answer = work.asked[-1].answer if work.asked else None
            return answer.waiting if answer is not None else 0

        await world.until(lambda: waiting() == 2)
        first.cancel()
        await world.until(lambda: waiting() == 1)
        world.forward.gate.set()
        assert (await repeat).next_token == choice([5, 6])
        assert (await device.Verify(request, timeout=30)).next_token == choice([5, 6])
        await verdict
        assert world.forward.batches == [[3], [2]]

    run(tiny_llm, body)


# ---------------------------------------------------------------- the table


def test_who_fills_the_table_locks_nobody_out(tiny_llm: Path) -> None:
    """The clock stands still: no lease ends."""

    async def body(world: World) -> None:
        hog = world.device()
        hogged = [await world.session(hog) for _ in range(8)]
        assert (await refusal(hog.Open(world.opening(), timeout=30))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        device = world.device()
        mine = await world.session(device)
        lost = await refusal(hog.Verify(pb.VerifyRequest(session_id=hogged[0], seq=1, context=[1]), timeout=30))
        assert lost.code() is grpc.StatusCode.NOT_FOUND
        got = await device.Verify(pb.VerifyRequest(session_id=mine, seq=1, context=PROMPT), timeout=30)
        assert got.next_token == choice(PROMPT)
        assert len(world.table) == 8

    run(tiny_llm, body, max_sessions=8)


def test_opens_that_are_cancelled_fill_no_table(tiny_llm: Path) -> None:
    async def body(world: World) -> None:
        with Http2(world.port, window_bytes=0) as raw:  # so that no id gets out
            for _ in range(5):
                numbers = [raw.call("Open", world.opening()) for _ in range(40)]
                await world.until(lambda: len(world.table) == 40)
                for each in numbers:
                    raw.reset(each)
                await world.until(lambda: len(world.table) == 0)
            for _ in range(100):
                raw.reset(raw.call("Open", world.opening()))
            await world.is_well()  # behind all of them
            await world.until(lambda: len(world.table) == 0)

    # A call whose answer its peer never lets out counts among its connection's until that ends.
    run(tiny_llm, body, max_sessions=64, connections=Connections(streams=1000))


def test_an_open_that_is_not_read_ends(tiny_llm: Path) -> None:
    async def body(world: World) -> None:
        with Http2(world.port, window_bytes=0) as raw:
            number = raw.call("Open", world.opening())
            await world.until(lambda: len(world.table) == 1)
            await world.until(lambda: len(world.table) == 0)
            raw.read_on(number)
            _, headers = await asyncio.to_thread(raw.end_of, number)
            assert has(headers, "grpc-status", "8")
            assert has(headers, ERROR_KIND_KEY, "CloudBusyError")

    run(tiny_llm, body, limits=Limits(reader_seconds=0.2))


@pytest.mark.parametrize("method", ["Verify", "Close"])
def test_another_clients_session_is_as_unknown_as_none(tiny_llm: Path, method: str) -> None:
    async def body(world: World) -> None:
        device = world.device()
        session_id, answers = await world.session(device), []
        for asked in (session_id, "0" * 32):
            with Http2(world.port, address="127.0.0.2") as raw:
                request: Any = pb.CloseRequest(session_id=asked)
                if method == "Verify":
                    request = pb.VerifyRequest(session_id=asked, seq=1, context=[1])
                data, headers = await asyncio.to_thread(raw.end_of, raw.call(method, request))
                assert has(headers, "grpc-status", "5" if method == "Verify" else "0")
                answers.append((data, headers.replace(asked.encode(), b"")))
        assert answers[0] == answers[1]
        assert (await device.Verify(pb.VerifyRequest(session_id=session_id, seq=1, context=[1]))).next_token == choice([1])

    run(tiny_llm, body)


# ---------------------------------------------------------------- readers


async def _streams(world: World, raw: Http2, count: int, tokens: int) -> list[int]:
    request = pb.GenerateRequest(prompt=PROMPT, max_new_tokens=tokens)
    numbers = [raw.call("Generate", request) for _ in range(count)]
    await world.until(lambda: world.admission.held.streams == count)
    return numbers


def test_streams_that_nobody_reads_cost_the_engine_no_more_than_their_answer_and_end(tiny_llm: Path) -> None:
    async def body(world: World) -> None:
        with Http2(world.port, window_bytes=0) as raw:
            numbers = await _streams(world, raw, 8, 20)
            await world.until(lambda: not world.admission.held.requests)  # decoded, though nobody reads
            await world.is_well()
            await world.until(lambda: not world.admission.held)  # and gone, though nobody ever did
            raw.read_on(numbers[0])
            _, headers = await asyncio.to_thread(raw.end_of, numbers[0])
            assert has(headers, "grpc-status", "8")
            assert b"not read on for" in headers
            again = await _streams(world, raw, 8, 1000)
            await world.until(lambda: not world.admission.held)
            assert len(again) == 8

    run(tiny_llm, body, limits=Limits(reader_seconds=0.3, max_streams=16))


def test_streams_that_nobody_reads_lock_nobody_out(tiny_llm: Path) -> None:
    async def body(world: World) -> None:
        with Http2(world.port, window_bytes=0) as first, Http2(world.port, window_bytes=0) as second:
            for raw in (first, second):
                for _ in range(30):
                    raw.call("Generate", pb.GenerateRequest(prompt=PROMPT, max_new_tokens=5))
            await world.until(lambda: world.admission.held.streams >= 6 and not world.admission.held.requests)
            assert world.admission.held.streams < 9
            await world.is_well()
        await world.until(lambda: not world.admission.held)  # a connection that is gone takes them along

    run(tiny_llm, body, limits=Limits(max_streams=9))


def test_a_slow_reader_gets_all(tiny_llm: Path) -> None:
    async def body(world: World) -> None:
        with Http2(world.port, window_bytes=0) as raw:
            [number] = await _streams(world, raw, 1, 12)
            reading = asyncio.ensure_future(asyncio.to_thread(raw.end_of, number))
            while not reading.done():
                raw.read_on(number, 10)
                await asyncio.sleep(0.01)
            data, headers = await reading
        tokens, rest = [], data
        while rest:
            size = int.from_bytes(rest[1:5], "big")
            tokens.append(pb.GenerateResponse.FromString(rest[5 : 5 + size]).token)
            rest = rest[5 + size :]
        assert tokens == continuation(PROMPT, 12)
        assert has(headers, "grpc-status", "0")

    run(tiny_llm, body)


# ---------------------------------------------------------------- refusals


def test_a_refusal_says_when_to_come_back(tiny_llm: Path) -> None:
    async def body(world: World) -> None:
        device = world.device()
        ids = [await world.session(device) for _ in range(3)]
        for session_id in ids[:2]:
            asked = pb.VerifyRequest(session_id=session_id, seq=1, context=[1] * 60)
            got = await (call := device.Verify(asked, timeout=30))
            assert got.ByteSize() == verify_response_bytes(0, got.next_token, 60, 1)
            assert RETRY_AFTER_KEY not in dict(await call.trailing_metadata() or ())
        third = pb.VerifyRequest(session_id=ids[2], seq=1, context=[1])
        refused = await refusal(device.Verify(third, timeout=30))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        told = dict(refused.trailing_metadata() or ())
        assert (told[ERROR_KIND_KEY], told[RETRY_AFTER_KEY]) == ("CloudBusyError", "10000")  # 20 too many, by 2 a second
        elsewhere = world.device()
        request = pb.VerifyRequest(session_id=await world.session(elsewhere), seq=1, context=[1])
        assert (await elsewhere.Verify(request, timeout=30)).next_token == choice([1])

    run(tiny_llm, body, limits=Limits(account_tokens_per_second=2, account_burst_tokens=100))
