"""The short form of every attack of `synera loadtest --hostile`: honest devices notice nothing but time, and nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloud.admission import Limits
from cloud.connections import Connections
from runtime.answers import read_model_info
from runtime.errors import SettingError
from runtime.wire import synera_pb2 as pb
from runtime.wire.address import Address
from runtime.wire.statuses import STATUS
from scripts._attacker import BY_ITSELF, CANCELLED, Attack, Force
from scripts._attacks import ATTACKS, Served
from tests.support.attacked import PROMPT, World, run
from tests.support.engine import continuation

CONTEXT = 256
ANSWER_TOKENS = 24
TYPED = {f"{status.name} {kind.__name__}" for kind, status in STATUS.items() if status.name not in ("INTERNAL", "UNAVAILABLE")}
"""Nothing of an attack may be the verifier's own fault."""


@dataclass(frozen=True)
class Short:
    """An attack as it is made here, and how its messages may end."""

    force: Force
    ends: set[str]
    """Beside the verifier's own errors; those that are no error must be seen."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the server."""


SHORT = {
    "churn": Short(Force(3, 30), {"OK", CANCELLED}),
    "opens": Short(Force(6, 40), {"OK"}, {"max_sessions": 12}),
    "unread": Short(Force(2, 20), set(), {"limits": Limits(reader_seconds=0.3, max_streams=12)}),
    "large": Short(Force(3, 8), {f"RESOURCE_EXHAUSTED {BY_ITSELF}"}),
    "long": Short(Force(32, 4), {"OK"}),
    "garbage": Short(Force(4, 200), {"OK"}),
    "connections": Short(
        Force(80, 2),
        {"ended by the verifier", "kept to the end"},
        {"connections": Connections(most=40, handshake_seconds=0.3)},
    ),
}


async def answered(world: World, device: Any, number: int) -> list[int]:
    """An honest device's answer, check after check; nothing of it may fail."""
    tokens = [*PROMPT, number]
    session_id, held = await world.session(device), 0
    for seq in range(1, ANSWER_TOKENS + 1):
        request = pb.VerifyRequest(session_id=session_id, seq=seq, prefix_length=held, context=tokens[held:])
        held = len(tokens)
        tokens.append((await device.Verify(request, timeout=30)).next_token)
    await device.Close(pb.CloseRequest(session_id=session_id), timeout=30)
    return tokens[len(PROMPT) + 1 :]


async def attacked(world: World, force: Force) -> Attack:
    info = read_model_info(await world.device().ModelInfo(pb.ModelInfoRequest(), timeout=30))
    return Attack(Address("127.0.0.1", world.port), info, force)


@pytest.mark.parametrize("name", SHORT)
def test_honest_answers_are_whole_every_message_has_a_typed_end_and_nothing_is_left(tiny_llm: Path, name: str) -> None:
    short = SHORT[name]

    async def body(world: World) -> None:
        devices = [world.device() for _ in range(3)]
        for each in devices:
            await each.ModelInfo(pb.ModelInfoRequest(), timeout=30)  # connected before the attackers are
        attack = await attacked(world, short.force)
        attacking = asyncio.create_task(attack.run(ATTACKS[name].act))
        await world.until(lambda: attack.sent or world.admission.held)
        answers = await asyncio.gather(*(answered(world, each, number) for number, each in enumerate(devices)))
        assert answers == [continuation([*PROMPT, number], ANSWER_TOKENS) for number in range(3)]
        await _to_its_end(world, name, attack, attacking)
        assert short.ends <= set(attack.ended) <= short.ends | TYPED, attack.ended
        assert attack.sent == sum(attack.ended.values())
        world.seconds += 11.0  # sessions that were opened and never used are over
        await world.until(lambda: not world.admission.held and len(world.table) == 0)
        await world.until(lambda: world.engine.usage.used_blocks == world.engine.usage.waiting == 0)

    run(tiny_llm, body, context_tokens=CONTEXT, **short.options)


async def _to_its_end(world: World, name: str, attack: Attack, attacking: asyncio.Task[None]) -> None:
    """Let an attack have its effect; those that only rest are told to stop after that."""
    if name == "unread":
        await world.until(lambda: not world.admission.held)  # though nobody ever read
    if name == "connections":
        await world.until(lambda: attack.ended["ended by the verifier"] >= attack.force.connections)
    if name in ("unread", "connections"):
        attack.over.set()
    await attacking


def test_every_attack_has_a_short_form_and_says_what_it_does() -> None:
    """Those by chunks: test_chunk_attacks.py."""
    assert SHORT.keys() == {name for name, each in ATTACKS.items() if each.of is not Served.MIDDLE}
    assert all(each.told.endswith(".") for each in ATTACKS.values())


def test_sessions_that_are_never_used_make_room_for_honest_ones(tiny_llm: Path) -> None:
    """The clock stands still: no lease ends."""

    async def body(world: World) -> None:
        attack = await attacked(world, Force(4, 10))
        await attack.run(ATTACKS["opens"].act)
        assert len(world.table) == 8
        assert await answered(world, world.device(), 0) == continuation([*PROMPT, 0], ANSWER_TOKENS)
        world.seconds += 11.0
        assert len(world.table) == 0

    run(tiny_llm, body, context_tokens=CONTEXT, max_sessions=8)


def test_streams_that_are_not_read_are_refused_or_ended_with_the_reason(tiny_llm: Path) -> None:
    async def body(world: World) -> None:
        attack = await attacked(world, Force(3, 10))
        attacking = asyncio.create_task(attack.run(ATTACKS["unread"].act))
        await world.until(lambda: world.admission.held.streams > 5)
        assert world.admission.held.streams < 12, "some are kept for others"
        await world.until(lambda: not world.admission.held)
        attack.over.set()
        await attacking
        assert attack.ended == {"RESOURCE_EXHAUSTED CloudBusyError": 30}

    run(tiny_llm, body, context_tokens=CONTEXT, limits=Limits(reader_seconds=0.5, max_streams=12))


@pytest.mark.parametrize("force", [Force(2, seconds=0.2), Force(2)])
def test_an_attack_ends_with_its_time_and_when_it_is_told(tiny_llm: Path, force: Force) -> None:
    async def body(world: World) -> None:
        attack = await attacked(world, force)
        attacking = asyncio.create_task(attack.run(ATTACKS["garbage"].act))
        if force.seconds > 1:
            await world.until(lambda: attack.sent > 20)
            attack.over.set()
        await attacking
        assert 0 < attack.sent < force.connections * force.rounds

    run(tiny_llm, body, context_tokens=CONTEXT)


@pytest.mark.parametrize("wrong", [{"connections": 0}, {"connections": 5000}, {"rounds": 20_001}, {"seconds": float("inf")}])
def test_an_attack_without_bounds_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        Force(**{"connections": 1} | wrong)
