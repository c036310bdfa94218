"""Show what a graph file holds: its figures, one prompt's graph as text, and how much controllers keep inside it; or a workload.

With --coverage every rule, random controllers, levels of a draft, presets with one knob changed, and the bundles that are named
answer its prompts in replay. A decision that needs what was not recorded leaves the graph, and ends its answer there. Of a workload
(any other file than .safetensors) arrivals, lengths and bursts are shown, as a picture too.

Examples:
    synera inspect-trace runs/graphs/test.safetensors
    synera inspect-trace runs/graphs/test.safetensors --prompt 3 --lines 60
    synera inspect-trace runs/graphs/train.safetensors --coverage --bundle runs/mine/bundle --json runs/coverage.json
    synera inspect-trace AzureLLMInferenceTrace_conv.csv --picture runs/workload.png
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from pydantic import ConfigDict
from rich.table import Table

from agents.bundle import Bundle
from agents.coverage import Covered, measure_coverage, swept
from agents.evaluation import MOST_ANSWERS, make_plan
from runtime.errors import SettingError
from runtime.settings import shown, whole, within
from scripts._cli import check_output, check_seed, console, launch, next_step, progress, say
from scripts._report import check_picture
from scripts._text import harmless
from scripts._workload_picture import workload_picture
from scripts.evaluate import distinct_names
from synera_env import SyneraReplayEnv, write_json
from traces import bundled
from traces.synera.graph import GraphSet
from traces.synera.inspection import GraphFigures, figures, picture
from traces.workload.readers import load_workload
from traces.workload.trace import plain_figures

WANTED_STEPS = 0.99
"""Share of a controller's decisions that should stay inside."""
_MOST_LINES = 10_000
_LONGEST_PROMPT = 500


@dataclass(frozen=True)
class Arguments:
    """Show a graph file."""

    graphs: tyro.conf.Positional[Path]
    """Graph file (.safetensors), or a workload: JSON, CSV, an Azure LLM trace of 2023 or Mooncake lines, packed or not."""
    prompt: int | None = None
    """Draw the graph of this prompt, by its number from 1."""
    lines: int = 40
    """Most lines of that drawing; what is least likely is left out first."""
    coverage: bool = False
    """Measure how much controllers keep inside."""
    bundle: tuple[Path, ...] = ()
    """With --coverage, also of these bundles."""
    answers: int = 160
    """With --coverage, answers of each controller; prompts are visited evenly."""
    seed: int = 0
    """With --coverage, draws links and offsets."""
    json: Path | None = None
    """Also write the figures here; the fields are those of `scripts.inspect_trace.Inspection`, for a workload of
    `traces.workload.trace.WorkloadFigures`."""
    picture: Path | None = None
    """Of a workload, as PNG, PDF or SVG; by default runs/workload.png."""

    def __post_init__(self) -> None:
        within("lines", self.lines, 1, _MOST_LINES)
        within("answers", self.answers, 1, MOST_ANSWERS)
        check_seed(self.seed)
        if self.prompt is not None:
            whole("prompt", self.prompt, 1, 2**31)
        if self.bundle and not self.coverage:
            raise SettingError("--bundle names whose coverage is measured; add --coverage")
        if self.picture is not None:
            check_picture(self.picture)
        if self.is_workload and (self.coverage or self.prompt is not None):
            raise SettingError(
                f"{shown(str(self.graphs), 200)} is no graph file (.safetensors); --prompt and --coverage are of graphs"
            )
        if not self.is_workload and self.picture is not None:
            raise SettingError("--picture draws a workload; a graph is drawn with --prompt")
        if self.json is not None and os.path.realpath(self.json) == os.path.realpath(self.graphs):
            raise SettingError("json must be a file of its own, as what is there is replaced")
        named = [os.path.realpath(path) for path in (self.graphs, self.json, self.picture) if path is not None]
        if len(set(named)) < len(named):
            raise SettingError("json and picture must be files of their own, as what is there is replaced")

    @property
    def is_workload(self) -> bool:
        """Whether another file than one of graphs is named."""
        return self.graphs.suffix != ".safetensors"


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


def main(arguments: Arguments) -> None:
    """Read, print, measure.

    Raises:
        SyneraError: a file cannot be used, a bundle does not fit, or there is no such prompt.
    """
    if arguments.json is not None:
        check_output(arguments.json)
    if arguments.is_workload:
        _show_workload(arguments)
        return
    graphs = GraphSet.load(arguments.graphs)
    if arguments.prompt is not None and arguments.prompt > len(graphs):
        raise SettingError(f"the file has no prompt {arguments.prompt}; it has {len(graphs)} prompts")
    found, covered = figures(graphs), dict[str, Covered]()
    if arguments.prompt is not None:
        _draw(graphs, arguments.prompt, arguments.lines)
    else:
        _show(arguments.graphs, graphs, found)
    if arguments.coverage:
        covered = _measured(arguments, graphs)
        console.print(_coverage_table(covered))
        _say_what_is_short(covered)
    if arguments.json is not None:
        meta = graphs.meta
        inspection = Inspection(str(arguments.graphs), meta.split, found, meta.coverage, meta.notes, arguments.seed, covered)
        write_json(arguments.json, asdict(inspection))
        say("figures", str(arguments.json))
    _say_what_comes_next(arguments)


