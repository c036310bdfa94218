"""Attacks beside honest devices: a quiet load, the same load under each attack, and quiet again, against one verifier.

:func:`phases` is what the command calls. What does not live here: what the attacks do (_attacks.py), the honest load (_load.py)
and how figures are shown (_hostile_view.py).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloud.connections import raise_open_files
from runtime.answers import ModelInfo
from runtime.errors import SettingError
from runtime.wire import synera_pb2 as pb
from runtime.wire import synera_pb2_grpc
from runtime.wire.address import Address, is_loopback
from scripts._attacker import LONGEST_SECONDS, Attack, Force
from scripts._attacks import ATTACKS
from scripts._load import drive, process, received, scripts_for, served
from scripts._load_answers import FIRST_TOKEN, Source
from scripts._load_machine import listener, resident_bytes
from scripts._load_plan import Plan, Target
from scripts._load_result import LoadResult

QUIET, QUIET_AGAIN = "quiet", "quiet again"
_STARTS_SECONDS, _ENDS_SECONDS = 60.0, 90.0
"""How long an attacker's process may take to begin, and to end once it is told."""
_BESIDE_SECONDS = 120.0
"""Of an attack beyond the load's own time, which the load generator takes to start and to end."""
_NEWCOMER_SECONDS = 30.0


@dataclass(frozen=True)
class AttackJob:
    """What an attacker's process is to do."""

    address: str
    info: ModelInfo
    name: str
    force: Force
    seed: int


@dataclass(frozen=True)
class Attacked:
    """What an attack came to."""

    sent: int
    """Messages; of `connections` the connections."""
    ended: dict[str, int]
    """How those ended."""
    seconds: float
    """From its beginning to its end."""
    cpu_seconds: float
    """Of its process."""


@dataclass(frozen=True)
class Newcomer:
    """What a device finds that comes right after."""

    ms: float
    """From before it connects to its first verdict."""
    problem: str
    """Empty where health is SERVING and the verdict right, or at least one."""


@dataclass(frozen=True)
class Memory:
    """Resident memory of the verifier's process, bytes; None where nobody can tell."""

    before: int | None
    most: int | None
    """Seen about ten times a second."""
    after: int | None


@dataclass(frozen=True)
class Phase:
    """One load, and what went on beside it."""

    name: str
    """Of the attack; else :data:`QUIET` or :data:`QUIET_AGAIN`."""
    load: LoadResult
    """Of the honest devices."""
    attacked: Attacked | None
    newcomer: Newcomer
    memory: Memory


def check_local(target: Target) -> None:
    """Do nothing for a verifier of this machine.

    Raises:
        SettingError: an address is not loopback, or it is not spoken to in plaintext.
    """
    for address in target.addresses:
        if not is_loopback(Address.parse(address).host):
            raise SettingError(
                f"hostile attacks a verifier, so cloud={address} must be of this machine's loopback, such as 127.0.0.1:50051; "
                "run it where the verifier runs"
            )
    if target.tls_ca is not None:
        raise SettingError("hostile speaks plaintext alone; leave out --tls-ca, and attack a verifier without TLS")


def phases(target: Target, plan: Plan, names: Sequence[str], tick: Callable[[str, float], object]) -> Iterator[Phase]:
    """Drive a load again and again: quiet, under each attack, and quiet.

    Args:
        target: a verifier of this machine; of several addresses the first is attacked.
        plan: of the honest devices.
        names: of the attacks, keys of :data:`scripts._attacks.ATTACKS`.
        tick: called about ten times a second with the phase and its seconds that are over; what it raises ends all.

    Raises:
        SettingError: the verifier is not of this machine.
        SyneraError: as of :func:`scripts._load.drive`.
    """
    check_local(target)
    info = served(target)
    scripts = scripts_for(info, plan)
    pid = target.pid or listener(Address.parse(target.addresses[0]).port)
    for name in (QUIET, *names, QUIET_AGAIN):
        seen = [resident_bytes(pid)]

        def watch(seconds: float, name: str = name, seen: list[int | None] = seen) -> None:
            seen.append(resident_bytes(pid))
            tick(name, seconds)

        load, attacked = _beside(target, plan, name, info, watch)
        newcomer = ask_as_newcomer(target.addresses[0], info, None if scripts is None else scripts.answers)
        known = [each for each in seen if each is not None]
        yield Phase(name, load, attacked, newcomer, Memory(seen[0], max(known, default=None), resident_bytes(pid)))


