"""Hold the replay against the live runtime: same prompts, controllers and links, by metric, and as devices share a verifier.

Live answers are paced to a phone and a GPU and emulate the link, as the replay has it, and are checked by a real verifier in a
process of its own. Tokens must be identical; times may differ, and by how much is what this measures.

Examples:
    synera validate-replay                          # the rules, stall-free and stop-and-wait; then 1 to 16 devices
    synera validate-replay --bundle runs/ppo/bundle --answers 48
    synera validate-replay --links traces/          # on recorded links
    synera validate-replay --devices 1 4 --outages --out runs/validation
    synera validate-replay --system hat             # uploads of a model that is split between device and cloud

The table's errors are |live - replay| / live, mean / 95th percentile over the answers; tokens (of HAT bytes, too) are identical where
the live knobs, fed to the replay, give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table

from agents.base import Controller
from agents.bundle import Bundle
from agents.evaluation import make_plan
from agents.registry import rules
from agents.validation import Validated, both_ways, validate
from runtime.errors import SettingError
from runtime.settings import within
from scripts._cli import check_output, check_seed, console, launch, next_step, say
from scripts._contestants import distinct_names
from scripts._links import check_filling, links_of
from scripts._live_world import LiveWorld, hat_world, live_world
from scripts._report import validation_picture
from scripts._systems import BUNDLED, SystemName, check_options
from scripts._text import harmless
from synera_env import DecisionEnv, Outages, Schema, SyneraReplayEnv, write_json
from synera_env.hat.replay import HatReplayEnv
from traces.hat.graph import HatGraphs
from traces.links.filling import Filling
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet

_MOST_ANSWERS, _MOST_DEVICES = 100_000, 64
_SHARED_ROUNDS = 3
"""Answers of each device where several share the verifier."""
_SPEED = (("s/answer", "seconds"), ("TTFT", "ttft_seconds"), ("TBT", "tbt_mean_seconds"))
_JOULES = ("joules", "joules")


@dataclass(frozen=True)
class _System:
    """What of the comparison is of one system."""

    out: Path
    """Where figures go by default."""
    rules: Callable[[Schema], Mapping[str, Controller]]
    """Compared on one device."""
    shared: str
    """Of these, the one of devices that share the verifier; it looks at no time, so that it decides alike in both worlds."""
    same: Sequence[tuple[str, str]]
    """Heading and name of each share of an agreement that must be 1; a Synera device asks again what is late, so its bytes need not."""
    metrics: Sequence[tuple[str, str]]
    """Heading and metric of each error."""
    worlds: Callable[[Sequence[LinkTrace], Outages], tuple[DecisionEnv, Callable[[int], AbstractContextManager[LiveWorld]]]]
    """Makes the replay, and what opens the live world for so many answers."""


def _synera(
    links: Sequence[LinkTrace], outages: Outages
) -> tuple[SyneraReplayEnv, Callable[[int], AbstractContextManager[LiveWorld]]]:
    of = BUNDLED["synera"]
    graphs, device = GraphSet.load(of.graphs("test")), DeviceProfile.load(of.device)
    replay = SyneraReplayEnv(graphs, links, device, CloudProfile.load(of.cloud), outages=outages)
    return replay, lambda answers: live_world(graphs, links, device, of.cloud, answers, outages)


def _hat(
    links: Sequence[LinkTrace], outages: Outages
) -> tuple[HatReplayEnv, Callable[[int], AbstractContextManager[LiveWorld]]]:
    of = BUNDLED["hat"]
    graphs, device = HatGraphs.load(of.graphs("test")), DeviceProfile.load(of.device)
    replay = HatReplayEnv(graphs, links, device, CloudProfile.load(of.cloud), outages=outages)
    return replay, lambda answers: hat_world(links, device, of.cloud, answers, outages)


_SYSTEMS: Mapping[SystemName, _System] = {
    "synera": _System(
        Path("runs/validation"),
        both_ways,
        "always",
        (("tokens identical", "tokens_identical"),),
        (*_SPEED, _JOULES, ("uplink B", "uplink_bytes")),
        _synera,
    ),
    "hat": _System(
        Path("runs/hat-validation"),
        rules,
        "hat-fixed",
        (("same tokens", "tokens_identical"), ("same bytes", "bytes_identical")),
        (*_SPEED, ("cloud s", "cloud_seconds"), _JOULES),
        _hat,
    ),
}


@dataclass(frozen=True)
class Arguments:
    """Hold the replay against the live runtime."""

    system: SystemName = "synera"
    """What answers: synera, or hat, a large model that is split between device and cloud."""
    bundle: tuple[Path, ...] = ()
    """Bundles to validate beside the rules."""
    answers: int = 24
    """Answers of each controller, on one device."""
    devices: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of devices that share the verifier, each checking every chunk; of HAT each controlled by hat-fixed."""
    outages: bool = False
    """Cut the link off now and then, as in training; without, only what is slow differs."""
    links: Path | None = None
    """File or folder of recorded links, instead of the bundled ones; those for the test are taken (traces.links.splits says which)."""
    fill: Filling = field(default_factory=Filling)
    """With --links, your figures for what was not recorded."""
    seed: int = 0
    """Draws links and offsets."""
    out: Path | None = None
    """Folder of the figures and the picture; by default runs/validation, of HAT runs/hat-validation."""

    def __post_init__(self) -> None:
        check_options(self, {})
        within("answers", self.answers, 1, _MOST_ANSWERS)
        for number in self.devices:
            within("devices", number, 1, _MOST_DEVICES)
        if len(set(self.devices)) < len(self.devices):
            raise SettingError(f"devices={self.devices} names a number twice")
        check_seed(self.seed)
        check_filling(self.links, self.fill)

    @property
    def folder(self) -> Path:
        """Where figures and picture go."""
        return self.out or _SYSTEMS[self.system].out


