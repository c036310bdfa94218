"""Attacks on a verifier of the middle of a split model: peers whose chunks of hidden states keep to no rules.

What does not live here: attacks on any verifier and their table (_attacks.py), their bounds and how messages end (_attacker.py).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np

from runtime.errors import SettingError
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import PRECISIONS, row_bytes
from scripts._attacker import ANSWER_SECONDS, Attack, read, stub_of

_PATH = f"/{pb.DESCRIPTOR.services_by_name['Synera'].full_name}/Forward"
_STREAMS, _ROWS, _CHUNKS = 64, 8, 12
_WRONG_NUMBERS = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45)


async def chunk_garbage(attack: Attack, number: int) -> None:
    """Chunks of no whole rows, of other types, of NaN and infinity, too long, beyond what is held, of sessions that are made up.

    Numbers that are not finite poisoned who had their blocks of keys and values next.
    """
    rng = attack.rng(number)
    async with attack.connected(("grpc.max_send_message_length", -1)) as channel:
        stub, mine, seq = stub_of(channel), "", 0
        for round_ in attack.rounds():
            if not round_ % 20:
                if mine:
                    await attack.close(stub, mine)
                mine, seq = await attack.open(stub), 0
            data = _nonsense(attack, rng, mine, seq + 1)
            stream = channel.stream_stream(_PATH, bytes, bytes)(_each([data]), timeout=ANSWER_SECONDS)
            await attack.ask(read(stream))
            seq += 1  # what is refused as wrong has its number, too
        if mine:
            await attack.close(stub, mine)


async def chunk_order(attack: Attack, number: int) -> None:
    """Repeats, gaps, and numbers out of order, over several streams of one session at a time.

    What is behind a chunk of which nothing came must not be taken for what was sent before it.
    """
    rng = attack.rng(number)
    async with attack.connected() as channel:
        stub = stub_of(channel)
        for _ in attack.rounds():
            session_id = await attack.open(stub)
            asks = [_chunk(attack, rng, session_id, seq, (seq - 1) * _ROWS, _ROWS) for seq in range(1, _CHUNKS + 1)]
            drawn = [rng.choice(len(asks), size=6).tolist() for _ in range(3)]
            orders = [list(range(len(asks))), *drawn]
            streams = [stub.Forward(_each([asks[i] for i in order]), timeout=ANSWER_SECONDS) for order in orders]
            await asyncio.gather(*(attack.ask(read(each)) for each in streams))
            await attack.close(stub, session_id)


async def chunk_mute(attack: Attack, number: int) -> None:
    """Streams that never send anything, as many as a connection takes; every other one first sends a chunk.

    They were kept for as long as their connection lived.
    """
    rng = attack.rng(number)
    async with attack.connected() as channel:
        stub = stub_of(channel)
        session_id, streams = await attack.open(stub), list[Any]()
        chunk = _chunk(attack, rng, session_id, 1, 0, 1)
        for i in range(min(_STREAMS, attack.force.rounds)):
            patience = attack.force.seconds + ANSWER_SECONDS
            streams.append(stub.Forward(_each([chunk] * (i % 2), attack.over), timeout=patience))
        ends = [asyncio.ensure_future(attack.ask(read(each))) for each in streams]
        await attack.rest()
        for each in streams:
            each.cancel()
        await asyncio.gather(*ends)
        await attack.close(stub, session_id)


async def chunk_unread(attack: Attack, number: int) -> None:
    """Chunks whose states are not let out: this side's HTTP/2 window is shut.

    The answers of all of them were kept, however long they were.
    """
    rng, shut = attack.rng(number), (("grpc.http2.lookahead_bytes", 5), ("grpc.http2.bdp_probe", 0))
    async with attack.connected() as opening, attack.connected(*shut) as channel:
        ids = [await attack.open(stub_of(opening)) for _ in range(min(_ROWS, attack.force.rounds))]
        rows = _most_rows(attack)
        asked = []
        for each in ids:
            chunks = [_chunk(attack, rng, each, seq, 0, rows) for seq in range(1, 9)]
            asked.append(stub_of(channel).Forward(_each(chunks), timeout=attack.force.seconds + ANSWER_SECONDS))
        await attack.rest()
        for each in asked:
            await attack.ask(asyncio.wait_for(read(each), ANSWER_SECONDS))
        for session_id in ids:
            await attack.close(stub_of(opening), session_id)


async def chunk_endless(attack: Attack, number: int) -> None:
    """Sessions that are filled to the end of the context and beyond, one after the other, and are not closed.

    Who holds keys and values has to yield them to who runs: a device whose are gone sends all of its states again.
    """
    rng, rows = attack.rng(number), _most_rows(attack)
    async with attack.connected() as channel:
        stub = stub_of(channel)
        for _ in attack.rounds():
            if session_id := await attack.open(stub):
                firsts = range(0, attack.info.context_tokens + rows, rows)
                chunks = [_chunk(attack, rng, session_id, seq, first, rows, 1) for seq, first in enumerate(firsts, 1)]
                await attack.ask(read(stub.Forward(_each(chunks), timeout=ANSWER_SECONDS)))


async def _each(messages: Sequence[Any], until: asyncio.Event | None = None) -> AsyncIterator[Any]:
    """Send these, and then nothing more, or nothing at all until something has happened."""
    for each in messages:
        yield each
    if until is not None:
        await until.wait()


def _hidden(attack: Attack) -> int:
    if attack.info.middle is None:
        raise SettingError("attacks by chunks are on a verifier of a split model: serve it with --split")
    return attack.info.middle.hidden


def _most_rows(attack: Attack) -> int:
    assert attack.info.middle is not None
    return max(1, min(attack.info.middle.max_rows, attack.info.context_tokens))


def _chunk(
    attack: Attack, rng: np.random.Generator, session_id: str, seq: int, prefix: int, rows: int, returned: int | None = None
) -> Any:
    """One that keeps to the rules, but for what its numbers say."""
    states = rng.standard_normal((rows, _hidden(attack)), np.float32).tobytes()
    wanted = rows if returned is None else returned
    return pb.ForwardRequest(session_id=session_id, seq=seq, prefix_length=prefix, states=states, returned=wanted)


def _nonsense(attack: Attack, rng: np.random.Generator, mine: str, seq: int) -> bytes:
    """Draw a message that is wrong in one way or another."""
    hidden, kind = _hidden(attack), int(rng.integers(8))
    if kind == 0:
        return rng.bytes(int(rng.integers(200)))
    message = _chunk(attack, rng, mine, seq, 0, _ROWS)
    if kind == 1:  # of another type than it says, or no whole rows
        message.precision = int(rng.integers(len(PRECISIONS)))
        message.states = rng.bytes(int(rng.integers(1, 4 * row_bytes(hidden, "fp32"))))
    elif kind == 2:
        wrong = np.full((_ROWS, hidden), rng.choice(_WRONG_NUMBERS), np.float32)
        message.states = wrong.tobytes()
    elif kind == 3:  # scales of any size
        rows = np.zeros((_ROWS, row_bytes(hidden, "int8")), np.uint8)
        rows[:, :4] = np.full((_ROWS, 1), rng.choice(_WRONG_NUMBERS), np.float32).view(np.uint8)
        rows[:, 4:] = 127
        message.precision, message.states = PRECISIONS.index("int8"), rows.tobytes()
    elif kind == 4:
        message.prefix_length = int(rng.choice([1, attack.info.context_tokens, 2**31, 2**32 - 1]))
    elif kind == 5:  # too long, or none
        count = int(rng.choice([0, _most_rows(attack) + 1]))
        message.states = bytes(count * row_bytes(hidden, "bf16"))
        message.precision = PRECISIONS.index("bf16")
    elif kind == 6:
        message.returned, message.seq = 2**32 - 1, int(rng.choice([0, seq, seq + 1, 2**32 - 1]))
    else:
        message.session_id = str(rng.choice([secrets.token_hex(16), "", "x" * 40, "\u202e\x1b[2J"]))
    return bytes(message.SerializeToString())