def _beside(
    target: Target, plan: Plan, name: str, info: ModelInfo, watch: Callable[[float], object]
) -> tuple[LoadResult, Attacked | None]:
    """Drive a load, under an attack where the name is one's."""
    if name not in ATTACKS:
        return drive(target, plan, watch), None
    seconds = min(LONGEST_SECONDS, plan.warmup_seconds + plan.seconds + _BESIDE_SECONDS)
    force = Force(ATTACKS[name].connections, seconds=seconds)
    with ExitStack() as stack:
        job = AttackJob(target.addresses[0], info, name, force, plan.seed)
        pipe = stack.enter_context(process(attack_alone, job, f"attack {name}"))
        received(pipe, time.monotonic() + _STARTS_SECONDS)
        load = drive(target, plan, watch)
        pipe.send(None)
        return load, received(pipe, time.monotonic() + _ENDS_SECONDS)


def attack_alone(job: AttackJob, pipe: Connection) -> None:
    """Say that it begins, attack until told to stop or its owner is gone, hand back what it came to; the main function of a process.

    Args:
        job: what to do.
        pipe: it sends None, receives anything, and sends :class:`Attacked`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its owner's business
    raise_open_files()
    try:
        pipe.send(None)
        pipe.send(asyncio.run(_attack(job, pipe)))
    except BrokenPipeError:
        return  # its owner has gone


async def _attack(job: AttackJob, pipe: Connection) -> Attacked:
    attack = Attack(Address.parse(job.address), job.info, job.force, job.seed)
    asyncio.get_running_loop().add_reader(pipe.fileno(), attack.over.set)
    began = time.monotonic()
    try:
        await attack.run(ATTACKS[job.name].act)
    finally:
        asyncio.get_running_loop().remove_reader(pipe.fileno())
    return Attacked(attack.sent, dict(attack.ended), time.monotonic() - began, time.process_time())


def ask_as_newcomer(address: str, info: ModelInfo, source: Source) -> Newcomer:
    """Connect, ask for health, open a session, have a check answered, and close."""
    history, draft, right = _first_check(source, info)
    own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    began = time.monotonic()
    try:
        with grpc.insecure_channel(Address.parse(address).uri, options=own) as channel:
            stub: Any = synera_pb2_grpc.SyneraStub(channel)  # type: ignore[no-untyped-call,unused-ignore]
            opened = stub.Open(pb.OpenRequest(tokenizer_hash=info.tokenizer_hash), timeout=_NEWCOMER_SECONDS)
            request = pb.VerifyRequest(session_id=opened.session_id, seq=1, context=history, draft=draft)
            said = stub.Verify(request, timeout=_NEWCOMER_SECONDS)
            took = time.monotonic() - began
            stub.Close(pb.CloseRequest(session_id=opened.session_id), timeout=_NEWCOMER_SECONDS)
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_NEWCOMER_SECONDS)
    except grpc.RpcError as error:
        failed: Any = error
        return Newcomer(1e3 * (time.monotonic() - began), f"{failed.code().name}: {failed.details()}"[:200])
    problem = "" if health.status == health_pb2.HealthCheckResponse.SERVING else "health is not SERVING"
    if right is not None and (said.accepted != right[0] or right[1] not in (None, said.next_token)):
        problem = "a wrong verdict"
    return Newcomer(1e3 * took, problem)


def _first_check(source: Source, info: ModelInfo) -> tuple[Sequence[int], Sequence[int], tuple[int, int | None] | None]:
    """A history, a draft, and the verdict where it is known."""
    if source is None:
        return [min(FIRST_TOKEN, info.vocab - 1)] * 4, [], None
    first = source[0][0]
    return first.chunk.history, first.chunk.draft, (first.accepted, first.next_token)