def main(arguments: Arguments) -> None:
    """Run both worlds, print the table, write the figures and the picture.

    Raises:
        SyneraError: a bundle does not fit, or the verifier ended.
    """
    check_output(arguments.folder, folder=True)
    system = _SYSTEMS[arguments.system]
    outages = Outages() if arguments.outages else Outages.never()
    replay, open_live = system.worlds(links_of(arguments.links, arguments.fill)("test"), outages)
    named = system.rules(replay.schema)
    controllers = {**named, **_learned(arguments.bundle, replay, named)}
    plan = make_plan(replay, arguments.answers, arguments.seed)
    shared = {n: make_plan(replay, _SHARED_ROUNDS * n, arguments.seed) for n in arguments.devices}
    answers = len(controllers) * len(plan) + sum(map(len, shared.values()))
    with open_live(answers) as (make_live, answered):
        alone = validate(make_live, replay, controllers, plan, 1, answered)
        together = []
        for number, planned in shared.items():
            together += validate(make_live, replay, {system.shared: named[system.shared]}, planned, number, answered)
    title = f"live against replay, {replay.prompt_count} test prompts{', with outages' if arguments.outages else ''}"
    console.print(_table(system, alone, f"{title}: {len(plan)} answers each, one device"))
    if together:
        console.print(_table(system, together, f"{title}: devices that share one verifier, {_SHARED_ROUNDS} answers each"))
    for each in (*alone, *together):
        for difference in each.agreement.differences:
            console.print(harmless(f"{each.controller}: {difference}"), style="red")
    picture, figures = arguments.folder / "validation.png", arguments.folder / "validation.json"
    write_json(figures, {"alone": [asdict(v) for v in alone], "shared": [asdict(v) for v in together]})
    validation_picture(alone, together, picture, title)
    say("picture", str(picture))
    say("figures", str(figures))
    given = {name: getattr(arguments, name) for name in ("system", "bundle", "links", "fill")}
    say("next", next_step("evaluate", **given))


def _learned(bundles: Sequence[Path], replay: DecisionEnv, taken: Mapping[str, Controller]) -> dict[str, Controller]:
    found: dict[str, Controller] = {}
    for name, path in distinct_names(bundles, taken).items():
        bundle = Bundle.load(path)
        bundle.require(replay.deployment())
        found[name] = bundle.controller(replay.schema)
    return found


def _table(system: _System, found: Sequence[Validated], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("controller", no_wrap=True)
    errors_of = [f"{heading} error" for heading, _ in system.metrics]
    for heading in ("devices", *(heading for heading, _ in system.same), "live s/answer", *errors_of):
        table.add_column(heading, justify="right")
    for each in found:
        errors = [each.agreement.replay_error.get(metric) for _, metric in system.metrics]
        table.add_row(
            harmless(each.controller),
            str(each.devices),
            *(f"{getattr(each.agreement, name):.3f}" for _, name in system.same),
            f"{sum(each.live_seconds) / len(each.live_seconds):.3f}" if each.live_seconds else "-",
            *(f"{e['mean']:.1%} / {e['p95']:.1%}" if e else "-" for e in errors),
        )
    return table


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
