"""Drive a verifier with many emulated devices, and measure its latency and throughput.

Devices walk recorded token graphs, so that contexts, drafts and acceptances are real ones, no SLM runs, and every verdict is held
against the graph's LLM. Where the verifier serves another LLM drafts are made up, and nothing can be checked. In a closed loop
(`--devices`) each device answers prompt after prompt; in an open one (`--rate`, `--workload`) answers begin when they arrive, and
latency counts from when a check was meant to be sent. Other users' Generate requests with long prompts go beside them.

Examples:
    synera loadtest                                     # 8 devices against the bundled LLM, served for it
    synera loadtest --sweep 1,2,4,8,16,32               # several loads in a row, and a picture
    synera loadtest --cloud 127.0.0.1:50051 --devices 32 --think phone.json
    synera loadtest --rate 5 --prefill-share 0.3 --workload AzureLLMInferenceTrace_conv.csv
    synera loadtest --devices 16 --streams 4            # four others read long prompts all the time
    synera loadtest --calibrate --devices 32            # what the load generator itself can do here
    synera loadtest --hostile churn,garbage             # under attack, beside the same load in peace; all: every attack
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import SettingError
from runtime.settings import shown, whole, within
from scripts._cli import check_output, check_seed, console, launch, next_step, progress, say
from scripts._text import harmless
from scripts._verifier import Verifier, verifier_process
from traces import bundled
from traces.files import write_json
from traces.profile import CloudProfile

if TYPE_CHECKING:  # grpc loads only after the arguments are understood
    from scripts._load_plan import Plan, Target
    from scripts._load_result import LoadResult

_MOST_DEVICES, _MOST_RATE, _MOST_LOADS, _MOST_CONNECTIONS = 4096, 10_000.0, 64, 256
_ATTACKS = ("churn", "opens", "unread", "large", "long", "garbage", "connections")
_LLM, _GRAPHS = bundled.PAIR / "llm", bundled.graphs("train")


@dataclass(frozen=True)
class Arguments:
    """Drive a verifier with many emulated devices."""

    cloud: str = ""
    """HOST:PORT of a verifier that runs, several with commas; by default one is started for it."""
    model: Path = _LLM
    """Hugging Face folder of the LLM of the verifier that is started."""
    threads: int = 1
    """CPU threads of a forward of that verifier."""
    pace: Path | None = None
    """JSON cloud profile whose durations that verifier emulates."""
    devices: int = 8
    """Closed loop: devices that answer prompt after prompt."""
    rate: float = 0.0
    """Open loop: answers that begin a second, by a Poisson process, or by the workload squeezed or stretched in time to this; 0 takes
    the workload's own."""
    workload: Path | None = None
    """Open loop: workload file whose arrivals are taken, and whose lengths other users' requests have."""
    prefill_share: float = 0.0
    """Open loop: share of the arrivals that are other users' Generate requests."""
    streams: int = 0
    """Other users who each have one Generate request answered after another."""
    seconds: float = 10.0
    """What is measured, after a second of warm-up; of each load."""
    sweep: str = ""
    """Loads in a row, with commas: numbers of devices, or in an open loop rates."""
    graphs: Path = _GRAPHS
    """Token graphs that devices walk."""
    draft_length: int = 4
    """Most tokens of a draft."""
    confidence: float = 1.0
    """Offload a chunk whose least confident token is below it; by default every chunk."""
    think: Path | None = None
    """JSON device profile: how long a device drafts before a check; by default no time."""
    pause: float = 0.0
    """Seconds that a device does something else before each check, beside that."""
    processes: int = 1
    """Processes that the load comes from."""
    connections: int | None = None
    """Of each process, to each address; by default one for every 16 devices, as one each costs the load generator twice the CPU; under
    attack one each."""
    calibrate: bool = False
    """Drive a verifier that computes nothing: what the load generator itself can do on this machine."""
    hostile: str = ""
    """Attack the verifier, which must be of this machine, while devices work, and tell what that does to them: churn, opens, unread,
    large, long, garbage, connections, several with commas, or all."""
    seed: int = 0
    """Draws arrivals, prompts and tokens."""
    tls_ca: Path | None = None
    """PEM file of the authority that signed the verifier's certificate; required unless it is on this machine."""
    json: Path | None = None
    """Also write the figures here."""
    picture: Path | None = None
    """Where the picture of a sweep goes; runs/loadtest.png by default."""

    def __post_init__(self) -> None:
        whole("devices", self.devices, 1, _MOST_DEVICES)
        whole("streams", self.streams, 0, _MOST_DEVICES)
        whole("threads", self.threads, 1, 1024)
        whole("processes", self.processes, 1, 64)
        if self.connections is not None:
            whole("connections", self.connections, 1, _MOST_CONNECTIONS)
        whole("draft_length", self.draft_length, 1, 8)
        within("rate", self.rate, 0.0, _MOST_RATE)
        within("seconds", self.seconds, 0.1, 3600.0)
        within("confidence", self.confidence, 0.0, 1.0)
        within("prefill_share", self.prefill_share, 0.0, 1.0)
        check_seed(self.seed)
        if self.prefill_share and not self.open_loop:
            raise SettingError(
                f"prefill_share={self.prefill_share:g} is of answers that arrive: give --rate or --workload, or take --streams"
            )
        if (self.cloud or self.calibrate) and (self.model != _LLM or self.pace is not None):
            raise SettingError(
                "model and pace are of a verifier that is started here; leave them out with --cloud or --calibrate"
            )
        if self.cloud and self.calibrate:
            raise SettingError("calibrate starts a verifier of its own; leave out --cloud")
        if self.hostile and (self.sweep or self.calibrate or self.picture is not None):
            raise SettingError("hostile takes one load and a real verifier; leave out --sweep, --picture and --calibrate")
        self.loads, self.attacks  # noqa: B018 - raise for what is no load, and no attack

    @property
    def open_loop(self) -> bool:
        """Whether answers begin when they arrive."""
        return self.rate > 0 or self.workload is not None

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of attacks, in the order that was given."""
        names = _ATTACKS if self.hostile == "all" else tuple(self.hostile.split(",")) if self.hostile else ()
        if not set(names) <= set(_ATTACKS) or len(set(names)) < len(names):
            raise SettingError(
                f"hostile={shown(self.hostile)} must name attacks, each once, with commas between them, of {', '.join(_ATTACKS)}; or all"
            )
        return names

    @property
    def loads(self) -> tuple[float, ...]:
        """Numbers of devices, or rates; 0 is the workload's own."""
        if not self.sweep:
            return (self.rate if self.open_loop else float(self.devices),)
        words = self.sweep.split(",")
        most = _MOST_RATE if self.open_loop else _MOST_DEVICES
        number = r"\d+(\.\d+)?" if self.open_loop else r"\d+"
        if (
            not all(re.fullmatch(number, word, re.ASCII) and 0 < float(word) <= most for word in words)
            or len(words) > _MOST_LOADS
        ):
            what = "rates above 0" if self.open_loop else "numbers of devices from 1"
            raise SettingError(
                f"sweep={shown(self.sweep)} must be at most {_MOST_LOADS} {what} up to {most:g}, with commas, such as 1,2,4,8"
            )
        return tuple(map(float, words))


