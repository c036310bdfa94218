"""Answers while their cloud is killed, stopped, restarted or cut off at random moments: what is left of them, and what leaks.

A real verifier process behind a TCP address that can be cut; the device offloads every chunk. Each answer is held token by token
against both models: a token that was lost or doubled anywhere would change what either says next.
"""

from __future__ import annotations

import os
import random
import signal
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import torch

from runtime.client import CloudClient
from runtime.deadline import LEAST_SECONDS
from runtime.device import Connection, Device, LiveSession
from runtime.errors import CloudBusyError, CloudError
from runtime.hat.device import HatDevice
from runtime.model.decoder import Decoder
from runtime.model.loading import load_decoder
from scripts.benchmarks._faulty import Cable, Cloud, cable, verifier
from scripts.benchmarks.harness import Figure, Setting
from synera_env.synera.live import load_device
from synera_env.synera.schema import ALWAYS
from traces.tasks import tinyworld

KINDS = ("stop", "cut", "silence", "kill", "restart")
"""SIGSTOP and SIGCONT; all connections reset; nothing gets through; kill -9, or SIGTERM, and a start on the same port."""
_SEED = 0
MAX_SESSIONS = 8
"""Of the verifier: all of them must be free after each fault."""
_LONGEST_FAULT_SECONDS = 3.0  # of a stop or a silence
_STALL_SECONDS = 0.3  # a wait that a user notices
_PATIENCE_SECONDS = 60.0  # for the cloud to come back
_MAX_NEW_TOKENS = 48


def measure(setting: Setting) -> list[Figure]:
    """Measure every figure of the area; the repetitions are the answers that meet a fault.

    Raises:
        CheckpointError: the pair cannot be used.
    """
    torch.set_num_threads(setting.threads)
    found = soak(setting.pair, list(islice(cycle(KINDS), setting.repetitions)), setting.threads)
    return found.figures()


@dataclass
class Found:
    """What was counted."""

    faults: int = 0
    answers: int = 0
    complete: int = 0
    checks: int = 0
    lost_checks: int = 0
    tokens: int = 0
    wrong_tokens: int = 0
    """That are not what the models say after the tokens before them."""
    undisturbed: int = 0
    """Answers that lost no check."""
    equal: int = 0
    """Those of them that are the LLM's own."""
    recovered: int = 0
    """Faults after which there was one."""
    longest_wait: dict[str, float] = field(default_factory=dict)
    """Seconds that a check kept the device waiting, by kind of fault."""
    most_stalls: dict[str, int] = field(default_factory=dict)
    """Lost checks of one fault that kept it waiting noticeably; all others must be lost at once."""
    sessions_left: int = 0
    threads_left: int = 0
    sockets_left: int = 0

    def figures(self) -> list[Figure]:
        """The same as figures."""
        said = f"{self.faults} faults, {self.answers} answers, {self.lost_checks} of {self.checks} checks lost"

        def share(name: str, part: int, whole: int, what: str) -> Figure:
            return Figure(name, 100.0 * part / max(1, whole), "%", 100.0, "higher", f"{part} of {whole} {what}")

        def count(name: str, value: int, what: str) -> Figure:
            return Figure(name, float(value), "", 0.0, "lower", what)

        deadline = f"until the cloud is back; the deadline is {LEAST_SECONDS:g} s"
        return [
            share("answers complete", self.complete, self.answers, f"answers; {said}"),
            count("tokens lost, doubled or wrong", self.wrong_tokens, f"of {self.tokens}, held against both models"),
            share("undisturbed answers that are the LLM's own", self.equal, self.undisturbed, "answers without a lost check"),
            share("faults recovered from", self.recovered, self.faults, "faults"),
            count("sessions left in the cloud", self.sessions_left, "counted after each fault"),
            count("threads left", self.threads_left, "after the connection was closed"),
            count("sockets left", self.sockets_left, "after the channels were closed"),
            *(
                Figure(f"longest wait for a check, {kind}", wait, "s", 1.25 * LEAST_SECONDS, "lower", deadline)
                for kind, wait in self.longest_wait.items()
            ),
            *(
                Figure(
                    f"most lost checks that were waited for, {kind}",
                    float(most),
                    "a fault",
                    1.0,
                    "lower",
                    f"for {_STALL_SECONDS:g} s or more",
                )
                for kind, most in self.most_stalls.items()
            ),
        ]


def soak(pair: Path, kinds: Sequence[str], threads: int = 1, max_new_tokens: int = _MAX_NEW_TOKENS) -> Found:
    """Answer while faults happen, one after the other; each begins at a random moment of an answer.

    Args:
        pair: folder with slm/ and llm/.
        kinds: of the faults, of `KINDS`.
        threads: of the verifier's forwards.
        max_new_tokens: where answers are cut.
    """
    rng, found = random.Random(_SEED), Found()
    device = load_device(pair / "slm", paced=False, max_new_tokens=max_new_tokens)
    llm = load_decoder(pair / "llm")
    before = _threads(), _sockets()
    with verifier(pair / "llm", threads, MAX_SESSIONS) as cloud, cable(cloud.port) as wire:
        with CloudClient(wire.target) as client, Connection(device, client) as connection:
            soaking = _Soak(connection, llm, found, rng)
            soaking.answer("none")
            for kind in kinds:
                soaking.meet(kind, _FAULTS[kind], cloud, wire)
        found.threads_left = _left(lambda: len(_threads() - before[0]))
    found.sockets_left = _left(lambda: max(0, _sockets() - before[1]))
    return found


