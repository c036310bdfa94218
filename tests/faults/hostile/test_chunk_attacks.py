"""The short form of every attack by chunks of hidden states: honest devices notice nothing but time, and nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from cloud.admission import Limits
from cloud.connections import Connections
from runtime.answers import read_model_info
from runtime.errors import SettingError
from runtime.wire import ERROR_KIND_KEY
from runtime.wire import synera_pb2 as pb
from runtime.wire.address import Address
from runtime.wire.sizes import row_bytes
from runtime.wire.statuses import STATUS
from runtime.wire.tensors import encoded
from scripts._attacker import CANCELLED, CUT_SHORT, Attack, Force
from scripts._attacks import ATTACKS, Served
from tests.support.attacked import World, run
from tests.support.attacked_middle import MAX_ROWS, MiddleWorld, SmallMiddleWorld, states_of
from tests.support.engine import HIDDEN, after_middle
from tests.support.http2 import Http2, has

CONTEXT = 256
ROOM = 16 * MAX_ROWS * row_bytes(HIDDEN, "fp32")
"""The least that there may be for answers."""
TYPED = {f"{status.name} {kind.__name__}" for kind, status in STATUS.items() if status.name not in ("INTERNAL", "UNAVAILABLE")}
"""Nothing of an attack may be the verifier's own fault."""


@dataclass(frozen=True)
class Short:
    """An attack as it is made here, and how its messages may end."""

    force: Force
    ends: set[str]
    """Beside the verifier's own errors; these must be seen."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the server."""
    world: type[MiddleWorld] = MiddleWorld


BUSY, REJECTED, LOST = "RESOURCE_EXHAUSTED CloudBusyError", "INVALID_ARGUMENT CloudRejectedError", "NOT_FOUND SessionLostError"
SHORT = {
    "chunk-garbage": Short(Force(4, 150), {"OK", REJECTED, LOST}),
    "chunk-order": Short(Force(4, 12), {"OK", REJECTED}),
    "chunk-mute": Short(Force(8, 40), {"OK", BUSY, CANCELLED}, {"limits": Limits(reader_seconds=1.0)}),
    "chunk-unread": Short(Force(3, 6), {"OK", BUSY}, {"limits": Limits(reader_seconds=0.5, max_answer_bytes=ROOM)}),
    "chunk-endless": Short(Force(4, 10), {"OK", REJECTED}, {}, SmallMiddleWorld),
}


async def attacked(world: World, force: Force) -> Attack:
    info = read_model_info(await world.device().ModelInfo(pb.ModelInfoRequest(), timeout=30))
    return Attack(Address("127.0.0.1", world.port), info, force)


@pytest.mark.parametrize("name", SHORT)
def test_honest_answers_are_whole_every_message_has_a_typed_end_and_nothing_is_left(tiny_llm: Path, name: str) -> None:
    short = SHORT[name]

    async def body(world: MiddleWorld) -> None:
        devices = [world.device() for _ in range(3)]
        for each in devices:
            await each.ModelInfo(pb.ModelInfoRequest(), timeout=30)  # connected before the attackers are
        attack, most = await attacked(world, short.force), 0
        attacking = asyncio.create_task(attack.run(ATTACKS[name].act))
        await world.until(lambda: attack.sent or world.admission.held)
        answering = [asyncio.create_task(world.answered(each, number)) for number, each in enumerate(devices)]
        while not all(each.done() for each in answering):
            most = max(most, world.room.bytes)
            await asyncio.sleep(0)
        for number, each in enumerate(answering):
            assert torch.equal(each.result(), after_middle(states_of(number, 60)))
        if name in ("chunk-mute", "chunk-unread"):
            await world.until(lambda: not world.admission.held)  # though nobody ever sent, or read
            attack.over.set()
        await attacking
        assert short.ends <= set(attack.ended) <= short.ends | TYPED | {CUT_SHORT}, attack.ended
        assert attack.sent == sum(attack.ended.values())
        assert most <= world.room.most_bytes
        world.seconds += 301.0  # leases are over
        await world.until(lambda: not world.admission.held and len(world.table) == 0)
        await world.until(lambda: world.engine.usage.used_blocks == world.engine.usage.waiting == 0)
        assert world.room.bytes == 0

    run(tiny_llm, body, world_of=short.world, context_tokens=CONTEXT, **short.options)


