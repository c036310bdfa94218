"""Show what a graph file holds (figures, a prompt's graph as text and picture, what controllers keep inside), link traces, or a workload.

A path that does not end in .safetensors is a workload, where what is in it says so: arrivals, lengths and bursts, and a picture.
Otherwise it is that of link traces, a file or a folder of any form that is known: by family how long, how fast, how often cut off,
and by which rule what was not recorded was filled; and a picture over time.

With --coverage every rule, random controllers, levels of a draft, presets with one knob changed, and the bundles that are named
answer its prompts in replay. A decision that needs what was not recorded leaves the graph, and ends its answer there.

Examples:
    synera inspect-trace runs/graphs/test.safetensors
    synera inspect-trace runs/graphs/test.safetensors --prompt 3 --lines 60
    synera inspect-trace traces/                    # link traces, by family
    synera inspect-trace AzureLLMInferenceTrace_conv.csv --picture runs/workload.png
    synera inspect-trace runs/graphs/train.safetensors --coverage --bundle runs/mine/bundle --json runs/coverage.json
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro
from pydantic import ConfigDict
from rich.table import Table

from agents.bundle import Bundle
from agents.coverage import Covered, measure_coverage, swept
from agents.evaluation import MOST_ANSWERS, make_plan
from runtime.errors import SettingError
from runtime.settings import whole, within
from scripts import _graph_view, _hat_view, _link_view, _workload_view
from scripts._cli import check_output, check_seed, console, launch, next_step, progress, say
from scripts._contestants import distinct_names
from scripts._links import check_filling, links_of
from scripts._report import check_picture
from scripts._systems import unless_bundled
from scripts._text import harmless
from scripts._tree_view import draw as draw_tree
from synera_env import SyneraReplayEnv, write_json
from traces.hat.graph import KEY, HatGraphs
from traces.hat.inspection import HatFigures
from traces.hat.inspection import figures as hat_figures
from traces.links.filling import Filling
from traces.links.inspection import FamilyFigures, figures_by_family
from traces.links.readers import load
from traces.synera import graph_file
from traces.synera.graph import GraphSet
from traces.synera.inspection import GraphFigures, figures
from traces.workload.readers import holds_workload, load_workload
from traces.workload.trace import plain_figures

WANTED_STEPS = 0.99
"""Share of a controller's decisions that should stay inside."""
_MOST_LINES = 10_000
_GRAPHS = ".safetensors"


@dataclass(frozen=True)
class Arguments:
    """Show a graph file, link traces, or a workload."""

    path: tyro.conf.Positional[Path]
    """Graph file; a file or folder of link traces; or a workload: JSON, CSV, an Azure LLM trace of 2023 or Mooncake lines, packed or not."""
    prompt: int | None = None
    """Draw the graph of this prompt, by its number from 1: as text, and as a picture."""
    lines: int = 40
    """Most branches of that drawing; what is least likely is left out first."""
    coverage: bool = False
    """Measure how much controllers keep inside."""
    bundle: tuple[Path, ...] = ()
    """With --coverage, also of these bundles."""
    answers: int = 160
    """With --coverage, answers of each controller; prompts are visited evenly."""
    seed: int = 0
    """With --coverage, draws links and offsets."""
    links: Path | None = None
    """With --coverage, file or folder of recorded links, instead of the bundled ones; those for the test are taken."""
    fill: Filling = field(default_factory=Filling)
    """Your figures for what was not recorded of link traces."""
    picture: Path | None = None
    """Of a prompt's graph: its tree, by default runs/graph.png. Of link traces: the longest of each family over time, by default
    runs/links.png. Of a workload: by default runs/workload.png. PNG, PDF or SVG."""
    json: Path | None = None
    """Also write the figures here; the fields are those of `scripts.inspect_trace.Inspection`, of link traces of
    `scripts.inspect_trace.LinkInspection`, of HAT's graphs of `scripts.inspect_trace.HatInspection`, of a workload of
    `traces.workload.trace.WorkloadFigures`."""

    def __post_init__(self) -> None:
        within("lines", self.lines, 1, _MOST_LINES)
        within("answers", self.answers, 1, MOST_ANSWERS)
        check_seed(self.seed)
        if self.prompt is not None:
            whole("prompt", self.prompt, 1, 2**31)
        if self.bundle and not self.coverage:
            raise SettingError("--bundle names whose coverage is measured; add --coverage")
        if self.links is not None and not self.coverage:
            raise SettingError("--links names what coverage is measured on; add --coverage, or give the path of links alone")
        if not self.of_graphs:
            if self.coverage or self.prompt is not None:
                raise SettingError(f"--coverage and --prompt are of a graph file, NAME{_GRAPHS}, not of {self.path}")
        else:
            if self.picture is not None and self.prompt is None:
                raise SettingError(f"--picture is of links, a workload, or one prompt of {self.path}; name that with --prompt")
            check_filling(self.links, self.fill)
        if self.picture is not None:
            check_picture(self.picture)
        outputs = {os.path.realpath(each) for each in (self.json, self.picture) if each is not None}
        if os.path.realpath(self.path) in outputs or (self.json and self.picture and len(outputs) < 2):
            raise SettingError("json must be a file of its own, as what is there is replaced; so must picture")

    @property
    def of_graphs(self) -> bool:
        """Whether the path is a graph file's."""
        return self.path.suffix == _GRAPHS

    def drawn(self, what: str) -> Path:
        """Where a picture of this goes."""
        return self.picture or Path("runs") / f"{what}.png"