class _Soak:
    """Answers of one device, and what is counted of them."""

    def __init__(self, connection: Connection, llm: Decoder, found: Found, rng: random.Random) -> None:
        self._connection, self._llm, self._found, self._rng = connection, llm, found, rng
        self._prompts = cycle(
            [connection.encode(t.prompt) for kind in tinyworld.KINDS for t in tinyworld.tasks(kind, "test", 6)]
        )
        self._usual_seconds = 0.1
        self._stalls = 0

    def meet(self, kind: str, fault: Fault, cloud: Cloud, wire: Cable) -> None:
        """Let one fault happen, and answer until the cloud is back."""
        self._found.faults += 1
        self._stalls = 0
        moment = self._rng.uniform(0, self._usual_seconds)
        seconds = self._rng.uniform(0.1, _LONGEST_FAULT_SECONDS)

        def happen() -> None:
            time.sleep(moment)
            fault(cloud, wire, seconds)

        happening = threading.Thread(target=happen, name="fault")
        happening.start()
        self.answer(kind)
        while happening.is_alive():
            self.answer(kind)
            time.sleep(0.1)  # a user reads; the cores are the starting verifier's
        ends = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < ends:
            if self.answer(kind):
                self._found.recovered += 1
                break
            time.sleep(0.1)
        most = self._found.most_stalls
        most[kind] = max(most.get(kind, 0), self._stalls)
        self._found.sessions_left += _left(lambda: _held(cloud.port, self._connection.device))

    def answer(self, kind: str) -> bool:
        """Answer one prompt, and count; return whether no check of it was lost."""
        found, prompt = self._found, next(self._prompts)
        found.answers += 1
        began = time.monotonic()
        with self._connection.open() as session:
            session.begin(prompt, ALWAYS)
            while not session.advance(ALWAYS).done:
                pass
        if kind == "none":
            self._usual_seconds = time.monotonic() - began
        else:
            waits = [r.cost.wait_seconds for r in session.records]
            found.longest_wait[kind] = max(found.longest_wait.get(kind, 0.0), *waits)
            self._stalls += sum(r.error is not None and r.cost.wait_seconds >= _STALL_SECONDS for r in session.records)
        return self._hold(prompt, session)

    def _hold(self, prompt: tuple[int, ...], session: LiveSession) -> bool:
        """Hold an answer against both models."""
        found, answer, limits = self._found, session.answer, self._connection.limits
        ended = answer[-1] in limits.eos_ids or len(answer) == limits.room(len(prompt))
        found.complete += ended and tuple(t for r in session.records for t in r.committed) == answer
        own, checked = (choices(model, prompt, answer) for model in (self._connection.device.slm, self._llm))
        place = 0
        for record in session.records:
            says = checked if record.verdict is not None else own
            found.wrong_tokens += sum(a != b for a, b in zip(record.committed, says[place:], strict=False))
            place += len(record.committed)
        found.tokens += len(answer)
        lost = sum(record.error is not None for record in session.records)
        found.checks += len(session.records)
        found.lost_checks += lost
        if not lost:
            found.undisturbed += 1
            found.equal += answer == tuple(checked)
        return not lost


def choices(model: Decoder, prompt: tuple[int, ...], answer: tuple[int, ...]) -> list[int]:
    """What a model puts at each place of an answer, after the prompt and the answer before that place."""
    ids = torch.tensor([*prompt, *answer[:-1]])
    hidden = model.run(model.embed(ids), torch.arange(len(ids)), model.new_cache())
    return [int(token) for token in model.logits(hidden[len(prompt) - 1 :]).argmax(-1)]


# ---------------------------------------------------------------- faults


Fault = Callable[[Cloud, Cable, float], None]
"""Lets a fault happen that lasts so many seconds, where that is not up to it; returns when it is over."""


def _kill(cloud: Cloud, wire: Cable, seconds: float) -> None:
    cloud.end()
    cloud.start()


def _restart(cloud: Cloud, wire: Cable, seconds: float) -> None:
    cloud.end(signal.SIGTERM)
    cloud.start()


def _stop(cloud: Cloud, wire: Cable, seconds: float) -> None:
    cloud.send(signal.SIGSTOP)
    time.sleep(seconds)
    cloud.send(signal.SIGCONT)


def _cut(cloud: Cloud, wire: Cable, seconds: float) -> None:
    wire.cut()


def _silence(cloud: Cloud, wire: Cable, seconds: float) -> None:
    wire.silence(True)
    time.sleep(seconds)
    wire.silence(False)


_FAULTS: dict[str, Fault] = {"kill": _kill, "stop": _stop, "cut": _cut, "restart": _restart, "silence": _silence}

# ---------------------------------------------------------------- what is left


def _threads() -> set[threading.Thread]:
    """Those that are nobody's but the device's."""
    return {each for each in threading.enumerate() if each.name not in ("cable", "fault")}


def _sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode)
        except OSError:  # the folder's own
            continue
    return count


def _held(port: int, device: Device | HatDevice) -> int:
    """How many of the cloud's sessions are taken: so many of its places can not be had."""
    free: list[str] = []
    with CloudClient(f"127.0.0.1:{port}") as client:
        try:
            while len(free) < MAX_SESSIONS:
                free.append(client.open(device.tokenizer_hash).session_id)
        except CloudBusyError:
            pass
        except CloudError:
            return MAX_SESSIONS
        for session_id in free:
            client.close_session(session_id)
    return MAX_SESSIONS - len(free)


def _left(count: Callable[[], int], seconds: float = 10.0) -> int:
    """What is left once it no longer changes, or after so long: what ends of itself, ends soon."""
    ends = time.monotonic() + seconds
    while (left := count()) and time.monotonic() < ends:
        time.sleep(0.1)
    return left