def test_every_attack_by_chunks_has_a_short_form() -> None:
    assert SHORT.keys() == {name for name, each in ATTACKS.items() if each.of is Served.MIDDLE}


def test_more_than_a_thousand_streams_are_refused_but_for_some_and_end(tiny_llm: Path) -> None:
    async def body(world: MiddleWorld) -> None:
        attack = await attacked(world, Force(20, 64))
        attacking = asyncio.create_task(attack.run(ATTACKS["chunk-mute"].act))
        await world.until(lambda: attack.ended[BUSY] >= 800)
        assert world.admission.held.streams <= 128
        device = world.device()
        assert torch.equal(await world.answered(device, 5), after_middle(states_of(5, 60)))
        attack.over.set()
        await attacking
        assert attack.sent == sum(attack.ended.values()) == 20 * (64 + 2)
        world.seconds += 301.0

    run(tiny_llm, body, world_of=MiddleWorld, context_tokens=CONTEXT, connections=Connections(most=200))


def test_another_clients_session_is_as_unknown_as_none_to_chunks(tiny_llm: Path) -> None:
    async def body(world: MiddleWorld) -> None:
        device = world.device()
        session_id, answers = await world.session(device), []
        for asked in (session_id, "0" * 32):
            request = pb.ForwardRequest(session_id=asked, seq=1, states=encoded(states_of(0, 3), "fp32"), returned=3)
            with Http2(world.port, address="127.0.0.2") as raw:
                data, headers = await asyncio.to_thread(raw.end_of, raw.call("Forward", request))
                assert has(headers, "grpc-status", "5")
                assert has(headers, ERROR_KIND_KEY, "SessionLostError")
                answers.append((data, headers.replace(asked.encode(), b"")))
        assert answers[0] == answers[1]
        await device.Close(pb.CloseRequest(session_id=session_id), timeout=30)

    run(tiny_llm, body, world_of=MiddleWorld, context_tokens=CONTEXT)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_numbers_of_one_device_poison_no_others_rows_of_a_batch(tiny_llm: Path, precision: str, wrong: float) -> None:
    """They wait for one forward together; see also the engine's own test, of what becomes infinite only inside."""

    async def body(world: MiddleWorld) -> None:
        honest, ill = world.device(), world.device()
        world.forward.gate.clear()
        blocker = asyncio.create_task(world.answered(world.device(), 7))
        assert await asyncio.to_thread(world.forward.entered.wait, 30)
        ill_id = await world.session(ill)
        data = encoded(states_of(9, 8), precision)
        bad = b"\x00\x00\x80\x7f" if precision != "bf16" else b"\x80\x7f"  # infinity, little-endian
        bad = bad if wrong == float("inf") else bad[:-1] + b"\xff"
        bad = bad if wrong == wrong else b"\xff" * len(bad)  # and what is no number
        request = pb.ForwardRequest(session_id=ill_id, seq=1, states=bad + data[len(bad) :], returned=8)
        request.precision = ("fp32", "bf16", "int8").index(precision)  # type: ignore[assignment]

        async def one() -> Any:
            yield request

        async def wronged() -> grpc.aio.AioRpcError:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = [each async for each in ill.Forward(one(), timeout=30)]
            return caught.value

        both = asyncio.gather(world.answered(honest, 3), wronged())
        await asyncio.sleep(0.05)
        world.forward.gate.set()
        got, error = await both
        assert torch.equal(got, after_middle(states_of(3, 60)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "not finite" in (error.details() or "")
        assert torch.equal(await blocker, after_middle(states_of(7, 60)))
        await ill.Close(pb.CloseRequest(session_id=ill_id), timeout=30)

    run(tiny_llm, body, world_of=MiddleWorld, context_tokens=CONTEXT)


def test_attacks_by_chunks_are_on_a_split_model(tiny_llm: Path) -> None:
    async def body(world: World) -> None:
        with pytest.raises(SettingError, match="serve it with --split"):
            await (await attacked(world, Force(1, 1))).run(ATTACKS["chunk-order"].act)
        world.seconds += 11.0

    run(tiny_llm, body, context_tokens=CONTEXT)
