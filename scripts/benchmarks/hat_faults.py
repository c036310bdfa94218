"""Answers of several HAT devices while the cloud that has the middle of their model is killed, stopped, restarted or cut off.

No device can go on without it: an answer waits, is healed, and is the whole model's own in the end; where the cloud stays away for
longer than the deadline, it ends with the reason.
"""

from __future__ import annotations

import random
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import torch

from runtime.client import CloudClient
from runtime.hat.device import HatConnection, HatDevice
from runtime.hat.knobs import Knobs
from runtime.hat.patience import PATIENCE, Patience
from runtime.hat.session import ALONE
from runtime.model.decoder import Decoder
from runtime.model.loading import load_decoder
from runtime.wire.sizes import PRECISIONS
from scripts.benchmarks._faulty import Cable, Cloud, cable, verifier
from scripts.benchmarks.faults import _FAULTS, KINDS, MAX_SESSIONS, _held, _left, _sockets, _threads, choices
from scripts.benchmarks.harness import Figure, Setting
from synera_env.hat.live import load_hat_device
from synera_env.radio import Radio
from traces.links.generators import constant_link
from traces.tasks import tinyworld

_SEED = 0
_DEVICES = 4
_ANSWERS_A_FAULT = 4
_LONGEST_FAULT_SECONDS = 3.0  # of a stop or a silence
_AWAY = Patience(longest_seconds=3.0, silent_seconds=1.0, open_seconds=1.0)
_MAX_NEW_TOKENS = 48
_LINK = Radio(constant_link(rtt_ms=20.0, uplink_mbps=40.0, downlink_mbps=60.0))  # so that answers take a while
_BLOCKS = re.compile(rb'^synera_kv_blocks\{state="used"\} (\S+)', re.M)


def measure(setting: Setting) -> list[Figure]:
    """Measure every figure of the area; the repetitions are answers, of which each fault meets those under way.

    Raises:
        CheckpointError: the models cannot be used.
    """
    return faults(setting)