def main(arguments: Arguments) -> None:
    """Drive, print, write.

    Raises:
        SyneraError: a file cannot be used, or no verifier answers.
        SystemExit: verdicts were wrong, or an attack left the verifier ill.
    """
    if arguments.attacks:
        return _attacked(arguments)
    from scripts._load_view import draw, show, table_of
    from scripts._report import check_picture

    picture = arguments.picture or Path("runs") / "loadtest.png"
    check_picture(picture)
    for path in (arguments.json, picture if arguments.sweep else None):
        if path is not None:
            check_output(path)
    if arguments.json is not None and os.path.realpath(arguments.json) == os.path.realpath(picture):
        raise SettingError("json must be a file of its own, as what is there is replaced; so must picture")
    results = _results(arguments)
    if arguments.sweep:
        console.print(table_of(results))
        drafts = "of graphs" if results[0].checked else "made up"
        draw(results, picture, f"{_named(arguments)}: {results[0].seconds:g} s a load; drafts {drafts}")
        say("picture", str(picture))
    else:
        show(results[0])
    if arguments.json is not None:
        write_json(arguments.json, {"verifier": _named(arguments), "loads": [asdict(each) for each in results]})
        say("figures", str(arguments.json))
    say("next", _next(arguments))
    if any(each.wrong for each in results):
        sys.exit(1)


def _results(arguments: Arguments) -> list[LoadResult]:
    """Drive one load after the other."""
    from scripts._load import drive, scripts_for, served, told
    from scripts._load_view import told as tell

    _check_files(arguments)
    results: list[LoadResult] = []
    with _target(arguments) as (target, verifier), progress() as bar:
        info = served(target)
        for load in arguments.loads:
            plan = _plan(arguments, load, info.context_tokens)
            if not results:
                console.print(
                    harmless(f"{_named(arguments)}: {info.model}; drafts: {told(info, scripts_for(info, plan), plan)}")
                )
                if plan.arrivals is not None:
                    console.print(harmless(f"{plan.arrivals.name}: {plan.arrivals.source}"))
            task = bar.add_task(f"load {load:g}", total=round(plan.warmup_seconds + plan.seconds))

            def tick(seconds: float, task: object = task) -> None:
                if verifier is not None:
                    verifier.check()
                bar.update(task, completed=int(seconds))  # type: ignore[arg-type]

            results.append(drive(target, plan, tick))
            if arguments.sweep:
                tell(results[-1], f"{load:g}: ")
    return results