def _show_workload(arguments: Arguments) -> None:
    """Print what a workload amounts to and draw it."""
    drawn = arguments.picture or Path("runs") / "workload.png"
    check_output(drawn)
    workload = load_workload(arguments.graphs)
    found = workload.figures
    console.print(f"{harmless(workload.name)}: {harmless(workload.source)}")
    console.print(
        f"{found.requests} requests in {found.span_seconds:.0f} s, {found.rate:.3g} a second; gaps between them vary by {found.gap_cv:.3g} times "
        "their mean (1: Poisson, more: bursts)"
    )
    for what, spread in (("context", found.context), ("generated", found.generated)):
        console.print(
            f"{what} tokens: mean {spread.mean:.0f}, median {spread.p50:.0f}, 95th percentile {spread.p95:.0f}, most {spread.most:.0f}"
        )
    workload_picture(workload, drawn)
    say("picture", str(drawn))
    if arguments.json is not None:
        write_json(arguments.json, plain_figures(workload))
        say("figures", str(arguments.json))
    say("next", next_step("validate-load", workload=arguments.graphs), next_step("evaluate", workload=arguments.graphs))


def _measured(arguments: Arguments, graphs: GraphSet) -> dict[str, Covered]:
    env = SyneraReplayEnv(graphs, bundled.links("test"))
    controllers = swept(env.schema)
    for name, path in distinct_names(arguments.bundle, controllers).items():
        bundle = Bundle.load(path)
        bundle.require(env.deployment())
        controllers[name] = bundle.controller(env.schema)
    plan = make_plan(env, arguments.answers, arguments.seed)
    with progress() as bar:
        task = bar.add_task("coverage", total=len(controllers))
        return measure_coverage(env, controllers, plan, lambda: bar.advance(task))


def _show(path: Path, graphs: GraphSet, found: GraphFigures) -> None:
    meta, size = graphs.meta, path.stat().st_size
    exits = ", ".join(map(str, meta.exit_layers))
    console.print(f"{harmless(str(path))}: {size / 1e6:.1f} MB, {size / found.nodes:.0f} bytes a node")
    console.print(
        f"{found.prompts} {harmless(meta.split)} prompts, answers of up to {meta.max_new_tokens} tokens, context {meta.context}; "
        f"exits after layer {exits} of {meta.layers}"
    )
    console.print(f"models: SLM {meta.slm_fingerprint}, LLM {meta.llm_fingerprint}, tokenizer {meta.tokenizer_hash}")
    directions = graphs.lens_tensors["lens.directions"].shape
    console.print(f"lens: {directions[1]} directions of a hidden state of {directions[2]}, for each exit")
    if meta.notes:
        console.print(f"recorded with: {harmless(', '.join(f'{name} {value}' for name, value in meta.notes.items()))}")
    console.print(
        f"{found.nodes} nodes, {found.ends} of them the end of an answer; of {found.ways} tokens that are said at the others "
        f"{found.unrecorded} lead out ({found.unrecorded / max(1, found.ways):.2%}); SLM and LLM disagree at {found.disagree:.1%}"
    )
    console.print(_kinds_table(found))
    if meta.coverage:
        stated = ", ".join(f"{name} {share:.4f}" for name, share in meta.coverage.items())
        console.print(f"stated coverage, of walks by the token: {harmless(stated)}")


def _kinds_table(found: GraphFigures) -> Table:
    table = Table(title="by kind of prompt", title_justify="left")
    table.add_column("kind", no_wrap=True)
    heads = ("prompts", "closed", "nodes, median", "most", "longest answer", "SLM's own score", "of", "LLM's own score", "of")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for name, kind in found.kinds.items():
        table.add_row(
            *(harmless(name), str(kind.prompts), str(kind.closed), f"{kind.nodes_median:g}", str(kind.nodes_most)),
            *(str(kind.deepest), _score(kind.slm_score), str(kind.slm_inside), _score(kind.llm_score), str(kind.llm_inside)),
        )
    return table


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def _draw(graphs: GraphSet, number: int, lines: int) -> None:
    graph = graphs[number - 1]
    console.print(f"prompt {number} ({harmless(graph.kind)}), {len(graph)} nodes: {shown(graph.prompt, _LONGEST_PROMPT)}")
    for line in picture(graphs, number - 1, lines):
        console.print(harmless(line))
    console.print("[who says it, the exit's probability] tokens until they differ again; = score, -> out, ... left out here")


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
        cells = (str(each.steps), str(each.uncovered), str(each.steps_inside), str(each.answers_inside))
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
    path, validation = arguments.graphs, arguments.graphs.with_name("validation.safetensors")
    if not arguments.coverage:
        say("next", shlex.join(["synera", "inspect-trace", str(path), "--coverage"]))
    elif path.name == "train.safetensors" and validation.is_file():
        say("next", next_step("train", graphs=path.parent))
    else:
        say("next", next_step("evaluate", graphs=path, bundle=arguments.bundle))


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
