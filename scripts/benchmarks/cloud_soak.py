"""A shared verifier over many thousands of checks: what others who cancel and are killed, garbage, kill -9 and a lost replica leave.

The verifier is a process of its own, so are devices and attackers, and everything is on loopback. What does not live here: the load
(scripts/_load.py), the attacks (scripts/_attacks.py), and faults of a single device's link (faults.py).
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch

from runtime.device import Connection, Device
from runtime.dialling import dialled
from runtime.model.decoder import Decoder
from runtime.model.loading import load_decoder
from runtime.synera.replicas import rendezvous
from scripts._attacker import BY_ITSELF, Force
from scripts._hostile import QUIET, AttackJob, attack_alone, phases
from scripts._load import drive, process, served
from scripts._load_machine import family, resident_bytes, threads
from scripts._load_plan import GRAPHS, Plan, Target
from scripts._verifier import verifier_process
from scripts.benchmarks._faulty import Cloud, verifier
from scripts.benchmarks.faults import choices
from scripts.benchmarks.harness import Figure, Setting
from synera_env.synera.live import load_device
from synera_env.synera.schema import ALWAYS
from traces.tasks import tinyworld

_THOUSAND = 1000
_DEVICES, _ROUND_SECONDS = 16, 15.0
_FORCE = Force(connections=2, rounds=200, seconds=_ROUND_SECONDS)  # of each attack beside a round
_LEASE_SECONDS = 3.0
_WARM = 0.25  # of the checks, before memory is looked at
_FUZZ_PER_THOUSAND = 400  # messages, for each thousand checks of the soak
_FUZZ_PER_SECOND = 400.0  # messages that come at least, on a slow machine
_KILL_SECONDS = 30.0
_ANSWERING, _ANSWERS = 4, 12  # devices with an SLM of their own, and how many answers each gives


def measure(setting: Setting) -> list[Figure]:
    """Measure every figure of the area; the repetitions are thousands of checks.

    Raises:
        CheckpointError: the pair cannot be used.
        CloudError: a verifier ended by itself.
    """
    torch.set_num_threads(setting.threads)
    return [*_soak(setting), *_fuzz(setting), _killed(setting), *_lost_replica(setting)]


# ---------------------------------------------------------------- soak


@dataclass(frozen=True)
class Held:
    """What a verifier holds at a moment."""

    bytes: int
    """Resident, of all its processes."""
    threads: int
    sessions: int
    blocks: int

    @property
    def told(self) -> str:
        """The same in words."""
        return f"{self.bytes / 1e6:.0f} MB, {self.threads} threads"


def _soak(setting: Setting) -> Iterator[Figure]:
    """Honest devices, while others open sessions, cancel long checks, and are killed in the middle of both."""
    checks, killed, found = 0, 0, Counter[str]()
    with _observed(setting) as (target, look):
        info, warm = served(target), None
        while checks < _THOUSAND * setting.repetitions:
            with ExitStack() as stack:
                for name in ("churn", "long"):
                    job = AttackJob(target.addresses[0], info, name, _FORCE, killed)
                    others = process(attack_alone, job, f"others {name}")
                    stack.enter_context(others).recv()
                    stack.callback(others.kill)  # before it is asked to end
                    killed += 1
                load = drive(target, Plan(devices=_DEVICES, seconds=_ROUND_SECONDS, seed=killed, graphs=GRAPHS))
            checks += load.counts.get("checked", 0) if load.checked else load.checks
            found.update(load.counts)
            if warm is None and checks >= _THOUSAND * _WARM * setting.repetitions:
                warm = _rested(look)
        after = _rested(look)
    assert warm is not None
    said = f"{checks} checks, {found['answers']} answers, beside others who cancelled, {killed} processes of them killed"
    grown = f"after {after.told}, once warm {warm.told}; {said}"
    yield Figure("resident memory after the soak over that once warm", after.bytes / warm.bytes, "x", 1.02, "lower", grown)
    for name, left in (
        ("wrong verdicts of the soak", found["wrong"]),
        ("answers given up in the soak", found["given_up"]),
        ("sessions left after the soak", after.sessions),
        ("blocks left after the soak", after.blocks),
        ("threads more after the soak than once warm", max(0, after.threads - warm.threads)),
    ):
        yield Figure(name, float(left), "", 0.0, "lower", said)


@contextmanager
def _observed(setting: Setting) -> Iterator[tuple[Target, Callable[[], Held]]]:
    """A verifier, and how to look at what it holds."""
    options = ("--lease-seconds", f"{_LEASE_SECONDS:g}", "--metrics-port", "0")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        model = setting.pair / "llm"
        with verifier_process(model=model, pace=None, threads=setting.threads, options=options, log=log) as running:
            told = re.search(r"event=started .*metrics=(\S+)", log.read_text())
            assert told is not None, log.read_text()

            def look() -> Held:
                with urllib.request.urlopen(f"http://{told[1]}/metrics", timeout=10) as answer:
                    lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[:1] != "#")
                sessions, blocks = (int(float(lines[name])) for name in ("synera_sessions", 'synera_kv_blocks{state="used"}'))
                running.check()
                members = family(running.pid)
                return Held(resident_bytes(running.pid) or 0, sum(map(threads, members)), sessions, blocks)

            yield Target((running.target,), pid=running.pid), look


def _rested(look: Callable[[], Held]) -> Held:
    """What is held once leases are over; what should be gone by then has some seconds more."""
    ends = time.monotonic() + 4 * _LEASE_SECONDS + 5.0
    while ((held := look()).sessions or held.blocks) and time.monotonic() < ends:
        time.sleep(0.2)
    return held


# ---------------------------------------------------------------- fuzz


def _fuzz(setting: Setting) -> Iterator[Figure]:
    """Random bytes, random messages, wrong numbers, beside honest devices."""
    messages = _FUZZ_PER_THOUSAND * setting.repetitions
    plan = Plan(devices=8, seconds=max(5.0, messages / _FUZZ_PER_SECOND), connections=8, graphs=GRAPHS)
    with verifier_process(model=setting.pair / "llm", pace=None, threads=setting.threads) as running:
        target = Target((running.target,), pid=running.pid)
        quiet, fuzzed, after = phases(target, plan, ["garbage"], lambda name, seconds: running.check())
    attacked, latencies = fuzzed.attacked, [each.load.latency_ms for each in (quiet, fuzzed)]
    assert attacked is not None
    assert quiet.name == QUIET
    said = ", ".join(f"{number} x {how}" for how, number in sorted(attacked.ended.items(), key=lambda each: -each[1]))
    yield Figure("messages of the fuzz", float(attacked.sent), "", float(messages), "higher", said)
    untyped = sum(number for how, number in attacked.ended.items() if how != "OK" and ("Error" not in how or BY_ITSELF in how))
    yield Figure("messages of the fuzz without a typed status", float(untyped), "", 0.0, "lower", said)
    wrong = sum(each.load.wrong for each in (quiet, fuzzed, after))
    ill = [each.newcomer.problem for each in (quiet, fuzzed, after) if each.newcomer.problem]
    yield Figure(
        "wrong verdicts, and newcomers not served, of the fuzz", float(wrong + len(ill)), "", 0.0, "lower", "; ".join(ill)
    )
    peace, war = latencies
    assert peace is not None
    assert war is not None
    ms = f"{war.p95:.1f} ms, quiet {peace.p95:.1f} ms"
    yield Figure(
        "95th percentile of an honest check under the fuzz over its quiet value", war.p95 / peace.p95, "x", 3.0, "lower", ms
    )
    before, left = (each or 0 for each in (fuzzed.memory.before, after.memory.after))
    mb = f"{left / 1e6:.0f} MB, {before / 1e6:.0f} MB before, {(fuzzed.memory.most or 0) / 1e6:.0f} MB at most"
    yield Figure("resident memory after the fuzz over that before", left / max(1, before), "x", 1.02, "lower", mb)


# ---------------------------------------------------------------- faults


def _killed(setting: Setting) -> Figure:
    """End a verifier by kill -9, and start it on the same port, while devices answer."""
    with verifier(setting.pair / "llm", setting.threads, 64) as cloud:
        away = threading.Timer(_KILL_SECONDS / 3, _again, [cloud])
        away.start()
        load = drive(Target((f"127.0.0.1:{cloud.port}",)), Plan(devices=_DEVICES, seconds=_KILL_SECONDS, graphs=GRAPHS))
        away.join()
    counts = Counter(load.counts)
    failed = counts["given_up"] + counts["unanswered"] + load.wrong
    said = f"{counts['answers']} answers, {counts['reopened']} sessions opened anew, {sum(load.errors.values())} calls failed"
    name = "answers given up, unanswered or wrong, the verifier killed and started again under load"
    return Figure(name, float(failed), "", 0.0, "lower", said)


def _again(cloud: Cloud) -> None:
    cloud.end()
    cloud.start()


def _lost_replica(setting: Setting) -> Iterator[Figure]:
    """Real devices with two replicas, both under load of others; the one that they turned to is killed in the middle."""
    device = load_device(setting.pair / "slm", paced=False)
    llm = load_decoder(setting.pair / "llm")
    with ExitStack() as stack:
        clouds = [stack.enter_context(verifier(setting.pair / "llm", setting.threads, 256)) for _ in range(2)]
        addresses = tuple(f"127.0.0.1:{cloud.port}" for cloud in clouds)
        others = threading.Thread(
            target=drive, args=(Target(addresses[1:]), Plan(devices=4, seconds=_KILL_SECONDS, graphs=GRAPHS))
        )
        others.start()
        stack.callback(others.join)
        pool = stack.enter_context(ThreadPoolExecutor(_ANSWERING))
        dying = threading.Timer(2.0, clouds[0].end)
        dying.start()
        stack.callback(dying.join)
        found = [*pool.map(lambda number: _answer_all(device, addresses, number), range(_ANSWERING))]
    complete = sum(each.complete for each in found)
    right = sum(_is_own(llm, prompt, answer) for each in found for prompt, answer in each.undisturbed)
    undisturbed, lost = sum(len(each.undisturbed) for each in found), sum(each.lost for each in found)
    all_of = _ANSWERING * _ANSWERS
    said = f"{complete} of {all_of} answers of {_ANSWERING} devices; {lost} checks lost"
    yield Figure("answers complete, a replica killed under load", 100.0 * complete / all_of, "%", 100.0, "higher", said)
    name = "answers without a lost check that are the LLM's own, a replica killed under load"
    yield Figure(name, 100.0 * right / max(1, undisturbed), "%", 100.0, "higher", f"{right} of {undisturbed}")


@dataclass(frozen=True)
class _Answered:
    complete: int
    lost: int
    """Checks that were given up."""
    undisturbed: list[tuple[tuple[int, ...], tuple[int, ...]]]
    """Prompts and answers that lost none."""


def _answer_all(device: Device, addresses: tuple[str, ...], number: int) -> _Answered:
    """Give a device's answers; every device turns to the first replica first, which is the one that dies."""
    complete, lost, undisturbed = 0, 0, []
    prompts = [task.prompt for kind in tinyworld.KINDS for task in tinyworld.tasks(kind, "test", _ANSWERS)]
    key = next(key for key in map(str, count()) if rendezvous(key, addresses)[0] == addresses[0])
    with dialled(",".join(addresses)) as clients, Connection(device, clients, key=key) as connection:
        for text in prompts[number :: len(prompts) // _ANSWERS][:_ANSWERS]:
            prompt = connection.encode(text)
            with connection.open() as session:
                session.begin(prompt, ALWAYS)
                while not session.advance(ALWAYS).done:
                    pass
            answer, limits = session.answer, connection.limits
            complete += answer[-1] in limits.eos_ids or len(answer) == limits.room(len(prompt))
            given_up = sum(record.error is not None for record in session.records)
            lost += given_up
            if not given_up:
                undisturbed.append((prompt, answer))
    return _Answered(complete, lost, undisturbed)


def _is_own(llm: Decoder, prompt: tuple[int, ...], answer: tuple[int, ...]) -> bool:
    """Whether a model would have said every token of an answer."""
    return choices(llm, prompt, answer) == list(answer)