def _attacked(arguments: Arguments) -> None:
    """Drive the load in peace and under each attack, print, write.

    Raises:
        SyneraError: as of `main`.
        SystemExit: likewise.
    """
    from scripts._hostile import check_local
    from scripts._hostile_view import attack
    from scripts._load import served
    from scripts._load_plan import Target

    if arguments.json is not None:
        check_output(arguments.json)
    if arguments.cloud:
        check_local(Target(tuple(arguments.cloud.split(",")), arguments.tls_ca))
    _check_files(arguments)
    with _target(arguments) as (target, verifier):
        plan = _plan(arguments, arguments.loads[0], served(target).context_tokens)
        if arguments.connections is None:  # as each is an account of its own, which is what attackers are up against
            plan = replace(plan, connections=min(_MOST_CONNECTIONS, -(-arguments.devices // arguments.processes)))
        seen = attack(target, plan, arguments.attacks, (lambda: None) if verifier is None else verifier.check)
    if arguments.json is not None:
        write_json(arguments.json, {"verifier": _named(arguments), "phases": [asdict(each) for each in seen]})
        say("figures", str(arguments.json))
    say("next", _next(arguments))
    if any(each.load.wrong or each.newcomer.problem for each in seen):
        sys.exit(1)


def _check_files(arguments: Arguments) -> None:
    """Read what is given before a verifier is started for it.

    Raises:
        TraceError: a file cannot be used.
    """
    from traces.profile import DeviceProfile
    from traces.synera.graph import GraphSet
    from traces.workload.readers import load_workload

    GraphSet.load(arguments.graphs)
    if arguments.workload is not None:
        load_workload(arguments.workload)
    if arguments.think is not None:
        DeviceProfile.load(arguments.think)
    if arguments.pace is not None:
        CloudProfile.load(arguments.pace)


@contextmanager
def _target(arguments: Arguments) -> Iterator[tuple[Target, Verifier | None]]:
    """The verifier that is named, or one that lives as long as the block."""
    from scripts._load_nothing import nothing_process
    from scripts._load_plan import Target

    if arguments.cloud:
        yield Target(tuple(arguments.cloud.split(",")), arguments.tls_ca), None
    elif arguments.calibrate:
        with nothing_process() as target:
            yield target, None
    else:
        with verifier_process(model=arguments.model, pace=arguments.pace, threads=arguments.threads) as verifier:
            yield Target((verifier.target,), pid=verifier.pid), verifier


def _plan(arguments: Arguments, load: float, context_tokens: int) -> Plan:
    """What is to be done at a load."""
    from runtime.synera.knobs import Knobs
    from scripts._load_plan import Plan, at_rate, fitted
    from traces.workload.generators import poisson
    from traces.workload.readers import load_workload

    plan = Plan(
        seconds=arguments.seconds,
        seed=arguments.seed,
        graphs=arguments.graphs,
        knobs=Knobs(confidence_threshold=arguments.confidence, draft_length=arguments.draft_length, offload_budget=1.0),
        profile=arguments.think,
        pause_seconds=arguments.pause,
        processes=arguments.processes,
        connections=arguments.connections,
    )
    whole = plan.warmup_seconds + plan.seconds
    # Lengths do not hang on the rate, so that a sweep's loads differ in that alone.
    given = None if arguments.workload is None else load_workload(arguments.workload)
    if arguments.streams:
        lengths = fitted(poisson(10.0, 100.0, arguments.seed) if given is None else given, context_tokens)
        plan = replace(plan, streams=arguments.streams, stream_lengths=lengths)
    if not arguments.open_loop:
        return replace(plan, devices=int(load))
    if given is None:
        arrivals = poisson(load, whole, arguments.seed)
    else:
        arrivals = at_rate(given, load, whole) if load else given.first(whole)
    return replace(plan, arrivals=fitted(arrivals, context_tokens), prefill_share=arguments.prefill_share)


def _named(arguments: Arguments) -> str:
    """The verifier, in words."""
    if arguments.cloud:
        return arguments.cloud
    if arguments.calibrate:
        return "a verifier that computes nothing"
    return f"a verifier of {arguments.threads} thread(s){f', paced by {arguments.pace}' if arguments.pace else ''}"


def _next(arguments: Arguments) -> str:
    """The line to type next: the same as a sweep, or what else there is to know of a verifier."""
    if arguments.sweep:
        return next_step("bench") + " cloud"
    given = {
        name: getattr(arguments, name)
        for name in ("cloud", "model", "threads", "pace", "workload", "rate", "streams", "think", "pause", "graphs")
    }
    loads: Sequence[str] = ("1", "2", "4", "8") if arguments.open_loop else ("1", "2", "4", "8", "16", "32")
    return next_step("loadtest", **given, sweep=",".join(loads))


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
