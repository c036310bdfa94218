"""Hold the replay against the live runtime: same prompts, controllers and links, by metric, and as devices share a verifier.

Live answers are paced to a phone and a GPU and emulate the link, as the replay has it, and are checked by a real verifier in a
process of its own. Tokens must be identical; times may differ, and by how much is what this measures.

Examples:
    synera validate-replay                          # the rules, stall-free and stop-and-wait; then 1 to 16 devices
    synera validate-replay --bundle runs/ppo/bundle --answers 48
    synera validate-replay --links traces/          # on recorded links
    synera validate-replay --devices 1 4 --outages --out runs/validation

The table's errors are |live - replay| / live, mean / 95th percentile over the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table

from agents.base import Controller
from agents.bundle import Bundle
from agents.evaluation import make_plan
from agents.validation import Validated, both_ways, validate
from runtime.errors import SettingError
from runtime.settings import within
from scripts._cli import check_output, check_seed, console, launch, next_step, say
from scripts._contestants import distinct_names
from scripts._links import check_filling, links_of
from scripts._live_world import live_world
from scripts._report import validation_picture
from scripts._text import harmless
from synera_env import Outages, SyneraReplayEnv, write_json
from traces import bundled
from traces.links.filling import Filling
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet

_MOST_ANSWERS, _MOST_DEVICES = 100_000, 64
_SHARED_ROUNDS = 3
"""Answers of each device where several share the verifier."""
_METRICS = (
    ("s/answer", "seconds"),
    ("TTFT", "ttft_seconds"),
    ("TBT", "tbt_mean_seconds"),
    ("joules", "joules"),
    ("uplink B", "uplink_bytes"),
)


@dataclass(frozen=True)
class Arguments:
    """Hold the replay against the live runtime."""

    bundle: tuple[Path, ...] = ()
    """Bundles to validate beside the rules."""
    answers: int = 24
    """Answers of each controller, on one device."""
    devices: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of devices that share the verifier, each checking every chunk."""
    outages: bool = False
    """Cut the link off now and then, as in training; without, only what is slow differs."""
    links: Path | None = None
    """File or folder of recorded links, instead of the bundled ones; those for the test are taken (traces.links.splits says which)."""
    fill: Filling = field(default_factory=Filling)
    """With --links, your figures for what was not recorded."""
    seed: int = 0
    """Draws links and offsets."""
    out: Path = Path("runs/validation")
    """Folder of the figures and the picture."""

    def __post_init__(self) -> None:
        within("answers", self.answers, 1, _MOST_ANSWERS)
        for number in self.devices:
            within("devices", number, 1, _MOST_DEVICES)
        if len(set(self.devices)) < len(self.devices):
            raise SettingError(f"devices={self.devices} names a number twice")
        check_seed(self.seed)
        check_filling(self.links, self.fill)


def main(arguments: Arguments) -> None:
    """Run both worlds, print the table, write the figures and the picture.

    Raises:
        SyneraError: a bundle does not fit, or the verifier ended.
    """
    check_output(arguments.out, folder=True)
    graphs = GraphSet.load(bundled.graphs("test"))
    device, cloud = DeviceProfile.load(bundled.profile("phone")), CloudProfile.load(bundled.profile("gpu"))
    outages = Outages() if arguments.outages else Outages.never()
    links = links_of(arguments.links, arguments.fill)("test")
    replay = SyneraReplayEnv(graphs, links, device, cloud, outages=outages)
    controllers = both_ways(replay.schema) | _learned(arguments.bundle, replay)
    plan = make_plan(replay, arguments.answers, arguments.seed)
    shared = {n: make_plan(replay, _SHARED_ROUNDS * n, arguments.seed) for n in arguments.devices}
    answers = len(controllers) * len(plan) + sum(map(len, shared.values()))
    with live_world(graphs, links, device, bundled.profile("gpu"), answers, outages) as (make_live, answered):
        alone = validate(make_live, replay, controllers, plan, 1, answered)
        together = []
        for number, planned in shared.items():
            together += validate(make_live, replay, {"always": controllers["always"]}, planned, number, answered)
    title = f"live against replay, {len(graphs)} test prompts{', with outages' if arguments.outages else ''}"
    console.print(_table(alone, f"{title}: {len(plan)} answers each, one device"))
    if together:
        console.print(_table(together, f"{title}: devices that share one verifier, {_SHARED_ROUNDS} answers each"))
    for each in (*alone, *together):
        for difference in each.agreement.differences:
            console.print(harmless(f"{each.controller}: {difference}"), style="red")
    picture, figures = arguments.out / "validation.png", arguments.out / "validation.json"
    write_json(figures, {"alone": [asdict(v) for v in alone], "shared": [asdict(v) for v in together]})
    validation_picture(alone, together, picture, title)
    say("picture", str(picture))
    say("figures", str(figures))
    say("next", next_step("evaluate", bundle=arguments.bundle, links=arguments.links, fill=arguments.fill))


def _learned(bundles: Sequence[Path], replay: SyneraReplayEnv) -> dict[str, Controller]:
    found: dict[str, Controller] = {}
    for name, path in distinct_names(bundles, both_ways(replay.schema)).items():
        bundle = Bundle.load(path)
        bundle.require(replay.deployment())
        found[name] = bundle.controller(replay.schema)
    return found


def _table(found: Sequence[Validated], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("controller", no_wrap=True)
    for heading in ("devices", "tokens identical", "live s/answer", *(f"{heading} error" for heading, _ in _METRICS)):
        table.add_column(heading, justify="right")
    for each in found:
        errors = [each.agreement.replay_error.get(metric) for _, metric in _METRICS]
        table.add_row(
            harmless(each.controller),
            str(each.devices),
            f"{each.agreement.tokens_identical:.3f}",
            f"{sum(each.live_seconds) / len(each.live_seconds):.3f}" if each.live_seconds else "-",
            *(f"{e['mean']:.1%} / {e['p95']:.1%}" if e else "-" for e in errors),
        )
    return table


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