def faults(setting: Setting) -> list[Figure]:
    """See :func:`measure`; the area `hat` may ask for these, too."""
    torch.set_num_threads(setting.threads)
    kinds = list(islice(cycle(KINDS), max(1, setting.repetitions // _ANSWERS_A_FAULT)))
    return soak(setting.pair / "llm", setting.pair / "adapter", kinds, setting.repetitions, setting.threads).figures()


@dataclass
class Found:
    """What was counted."""

    faults: int = 0
    answers: int = 0
    complete: int = 0
    """The whole model's own, to their ends."""
    ended: int = 0
    """By the deadline, with the reason, and right so far."""
    away: int = 0
    """That met a cloud that stays away for longer than their deadline."""
    away_ended: int = 0
    healed: int = 0
    """Complete ones of which something was sent once more."""
    sessions_anew: int = 0
    resent_bytes: int = 0
    uplink_bytes: int = 0
    tokens: int = 0
    wrong_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    """Of those, that the cloud's states confirmed."""
    longest_step: dict[str, float] = field(default_factory=dict)
    """Seconds, by kind of fault."""
    why: list[str] = field(default_factory=list)
    """Of answers that ended."""
    sessions_left: int = 0
    blocks_left: int = 0
    threads_left: int = 0
    sockets_left: int = 0

    def figures(self) -> list[Figure]:
        """The same as figures."""
        settled = self.complete + self.ended + self.away_ended
        met = self.answers - self.away

        def share(name: str, part: int, whole: int, what: str) -> Figure:
            return Figure(name, 100.0 * part / max(1, whole), "%", 100.0, "higher", f"{part} of {whole} {what}")

        def none(name: str, value: int, what: str) -> Figure:
            return Figure(name, float(value), "", 0.0, "lower", what)

        def told(name: str, value: float, unit: str, what: str) -> Figure:
            return Figure(name, float(value), unit, None, "lower", what)

        return [
            share("answers complete, cloud back in time", self.complete, met, f"answers; {self.faults} faults"),
            share("answers complete or ended with the reason", settled, self.answers, "answers"),
            share("answers ended by the deadline, cloud away", self.away_ended, self.away, "answers of devices that wait 3 s"),
            none("tokens that are not the whole model's", self.wrong_tokens, f"of {self.tokens}"),
            told(
                "draft tokens accepted",
                100.0 * self.accepted_tokens / max(1, self.drafted_tokens),
                "%",
                f"{self.accepted_tokens} of {self.drafted_tokens}, by the adapter",
            ),
            told("answers healed", self.healed, "", "complete, and something was sent once more"),
            told(
                "answers ended by the deadline, all", self.ended + self.away_ended, "", "; ".join(sorted(set(self.why)))[:200]
            ),
            told("sessions opened anew", self.sessions_anew, "", "in the place of those lost"),
            told("bytes sent once more", self.resent_bytes / 1e6, "MB", f"of {self.uplink_bytes / 1e6:.2f} MB in all"),
            *(
                told(f"longest step, {kind}", seconds, "s", f"the deadline is {PATIENCE.longest_seconds:g} s")
                for kind, seconds in self.longest_step.items()
            ),
            none("sessions left in the cloud", self.sessions_left, "counted after the faults, and at the end"),
            none("KV blocks left in the cloud", self.blocks_left, "counted after the faults, and at the end"),
            none("threads left", self.threads_left, "after all sessions were ended"),
            none("sockets left", self.sockets_left, "after the channels were closed"),
        ]


def soak(
    model: Path,
    adapter: Path,
    kinds: Sequence[str],
    answers: int,
    threads: int = 1,
    devices: int = _DEVICES,
    max_new_tokens: int = _MAX_NEW_TOKENS,
) -> Found:
    """Answer while faults happen, one after the other, each at a random moment; and then while the cloud stays away.

    Args:
        model: the whole model's folder.
        adapter: of its split.
        kinds: of the faults, of `KINDS`.
        answers: at least so many.
        threads: of the cloud's forwards.
        devices: that answer at a time.
        max_new_tokens: where answers are cut.
    """
    rng, found = random.Random(_SEED), Found()
    device = load_hat_device(model, adapter, max_new_tokens=max_new_tokens, paced=False)
    before = _threads(), _sockets()
    metrics = _free_port()
    more = ("--split", str(device.split), "--metrics-port", str(metrics))
    with verifier(model, threads, MAX_SESSIONS, more) as cloud, cable(cloud.port) as wire:
        soaking = _Soak(device, load_decoder(model), found, wire)
        with soaking.answering(devices, answers):
            for kind in kinds:
                soaking.meet(kind, cloud, wire, rng)
        found.sessions_left += _left(lambda: _held(cloud.port, device))
        found.blocks_left += _left(lambda: _blocks(metrics))
        soaking.stays_away(cloud, devices)
        found.sessions_left += _left(lambda: _held(cloud.port, device))
        found.blocks_left += _left(lambda: _blocks(metrics))
        found.threads_left = _left(lambda: len(_threads() - before[0]))
    found.sockets_left = _left(lambda: max(0, _sockets() - before[1]))
    return found


class _Soak:
    """Answers of several devices, and what is counted of them."""

    def __init__(self, device: HatDevice, whole: Decoder, found: Found, wire: Cable) -> None:
        self._device, self._whole, self._found, self._wire = device, whole, found, wire
        self._lock = threading.Lock()
        self._prompts = cycle([device.encode(t.prompt) for kind in tinyworld.KINDS for t in tinyworld.tasks(kind, "test", 6)])
        self._over = threading.Event()
        self._ended: dict[str, int] = {}  # answers of each device
        self._kind = "none"  # of the last fault

    @contextmanager
    def answering(self, devices: int, least: int) -> Iterator[None]:
        """Have so many devices answer, until it is left, and so many answers are there."""
        running = [
            threading.Thread(target=self._answers, args=(number, least), name=f"device {number}") for number in range(devices)
        ]
        for each in running:
            each.start()
        try:
            yield
        finally:
            self._over.set()
            for each in running:
                each.join()

    def meet(self, kind: str, cloud: Cloud, wire: Cable, rng: random.Random) -> None:
        """Let one fault happen; each device then ends an answer that met it, before there is another."""
        self._found.faults += 1
        time.sleep(rng.uniform(0.0, 0.3))
        self._kind = kind
        _FAULTS[kind](cloud, wire, rng.uniform(0.1, _LONGEST_FAULT_SECONDS))
        before = dict(self._ended)
        while any(self._ended[name] == before[name] for name in before):
            time.sleep(0.01)

    def stays_away(self, cloud: Cloud, devices: int) -> None:
        """Answer on each device until the cloud, which is gone from some moment on, has cost an answer; and once it is back."""
        with CloudClient(self._wire.target) as client:
            connection = HatConnection(self._device, client, _AWAY)
            going = [threading.Thread(target=self._away, args=(connection,), name="device") for _ in range(devices)]
            for each in going:
                each.start()
            time.sleep(0.2)
            cloud.end()
            for each in going:
                each.join()
            cloud.start()
        with CloudClient(self._wire.target) as client:
            self._answer(HatConnection(self._device, client), random.Random(_SEED))

    def _answers(self, number: int, least: int) -> None:
        rng, name = random.Random(f"{_SEED} {number}"), threading.current_thread().name
        self._ended[name] = 0
        with CloudClient(self._wire.target) as client:
            connection = HatConnection(self._device, client)
            while not self._over.is_set() or self._found.answers < least:
                self._answer(connection, rng)
                self._ended[name] += 1

    def _away(self, connection: HatConnection) -> None:
        rng = random.Random(_SEED)
        while self._answer(connection, rng, away=True):
            pass

    def _answer(self, connection: HatConnection, rng: random.Random, away: bool = False) -> bool:
        """Answer a prompt, with knobs drawn for each upload, and count; return whether the cloud was not lost."""
        with self._lock:
            prompt = next(self._prompts)
        with connection.open(_LINK) as session:
            session.begin(prompt, Knobs())
            while not session.advance(_drawn(rng)).done:
                pass
        limits, answer, said = self._device.limits, session.answer, choices(self._whole, prompt, session.answer)
        ended = bool(answer) and (answer[-1] in limits.eos_ids or len(answer) == limits.room(len(prompt)))
        wrong = sum(one != other for one, other in zip(answer, said, strict=False))
        replies = [reply for record in session.records for reply in record.replies]
        error = session.records[-1].error
        explained = error is not None and error.endswith(ALONE)
        complete = ended and not wrong and error is None
        with self._lock:
            found = self._found
            found.answers += 1
            found.away += away and error is not None
            found.complete += complete
            found.healed += complete and (session.sessions > 1 or any(reply.resent_bytes for reply in replies))
            found.ended += explained and not wrong and not away
            found.away_ended += explained and not wrong and away
            found.sessions_anew += max(0, session.sessions - 1)
            found.resent_bytes += sum(reply.resent_bytes for reply in replies)
            found.uplink_bytes += sum(record.cost.uplink_bytes for record in session.records)
            found.tokens += len(answer)
            found.wrong_tokens += wrong
            found.drafted_tokens += sum(len(record.draft) for record in session.records)
            found.accepted_tokens += sum(record.accepted for record in session.records)
            if not away:
                longest = max(record.cost.seconds for record in session.records)
                found.longest_step[self._kind] = max(found.longest_step.get(self._kind, 0.0), longest)
            found.why += [error] if error is not None else []
        return error is None


def _drawn(rng: random.Random) -> Knobs:
    return Knobs(rng.uniform(3, 7), rng.choice([0.0, 0.3, 0.6]), rng.randint(0, 6), rng.randint(0, 3), PRECISIONS.index("fp32"))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _blocks(port: int) -> int:
    """Blocks of the cloud's KV pool that are in use."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/metrics") as answer:
        [used] = _BLOCKS.findall(answer.read())
    return round(float(used))
