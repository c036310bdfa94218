"""Hold the replay's shared cloud against a real verifier under the same arrivals: queue, compute and load of a device's checks.

Clients send a workload's requests to a verifier in a process of its own, which is paced to a GPU, while a probe sends checks one after
the other. What the probe met is compared with what the model of the shared cloud says for the same moments. Lengths are shrunk to
what the bundled LLM holds, so the rate may be higher than a real GPU's.

Examples:
    synera validate-load                                    # generated Poisson arrivals
    synera validate-load --workload AzureLLMInferenceTrace_conv.csv --rate 2 --seconds 60
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.table import Table

from runtime.settings import above, within
from scripts._cli import check_output, check_seed, console, launch, next_step, progress, say
from scripts._text import harmless
from scripts._verifier import verifier_process
from synera_env import write_json
from synera_env.load_fidelity import Compared, compare
from traces import bundled
from traces.profile import CloudProfile
from traces.workload.generators import Lengths, poisson
from traces.workload.readers import load_workload
from traces.workload.shared_cloud import SharedCloud
from traces.workload.trace import Workload

_MOST_CONTEXT, _MOST_GENERATED = 120, 48
"""Of a request: what the bundled LLM reads on a CPU in less time than a paced GPU takes, and streams as fast."""
_LENGTHS = Lengths(context=30, context_spread=0.8, generated=16, generated_spread=0.7)
_SILENCE_SECONDS = 90.0
"""After the workload, in the model: so that its cloud is idle at the start, as the real one is."""
_QUANTITIES = {
    "queue_seconds": ("queue ms", 1e3),
    "compute_seconds": ("compute ms", 1e3),
    "share_seconds": ("share ms", 1e3),
    "load": ("load", 1.0),
}


@dataclass(frozen=True)
class Arguments:
    """Hold the replay's shared cloud against a real verifier."""

    workload: Path | None = None
    """Workload file: the others who use the verifier; by default Poisson arrivals of short requests are generated."""
    rate: float = 3.0
    """Requests a second; the workload is thinned to it, or squeezed in time."""
    seconds: float = 45.0
    """How long; a workload's first seconds at this rate."""
    pace: Path = field(default_factory=lambda: bundled.profile("gpu"))
    """JSON cloud profile whose forwards are emulated; its wait and load are not, as the workload brings its own."""
    seed: int = 0
    """Draws the requests, their tokens, and the probe's times."""
    json: Path | None = None
    """Also write the figures here."""

    def __post_init__(self) -> None:
        above("rate", self.rate, 0.0)
        within("rate", self.rate, 0.0, 1000.0)
        within("seconds", self.seconds, 1.0, 3600.0)
        check_seed(self.seed)


def main(arguments: Arguments) -> None:
    """Run, compare, print.

    Raises:
        SyneraError: a file cannot be used, or the verifier ended.
    """
    from runtime.client import CloudClient
    from scripts._background import drive

    if arguments.json is not None:
        check_output(arguments.json)
    cloud = replace(CloudProfile.load(arguments.pace), queue_ms_quantiles=(0.0,), load_quantiles=(0.0,))
    workload = _workload(arguments)
    console.print(f"{harmless(workload.name)}: {len(workload)} requests in {workload.seconds:g} s; {harmless(workload.source)}")
    with tempfile.TemporaryDirectory() as folder:
        pace = Path(folder) / "pace.json"
        cloud.save(pace)
        with (
            verifier_process(model=bundled.PAIR / "llm", pace=pace) as verifier,
            CloudClient(verifier.target) as client,
            progress() as bar,
        ):
            task, info = bar.add_task("drive", total=int(workload.seconds)), client.model_info()

            def second() -> None:
                verifier.check()
                bar.advance(task)

            driven = drive(
                client, workload, vocab=info.vocab, tokenizer_hash=info.tokenizer_hash, seed=arguments.seed, second=second
            )
    observed = replace(driven.workload, seconds=workload.seconds + _SILENCE_SECONDS)
    shared = SharedCloud.of(observed, cloud)
    found = compare(driven.checks, shared.meets)
    console.print(_table(found, f"a probe's {len(driven.checks)} checks, real verifier and model, {cloud.name} forwards"))
    console.print(
        f"requests turned away: {driven.refused} by the verifier, {shared.refused} by the model; requests were sent late by "
        f"{driven.late_seconds * 1e3:.1f} ms (95th percentile)"
    )
    if arguments.json is not None:
        write_json(
            arguments.json, {"workload": workload.source, "compared": {name: asdict(each) for name, each in found.items()}}
        )
        say("figures", str(arguments.json))
    say("next", next_step("evaluate", **({"workload": arguments.workload} if arguments.workload else {})))


def _workload(arguments: Arguments) -> Workload:
    """The requests to send: at the rate, as long, and of lengths that the bundled LLM holds."""
    if arguments.workload is None:
        return poisson(arguments.rate, arguments.seconds, arguments.seed, _LENGTHS).shrunk(_MOST_CONTEXT, _MOST_GENERATED)
    whole = load_workload(arguments.workload)
    return whole.at_rate(arguments.rate, arguments.seed).first(arguments.seconds).shrunk(_MOST_CONTEXT, _MOST_GENERATED)


def _table(found: dict[str, Compared], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for head in (
        "real mean / p50 / p95",
        "model mean / p50 / p95",
        "mean, p50, p95 off by",
        "Kolmogorov",
        "beyond 1 ms",
        "correlation, 1 s",
    ):
        table.add_column(head, justify="right")
    for name, each in found.items():
        heading, scale = _QUANTITIES[name]
        real, model = ([scale * value for value in asdict(side).values()] for side in (each.real, each.model))
        off = [f"{(m - r) / r:+.1%}" if r else f"{m - r:+.3g}" for r, m in zip(real, model, strict=True)]
        cells = (" / ".join(f"{value:.3g}" for value in side) for side in (real, model))
        table.add_row(
            heading, *cells, " ".join(off), f"{each.kolmogorov:.3f}", f"{each.kolmogorov_apart:.3f}", f"{each.correlation:.3f}"
        )
    return table


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
