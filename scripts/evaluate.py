"""Evaluate controllers in replay on test prompts and links that no training saw.

Controllers are compared on the answers that all of them keep inside the recorded graphs; how many each one loses is
shown beside it. With --ablation, instead, rules that look at one figure of the draft (its confidence, importance, margin,
entropy) are compared at the same offload rates, with chance and with each other.

Examples:
    synera evaluate                                 # the rules
    synera evaluate --ablation --json runs/ablation.json
    synera evaluate --bundle runs/ppo/bundle runs/mine/bundle --search
    synera evaluate --graphs runs/graphs/test.safetensors --answers 400 --json runs/eval.json
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import ConfigDict

from agents.base import Controller
from agents.bundle import Bundle
from agents.evaluation import Answered, Difference, answer, make_plan, reward_difference, summarise_shared
from agents.registry import rules
from agents.rules import FixedRule
from agents.search import grid_search
from runtime.errors import SettingError
from runtime.settings import within
from scripts import _ablation
from scripts._cli import check_output, check_seed, console, launch, next_step, progress, say
from scripts._report import check_picture, pareto_picture, table
from synera_env import SyneraReplayEnv, write_json
from synera_env.radio import Outages
from traces import bundled
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet

_MOST_ANSWERS = 1_000_000
_BEST_FIXED = "best fixed"
_NO_MEANS = ("answers", "uncovered_rate", "shared_rate")
"""What a summary holds beside the means."""


@dataclass(frozen=True)
class Arguments:
    """Evaluate controllers in replay."""

    bundle: tuple[Path, ...] = ()
    """Bundles to evaluate beside the rules."""
    graphs: Path = field(default_factory=lambda: bundled.graphs("test"))
    """Graph file of the test prompts."""
    answers: int = 160
    """Answers of each controller; prompts are visited evenly."""
    search: bool = False
    """Also search the best fixed thresholds, on the train.safetensors beside the graph file."""
    ablation: bool = False
    """Compare by which figure of a draft to choose what is offloaded, with levels found on the train.safetensors beside the
    graph file, and without outages of the link; takes no bundles and no search."""
    device_profile: Path = field(default_factory=lambda: bundled.profile("phone"))
    """Times and energy of the device."""
    cloud_profile: Path = field(default_factory=lambda: bundled.profile("gpu"))
    """Times of the cloud."""
    seed: int = 0
    """Draws links and offsets."""
    json: Path | None = None
    """Also write the figures here; the fields are those of `scripts.evaluate.Evaluation`, with --ablation of
    `scripts._ablation.AblationFile`."""
    picture: Path | None = None
    """Quality against time, with --ablation against offload rate, as PNG, PDF or SVG; by default runs/evaluate.png or
    runs/ablation.png."""

    def __post_init__(self) -> None:
        within("answers", self.answers, 1, _MOST_ANSWERS)
        check_seed(self.seed)
        if self.ablation and (self.bundle or self.search):
            raise SettingError("--ablation compares figures of the draft; leave out --bundle and --search, or --ablation")
        check_picture(self.drawn)
        outputs = [self.drawn, *([self.json] if self.json is not None else [])]
        inputs = [self.graphs, self.graphs.with_name("train.safetensors"), self.device_profile, self.cloud_profile]
        named = [os.path.realpath(path) for path in outputs]
        if len(set(named)) < len(named) or set(named) & set(map(os.path.realpath, inputs)):
            raise SettingError("json and picture must be files of their own, as what is there is replaced")

    @property
    def drawn(self) -> Path:
        """Where the picture goes."""
        return self.picture or Path("runs") / ("ablation.png" if self.ablation else "evaluate.png")


@dataclass(frozen=True)
class ControllerResult:
    """What came of one controller."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    bundle: str | None
    """Its folder; None for a rule."""
    covered_answers: int
    """Of its planned answers, those that it kept inside the recorded graphs."""
    uncovered_rate: float
    """Share of its planned answers that left the recorded graphs."""
    means: dict[str, float | None]
    """Over the shared answers, by metric (`synera_env.metrics.EpisodeMetrics`), None for one that none of them has; with
    95 % intervals by prompt: quality_low, quality_high, reward_low, reward_high."""
    reward_minus: dict[str, Difference]
    """Mean reward of it minus that of another, by the other's name, with a 95 % interval by prompt."""


