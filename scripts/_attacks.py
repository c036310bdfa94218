"""Peers of a verifier that keep to no rules: each attack is a coroutine of one connection, and many of them run at a time.

They are for verifiers of one's own machine, bounded in time and count, and each has hurt an earlier verifier. What does not live
here: the bounds and how messages end (_attacker.py), attacks by chunks of hidden states (_chunk_attacks.py), the process, and the
honest devices beside it (_hostile.py).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import longest_request_bytes
from scripts._attacker import ANSWER_SECONDS, CANCELLED, Act, Attack, read, stub_of
from scripts._chunk_attacks import chunk_endless, chunk_garbage, chunk_mute, chunk_order, chunk_unread

OVERSIZE_BYTES = 4_000_000
"""Of a message; just below what gRPC takes where nobody said less."""
_UNREAD_STREAMS, _UNREAD_TOKENS = 48, 24
_LONG_TOKENS = 200
_METHODS = ("ModelInfo", "Open", "Verify", "Close", "Generate")
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # with empty settings


async def churn(attack: Attack, number: int) -> None:
    """Open, a long Verify, cancel it, Close, as fast as it goes.

    Cancelled work stayed queued when its session's place was free again: 600 rounds made an honest check take 48 s.
    """
    rng = attack.rng(number)
    async with attack.connected() as channel:
        stub = stub_of(channel)
        for _ in attack.rounds():
            if session_id := await attack.open(stub):
                context = attack.tokens(rng, attack.info.context_tokens * 3 // 4)
                asked = stub.Verify(pb.VerifyRequest(session_id=session_id, seq=1, context=context), timeout=ANSWER_SECONDS)
                await asyncio.sleep(0.002)  # so that it is sent
                attack.sent += 1
                attack.ended[CANCELLED if asked.cancel() else "OK"] += 1
                await attack.close(stub, session_id)


async def opens(attack: Attack, number: int) -> None:
    """Sessions that are never used.

    64 of them locked everybody out for as long as a lease, also after who had opened them was gone.
    """
    async with attack.connected() as channel:
        stub = stub_of(channel)
        for _ in attack.rounds():
            await attack.open(stub)


async def unread(attack: Attack, number: int) -> None:
    """Generate requests whose answers are not let out: this side's HTTP/2 window is shut.

    64 of them held every place for ever, as leases do not count for streams.
    """
    rng, shut = attack.rng(number), (("grpc.http2.lookahead_bytes", 5), ("grpc.http2.bdp_probe", 0))
    async with attack.connected(*shut) as channel:
        asked = [
            stub_of(channel).Generate(
                pb.GenerateRequest(prompt=attack.tokens(rng, 8), max_new_tokens=_UNREAD_TOKENS),
                timeout=attack.force.seconds + ANSWER_SECONDS,
            )
            for _ in range(min(_UNREAD_STREAMS, attack.force.rounds))
        ]
        await attack.rest()
        for each in asked:
            await attack.ask(asyncio.wait_for(read(each), ANSWER_SECONDS))


async def large(attack: Attack, number: int) -> None:
    """The largest messages that are taken, and larger ones, for sessions that are made up.

    Messages of 4 MB were read before anybody looked whose they were: honest checks took seconds, and memory grew to 5 GB.
    """
    legal = longest_request_bytes(attack.info.context_tokens, attack.info.max_draft_tokens) // 5 - 20
    async with attack.connected(("grpc.max_send_message_length", -1)) as channel:
        for round_ in attack.rounds():
            ids = [2**32 - 1] * (OVERSIZE_BYTES // 5 if round_ % 4 == 3 else legal)
            request = pb.VerifyRequest(session_id=secrets.token_hex(16), seq=1, context=ids)
            await attack.ask(stub_of(channel).Verify(request, timeout=ANSWER_SECONDS))


async def long(attack: Attack, number: int) -> None:
    """Checks of 200 tokens that keep nothing of what the cloud holds.

    From 32 connections they made honest checks wait for a second, as each counted as much as a short one.
    """
    rng, session_id, seq = attack.rng(number), "", 0
    length = min(_LONG_TOKENS, attack.info.context_tokens)
    async with attack.connected() as channel:
        stub = stub_of(channel)
        for _ in attack.rounds():
            if not session_id:
                session_id, seq = await attack.open(stub), 0
            seq += 1
            request = pb.VerifyRequest(session_id=session_id, seq=seq, context=attack.tokens(rng, length))
            if session_id and await attack.ask(stub.Verify(request, timeout=ANSWER_SECONDS)) is None:
                await attack.close(stub, session_id)
                session_id = ""
        if session_id:
            await attack.close(stub, session_id)


async def garbage(attack: Attack, number: int) -> None:
    """Random bytes, random messages, wrong numbers, sessions and tokens that there are not.

    A token beyond the model's rows failed the whole batch that it was in.
    """
    rng = attack.rng(number)
    async with attack.connected() as channel:
        stub, mine = stub_of(channel), ""
        for round_ in attack.rounds():
            if not round_ % 50:
                if mine:
                    await attack.close(stub, mine)
                mine = await attack.open(stub)
            method, data = _nonsense(attack, rng, mine)
            path = f"/{pb.DESCRIPTOR.services_by_name['Synera'].full_name}/{method}"
            if method == "Generate":
                await attack.ask(read(channel.unary_stream(path, bytes, bytes)(data, timeout=ANSWER_SECONDS)))
                continue
            answer = await attack.ask(channel.unary_unary(path, bytes, bytes)(data, timeout=ANSWER_SECONDS))
            if method == "Open" and answer is not None:  # random bytes, too, may be a message
                await attack.close(stub, pb.OpenResponse.FromString(answer).session_id)
        if mine:
            await attack.close(stub, mine)


def _nonsense(attack: Attack, rng: np.random.Generator, mine: str) -> tuple[str, bytes]:
    """Draw a method and what it is sent."""
    kind, info = int(rng.integers(7)), attack.info
    if kind == 0:
        return str(rng.choice(_METHODS)), rng.bytes(int(rng.integers(200)))
    numbers = [0, 1, 2, info.vocab - 1, info.vocab, info.context_tokens, 2**31, 2**32 - 1]
    tokens = rng.choice(numbers, int(rng.integers(1, 30))).tolist()
    session_id = str(rng.choice([mine, secrets.token_hex(16), "", "x" * 40, "\u202e\x1b[2J"]))
    if kind == 1:
        return "Open", pb.OpenRequest(tokenizer_hash=session_id, key=session_id).SerializeToString()
    if kind == 2:
        most = int(rng.choice([0, 1, 2**32 - 1]))
        # To decode what is asked for until the context is full would be honest work.
        request = pb.GenerateRequest(prompt=tokens if most < 2 else [*tokens, info.vocab], max_new_tokens=most)
        return "Generate", request.SerializeToString()
    if kind == 3 and session_id != mine:
        return "Close", pb.CloseRequest(session_id=session_id, key=session_id).SerializeToString()
    check = pb.VerifyRequest(session_id=session_id, seq=int(rng.choice(numbers)), prefix_length=int(rng.choice(numbers)))
    check.context.extend(tokens)
    check.draft.extend(rng.choice(numbers, int(rng.integers(0, 2 * info.max_draft_tokens))).tolist())
    if kind == 4:
        check.sampling.temperature, check.sampling.top_p = float(rng.choice([-1.0, np.nan, np.inf, 0.7])), 2.0
    return "Verify", check.SerializeToString()


async def connections(attack: Attack, number: int) -> None:
    """A connection that is idle: every other one says nothing at all. Where it is ended, another is made.

    1,100 of them took all the descriptors that the verifier had.
    """
    for _ in attack.rounds():
        attack.sent += 1
        try:
            reader, writer = await asyncio.open_connection(attack.address.host, attack.address.port)
        except OSError as error:
            attack.ended[f"not let in: {error.strerror or error}"] += 1
            await attack.rest(0.5)
            continue
        try:
            if number % 2:
                writer.write(_HELLO)
            reading = asyncio.ensure_future(_ended(reader))
            resting = asyncio.ensure_future(attack.rest())
            await asyncio.wait([reading, resting], return_when=asyncio.FIRST_COMPLETED)
            attack.ended["ended by the verifier" if reading.done() else "kept to the end"] += 1
            for each in (reading, resting):
                each.cancel()
            await attack.rest(0.1)
        finally:
            writer.close()


async def _ended(reader: asyncio.StreamReader) -> None:
    """Read until the other side ends a connection."""
    try:
        while await reader.read(4096):
            pass
    except ConnectionError:
        return


class Served(Enum):
    """What a verifier has of a model; one of the middle is asked for chunks of states alone, another for all else."""

    WHOLE = "a whole model"
    MIDDLE = "the middle of a split model"
    ANY = "any"


@dataclass(frozen=True)
class Kind:
    """An attack that there is."""

    act: Act
    connections: int
    """As many as it takes by default."""
    of: Served = Served.WHOLE
    """What is attacked."""

    @property
    def told(self) -> str:
        """What it does, in a line."""
        return (self.act.__doc__ or "").partition("\n")[0]


ATTACKS: Mapping[str, Kind] = {
    "churn": Kind(churn, 4),
    "opens": Kind(opens, 16, Served.ANY),
    "unread": Kind(unread, 4),
    "large": Kind(large, 4),
    "long": Kind(long, 32),
    "garbage": Kind(garbage, 4),
    "connections": Kind(connections, 1100, Served.ANY),
    "chunk-garbage": Kind(chunk_garbage, 4, Served.MIDDLE),
    "chunk-order": Kind(chunk_order, 4, Served.MIDDLE),
    "chunk-mute": Kind(chunk_mute, 32, Served.MIDDLE),
    "chunk-unread": Kind(chunk_unread, 4, Served.MIDDLE),
    "chunk-endless": Kind(chunk_endless, 8, Served.MIDDLE),
}
"""By the name that a user gives."""