@dataclass(frozen=True)
class Inspection:
    """The JSON file of an inspection; `traces.schemas.read_json` reads it back."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    graphs: str
    split: str
    figures: GraphFigures
    stated_coverage: dict[str, float]
    """What the recorder wrote down."""
    notes: dict[str, str | int | float | None]
    seed: int
    coverage: dict[str, Covered]
    """By controller; empty unless it was measured."""
    format_version: int = 1


@dataclass(frozen=True)
class HatInspection:
    """The JSON file of an inspection of HAT's graphs; `traces.schemas.read_json` reads it back."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    graphs: str
    split: str
    figures: HatFigures
    notes: dict[str, str | int | float | None]
    format_version: int = 1


@dataclass(frozen=True)
class LinkInspection:
    """The JSON file of an inspection of link traces; `traces.schemas.read_json` reads it back."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    path: str
    families: dict[str, FamilyFigures]
    format_version: int = 1


def main(arguments: Arguments) -> None:
    """Read, print, measure.

    Raises:
        SyneraError: a file cannot be used, a bundle does not fit, or there is no such prompt.
    """
    if arguments.json is not None:
        check_output(arguments.json)
    if arguments.of_graphs and graph_file.holds(arguments.path, KEY):
        _inspect_hat(arguments)
    elif arguments.of_graphs:
        _inspect_graphs(arguments)
    elif holds_workload(arguments.path):
        _inspect_workload(arguments)
    else:
        _inspect_links(arguments)


def _inspect_graphs(arguments: Arguments) -> None:
    graphs = GraphSet.load(arguments.path)
    if arguments.prompt is not None and arguments.prompt > len(graphs):
        raise SettingError(f"the file has no prompt {arguments.prompt}; it has {len(graphs)} prompts")
    found, covered = figures(graphs), dict[str, Covered]()
    if arguments.prompt is not None:
        drawn = arguments.drawn("graph")
        check_output(drawn)
        _graph_view.draw(graphs, arguments.prompt, arguments.lines)
        draw_tree(graphs, arguments.prompt - 1, arguments.lines, drawn)
        say("picture", str(drawn))
    else:
        _graph_view.show(arguments.path, graphs, found)
    if arguments.coverage:
        covered = _measured(arguments, graphs)
        console.print(_coverage_table(covered))
        _say_what_is_short(covered)
    if arguments.json is not None:
        meta = graphs.meta
        inspection = Inspection(str(arguments.path), meta.split, found, meta.coverage, meta.notes, arguments.seed, covered)
        write_json(arguments.json, asdict(inspection))
        say("figures", str(arguments.json))
    _say_what_comes_next(arguments)


def _inspect_hat(arguments: Arguments) -> None:
    if arguments.coverage or arguments.picture is not None:
        raise SettingError(
            f"{arguments.path} holds HAT's graphs: they are always whole, so leave out --coverage, and are no trees, so leave out --picture"
        )
    graphs = HatGraphs.load(arguments.path)
    if arguments.prompt is not None and arguments.prompt > len(graphs):
        raise SettingError(f"the file has no prompt {arguments.prompt}; it has {len(graphs)} prompts")
    found = hat_figures(graphs)
    if arguments.prompt is not None:
        _hat_view.draw(graphs, arguments.prompt, arguments.lines)
    else:
        _hat_view.show(arguments.path, graphs, found)
    if arguments.json is not None:
        write_json(arguments.json, asdict(HatInspection(str(arguments.path), graphs.meta.split, found, graphs.meta.notes)))
        say("figures", str(arguments.json))
    folder = arguments.path.parent
    if arguments.path.name == "train.safetensors" and (folder / "validation.safetensors").is_file():
        say("next", next_step("train", system="hat", graphs=unless_bundled(folder, "hat")))
    else:
        say("next", next_step("evaluate", system="hat", graphs=unless_bundled(arguments.path, "hat")))


def _inspect_links(arguments: Arguments) -> None:
    picture = arguments.drawn("links")
    check_output(picture)
    links = load(arguments.path, arguments.fill)
    families = figures_by_family(links)
    _link_view.show(arguments.path, links, families)
    drawn = _link_view.draw(links, picture)
    left_out = f", of {len(families) - len(drawn)} families more there is no room" if len(drawn) < len(families) else ""
    say("picture", f"{picture}   # the longest trace of each family{left_out}")
    if arguments.json is not None:
        write_json(arguments.json, asdict(LinkInspection(str(arguments.path), families)))
        say("figures", str(arguments.json))
    given = {"links": arguments.path, "fill": arguments.fill}
    say("next", next_step("train", **given), next_step("evaluate", **given))


def _inspect_workload(arguments: Arguments) -> None:
    if arguments.fill != Filling():
        raise SettingError(f"--fill says what recorded links lack, and {arguments.path} holds no link traces but a workload")
    drawn = arguments.drawn("workload")
    check_output(drawn)
    workload = load_workload(arguments.path)
    _workload_view.show(workload)
    _workload_view.draw(workload, drawn)
    say("picture", str(drawn))
    if arguments.json is not None:
        write_json(arguments.json, plain_figures(workload))
        say("figures", str(arguments.json))
    say("next", next_step("validate-load", workload=arguments.path), next_step("evaluate", workload=arguments.path))


def _measured(arguments: Arguments, graphs: GraphSet) -> dict[str, Covered]:
    env = SyneraReplayEnv(graphs, links_of(arguments.links, arguments.fill)("test"))
    controllers = swept(env.schema)
    for name, path in distinct_names(arguments.bundle, controllers).items():
        bundle = Bundle.load(path)
        bundle.require(env.deployment())
        controllers[name] = bundle.controller(env.schema)
    plan = make_plan(env, arguments.answers, arguments.seed)
    with progress() as bar:
        task = bar.add_task("coverage", total=len(controllers))
        return measure_coverage(env, controllers, plan, lambda: bar.advance(task))


def _coverage_table(covered: Mapping[str, Covered]) -> Table:
    answers, steps = next(iter(covered.values())).answers, sum(each.steps for each in covered.values())
    table = Table(
        title=f"what stays inside, {answers} answers of each controller, {steps} decisions; 95 % intervals by prompt",
        title_justify="left",
    )
    table.add_column("controller", no_wrap=True)
    for head in ("decisions", "left", "decisions inside", "answers inside"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, each in covered.items():
        cells = (str(each.steps), str(each.uncovered), f"{each.steps_inside:.4f}", f"{each.answers_inside:.4f}")
        table.add_row(harmless(name), *cells, style=None if each.steps_inside.mean >= WANTED_STEPS else "yellow")
    return table


def _say_what_is_short(covered: Mapping[str, Covered]) -> None:
    short = [name for name, each in covered.items() if each.steps_inside.mean < WANTED_STEPS]
    worst = min(covered, key=lambda name: covered[name].steps_inside.mean)
    share = f"the least is {harmless(worst)} with {covered[worst].steps_inside.mean:.2%}"
    if short:
        console.print(
            f"{len(short)} of {len(covered)} controllers keep less than {WANTED_STEPS:.0%} of their decisions inside; {share}: "
            "record with a larger node budget, or let them grow",
            style="yellow",
        )
    else:
        console.print(f"all of {len(covered)} controllers keep {WANTED_STEPS:.0%} of their decisions or more inside; {share}")


def _say_what_comes_next(arguments: Arguments) -> None:
    path, validation = arguments.path, arguments.path.with_name("validation.safetensors")
    if not arguments.coverage:
        say("next", shlex.join(["synera", "inspect-trace", str(path), "--coverage"]))
    elif path.name == "train.safetensors" and validation.is_file():
        say("next", next_step("train", graphs=unless_bundled(path.parent), links=arguments.links, fill=arguments.fill))
    else:
        given = {"bundle": arguments.bundle, "links": arguments.links, "fill": arguments.fill}
        say("next", next_step("evaluate", graphs=unless_bundled(path), **given))


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