@dataclass(frozen=True)
class Evaluation:
    """The JSON file of an evaluation; `traces.schemas.read_json` reads it back."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    graphs: str
    split: str
    device_profile: str
    cloud_profile: str
    seed: int
    planned_answers: int
    """Of each controller."""
    shared_answers: int
    """Those that every controller kept inside the recorded graphs: what the means are over."""
    controllers: dict[str, ControllerResult]
    """By name; a bundle's is its run's, with as much of its path as tells it from the others."""
    format_version: int = 1


def main(arguments: Arguments) -> None:
    """Evaluate, print the table, draw the picture.

    Raises:
        SyneraError: a file cannot be used, a bundle does not fit, or no answer stays inside the graphs.
    """
    for output in (arguments.drawn, arguments.json):
        if output is not None:
            check_output(output)
    device, cloud = DeviceProfile.load(arguments.device_profile), CloudProfile.load(arguments.cloud_profile)
    graphs = GraphSet.load(arguments.graphs)
    if arguments.ablation:
        _ablate(arguments, graphs, device, cloud)
        return
    env = SyneraReplayEnv(graphs, bundled.links("test"), device, cloud)
    baselines = rules(env.schema)
    bundles = distinct_names(arguments.bundle, {*baselines, _BEST_FIXED})
    learned = {name: _usable(path, env) for name, path in bundles.items()}
    searched = _searched(arguments, env) if arguments.search else {}
    plan = make_plan(env, arguments.answers, arguments.seed)
    controllers = baselines | searched | learned
    answered: dict[str, list[Answered]] = {}
    with progress() as bar:
        task = bar.add_task("evaluate", total=len(controllers))
        for name, each in controllers.items():
            answered[name] = [answer(env, each, planned) for planned in plan]
            bar.advance(task)
    _report(arguments, env, bundles, answered)


def _ablate(arguments: Arguments, graphs: GraphSet, device: DeviceProfile, cloud: CloudProfile) -> None:
    """Compare figures of the draft, where no check is lost: what is lost says nothing of what it was about."""
    known = GraphSet.load(arguments.graphs.with_name("train.safetensors"))
    train, test = (
        SyneraReplayEnv(each, bundled.links(split), device, cloud, outages=Outages.never())
        for each, split in ((known, "train"), (graphs, "test"))
    )
    rule = _ablation.run(train, test, arguments.answers, arguments.seed, arguments.drawn, arguments.json)
    _say_what_comes_next(arguments, test, rule)


def distinct_names(paths: Iterable[Path], taken: Iterable[str] = ()) -> dict[str, Path]:
    """Name bundles by their runs, with as many folders above as it takes to tell them from each other.

    Args:
        paths: folders of bundles; a last part `bundle` says nothing, and one that is given twice counts once.
        taken: names that none of them may have.
    """
    folders: dict[tuple[str, ...], Path] = {}
    for path in paths:
        parts = Path(os.path.realpath(path)).parts
        folders.setdefault(parts[:-1] if parts[-1] == "bundle" and len(parts) > 2 else parts, path)
    taken, lengths = set(taken), dict.fromkeys(folders, 1)
    while True:
        names = {parts: "/".join(parts[-length:]) for parts, length in lengths.items()}
        used = Counter(names.values())
        longer = [p for p, name in names.items() if (name in taken or used[name] > 1) and lengths[p] < len(p)]
        if not longer:
            return {name: folders[parts] for parts, name in names.items()}
        for parts in longer:
            lengths[parts] += 1


def _usable(path: Path, env: SyneraReplayEnv) -> Controller:
    bundle = Bundle.load(path)
    bundle.require(env.deployment())
    return bundle.controller(env.schema)


def _searched(arguments: Arguments, env: SyneraReplayEnv) -> dict[str, Controller]:
    graphs = GraphSet.load(arguments.graphs.with_name("train.safetensors"))
    found = grid_search(SyneraReplayEnv(graphs, bundled.links("train"), env.device, env.cloud), episodes=96)
    console.print(f"best of {found.tried} fixed settings on training prompts: {found.knobs}")
    return {_BEST_FIXED: FixedRule(found.knobs, env.schema)}


def _report(
    arguments: Arguments, env: SyneraReplayEnv, bundles: Mapping[str, Path], answered: Mapping[str, Sequence[Answered]]
) -> None:
    """Print the table and what it rests on, draw the picture, write the figures, say what comes next."""
    found = summarise_shared(answered)
    planned = len(next(iter(answered.values())))
    shared = sum(all(a.metrics is not None for a in same) for same in zip(*answered.values(), strict=True))
    summaries = {name: {"replay": summary} for name, summary in found.items()}
    console.print(table(summaries, f"replay, {shared} answers to {len(env.graphs)} {env.graphs.meta.split} prompts"))
    if shared < planned:
        console.print(
            f"{planned - shared} of {planned} answers left the recorded graphs with one controller or another and are not counted; "
            "the column uncovered says how many each one lost: record with a larger node budget",
            style="yellow",
        )
    reference = _BEST_FIXED if _BEST_FIXED in answered else "threshold"
    minus = {name: reward_difference(answered[name], answered[reference]) for name in bundles}
    for name, difference in minus.items():
        console.print(f"reward of {name} minus {reference}, same answers, interval by prompt: {difference}")
    results = {
        name: ControllerResult(
            bundle=str(bundles[name]) if name in bundles else None,
            covered_answers=sum(a.metrics is not None for a in answered[name]),
            uncovered_rate=summary["uncovered_rate"],
            means={key: _known(value) for key, value in summary.items() if key not in _NO_MEANS},
            reward_minus={reference: minus[name]} if name in minus else {},
        )
        for name, summary in found.items()
    }
    evaluation = Evaluation(
        graphs=str(arguments.graphs),
        split=env.graphs.meta.split,
        device_profile=str(arguments.device_profile),
        cloud_profile=str(arguments.cloud_profile),
        seed=arguments.seed,
        planned_answers=planned,
        shared_answers=shared,
        controllers=results,
    )
    pareto_picture(summaries, arguments.drawn, f"Replay on {env.graphs.meta.split} prompts")
    say("picture", str(arguments.drawn))
    if arguments.json is not None:
        write_json(arguments.json, asdict(evaluation))
        say("figures", str(arguments.json))
    best = max(bundles, key=lambda name: found[name]["reward"], default=None)
    _say_what_comes_next(arguments, env, None if best is None else str(bundles[best]))


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _say_what_comes_next(arguments: Arguments, env: SyneraReplayEnv, controller: str | None) -> None:
    """Name what was given, the models that the graphs say that they were recorded with, and what is worth deploying."""
    notes = env.graphs.meta.notes
    served = {"model": notes["llm"]} if "llm" in notes else {}
    deployed = {"slm": notes["slm"]} if "slm" in notes else {}
    if controller is not None:
        deployed["controller"] = controller
    deploy = next_step("deploy", **deployed, profile=arguments.device_profile)
    say("next", next_step("serve", **served), f"{deploy}   # in another terminal")


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
