"""Evaluate controllers in replay on test prompts and links that no training saw.

Where answers leave the recorded graphs, those that a controller keeps stand for those that it loses, to the same prompt or
to prompts of the same kind; how many each one loses is shown beside it. With --ablation, instead, rules that look at one
figure of the draft (its confidence, importance, margin, entropy) are compared at the same offload rates, with chance and with
each other, and by what they take of what a single decision is worth to a clairvoyant.

Examples:
    synera evaluate                                 # the rules
    synera evaluate --ablation --json runs/ablation.json
    synera evaluate --bundle runs/ppo/bundle runs/mine/bundle --search
    synera evaluate --controller staged rejection=0.4 linucb runs/rules/link-aware.json my_rules:Mine
    synera evaluate --links traces/ --bundle runs/ppo/bundle   # on recorded links, a table for each family of them
    synera evaluate --graphs runs/graphs/test.safetensors --answers 400 --json runs/eval.json
    synera evaluate --graphs runs/graphs/test.safetensors --slm /models/small --llm /models/large   # models that moved
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agents.base import Controller
from agents.bundle import Bundle
from agents.comparison import ADVICE, covered_share, summarise_all
from agents.evaluation import Answered, answer_all, make_plan, plans_by_family
from agents.limits import NO_LIMIT, capped, check_limit
from agents.registry import controller, rules
from agents.rule_file import SUFFIX, RuleFile
from agents.rules import FixedRule
from agents.search import grid_search
from runtime.errors import SettingError
from runtime.settings import shown, within
from scripts import _ablation
from scripts._cli import check_output, check_seed, console, launch, next_step, progress, say
from scripts._evaluation import Evaluation, FamilyResult, family_table, results_of
from scripts._growth import Grow, Grower, say_grown
from scripts._links import LinksOf, check_filling, links_of
from scripts._report import check_picture, pareto_picture, table
from scripts._text import harmless
from synera_env import Preference, SyneraReplayEnv, write_json
from synera_env.busy import read_cloud_load
from synera_env.radio import Outages
from synera_env.reward import Prefer, chosen_preference
from traces import bundled
from traces.links.filling import Filling, filled_by_family
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs

_MOST_ANSWERS = 1_000_000
_BEST_FIXED = "best fixed"
_ALL = "all links"


@dataclass(frozen=True)
class Arguments:
    """Evaluate controllers in replay."""

    bundle: tuple[Path, ...] = ()
    """Bundles to evaluate beside the rules."""
    controller: tuple[str, ...] = ()
    """Further controllers, as synera deploy takes them: rules and bandits by name (such as until-unsure, staged, rejection=0.5,
    ucbspec, exp3spec, linucb, margin=0.5), files of rules that synera fit-rules wrote, and classes of yours as MODULE:CLASS."""
    graphs: Path = field(default_factory=lambda: bundled.graphs("test"))
    """Graph file of the test prompts."""
    answers: int = 160
    """Answers of each controller, with --links on the links of each family; prompts are visited evenly."""
    search: bool = False
    """Also search the best fixed thresholds, on the train.safetensors beside the graph file."""
    ablation: bool = False
    """Compare by which figure of a draft to choose what is offloaded, with levels found on the train.safetensors beside the
    graph file, and without outages of the link; takes no bundles and no search."""
    grow: Grow = "auto"
    """Run what was not recorded with the models, the moment an answer needs it. auto: open graphs whose models are at
    hand. yes: all graphs. no: an answer ends where it leaves what was recorded."""
    slm: Path | None = None
    """Folder of the SLM that the graphs were recorded with, where it is not where they say."""
    llm: Path | None = None
    """Folder of the LLM, likewise."""
    score: str | None = None
    """Your function, MODULE:FUNCTION, that answers were scored by when they were recorded: graphs that grow ask it again."""
    device_profile: Path = field(default_factory=lambda: bundled.profile("phone"))
    """Times and energy of the device."""
    cloud_profile: Path = field(default_factory=lambda: bundled.profile("gpu"))
    """Times of the cloud."""
    links: Path | None = None
    """File or folder of recorded links, instead of the bundled ones; those for the test are taken (traces.links.splits says which),
    and there is a table for each family of them."""
    fill: Filling = field(default_factory=Filling)
    """With --links, your figures for what was not recorded."""
    workload: Path | None = None
    """Workload file (synera inspect-trace shows one): requests that the cloud serves beside the device, at the rate that they
    have in it; by default the cloud profile says how busy the cloud is, and each check draws it anew."""
    prefer: Prefer = "balanced"
    """What is valued, by name: the weight of seconds (speed), cloud seconds (cost), joules (energy) or megabytes (traffic) three times
    its default; or quality, with all of these a third."""
    preference: Preference = field(default_factory=Preference)
    """What is valued, weight by weight."""
    max_offload: float = NO_LIMIT
    """A hard limit for every controller, 0..1: of the first t chunks of an answer at most this share of t, rounded up, is sent."""
    seed: int = 0
    """Draws links and offsets."""
    json: Path | None = None
    """Also write the figures here; the fields are those of `scripts._evaluation.Evaluation`, with --ablation of
    `scripts._ablation.AblationFile`."""
    picture: Path | None = None
    """Quality against time, with --ablation against offload rate, as PNG, PDF or SVG; by default runs/evaluate.png or
    runs/ablation.png."""

    def __post_init__(self) -> None:
        within("answers", self.answers, 1, _MOST_ANSWERS)
        check_seed(self.seed)
        check_filling(self.links, self.fill)
        check_limit(self.max_offload)
        chosen_preference(self.prefer, self.preference)
        if self.ablation and (self.bundle or self.controller or self.search):
            raise SettingError(
                "--ablation compares figures of the draft; leave out --bundle, --controller and --search, or --ablation"
            )
        if self.ablation and self.workload:
            raise SettingError("--ablation compares figures of the draft; leave out --workload, or --ablation")
        check_picture(self.drawn)
        outputs = [self.drawn, *([self.json] if self.json is not None else [])]
        inputs = [self.graphs, self.graphs.with_name("train.safetensors"), self.device_profile, self.cloud_profile]
        inputs += [] if self.workload is None else [self.workload]
        named = [os.path.realpath(path) for path in outputs]
        if len(set(named)) < len(named) or set(named) & set(map(os.path.realpath, inputs)):
            raise SettingError("json and picture must be files of their own, as what is there is replaced")

    @property
    def valued(self) -> Preference:
        """What is valued."""
        return chosen_preference(self.prefer, self.preference)

    @property
    def drawn(self) -> Path:
        """Where the picture goes."""
        return self.picture or Path("runs") / ("ablation.png" if self.ablation else "evaluate.png")


def main(arguments: Arguments) -> None:
    """Evaluate, print the table, draw the picture.

    Raises:
        SyneraError: a file cannot be used, a bundle does not fit, or no answer stays inside the graphs.
    """
    for output in (arguments.drawn, arguments.json):
        if output is not None:
            check_output(output)
    device, cloud = DeviceProfile.load(arguments.device_profile), CloudProfile.load(arguments.cloud_profile)
    links = links_of(arguments.links, arguments.fill)
    tested = links("test")
    grower = Grower(arguments.grow, arguments.slm, arguments.llm, arguments.score)
    graphs = grower(GraphSet.load(arguments.graphs))
    if arguments.ablation:
        _ablate(arguments, graphs, grower, {"train": links("train"), "test": tested}, device, cloud)
        return
    load = None if arguments.workload is None else read_cloud_load(arguments.workload, cloud)
    env = SyneraReplayEnv(graphs, tested, device, cloud, cloud_load=load)
    baselines = rules(env.schema)
    bundles = distinct_names(arguments.bundle, {*baselines, *arguments.controller, _BEST_FIXED})
    learned = {name: _usable(path, env) for name, path in bundles.items()}
    named = _named(arguments.controller, env)
    searched = _searched(arguments, env, grower, links) if arguments.search else {}
    plans = {_ALL: make_plan(env, arguments.answers, arguments.seed, arguments.valued)}
    if arguments.links is not None:
        plans = plans_by_family(env, arguments.answers, arguments.seed, arguments.valued)
    controllers = {
        name: capped(each, env.schema, arguments.max_offload) for name, each in (baselines | named | searched | learned).items()
    }
    answered: dict[str, dict[str, list[Answered]]] = {name: {} for name in plans}
    with progress() as bar:
        task = bar.add_task("evaluate", total=len(controllers) * len(plans))
        for name, each in controllers.items():
            for links_of_plan, plan in plans.items():
                answered[links_of_plan][name] = answer_all(env, each, plan)
                bar.advance(task)
    say_grown({graphs.meta.split: graphs})
    _report(arguments, env, bundles, answered)


def _ablate(
    arguments: Arguments,
    graphs: GraphSet | GrowingGraphs,
    grower: Grower,
    links: Mapping[str, Sequence[LinkTrace]],
    device: DeviceProfile,
    cloud: CloudProfile,
) -> None:
    """Compare figures of the draft, where no check is lost: what is lost says nothing of what it was about."""
    known = grower(GraphSet.load(arguments.graphs.with_name("train.safetensors")))
    train, test = (
        SyneraReplayEnv(each, links[split], device, cloud, outages=Outages.never())
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


def _named(names: Sequence[str], env: SyneraReplayEnv) -> dict[str, Controller]:
    """Controllers by the names that they were given; a bundle's folder is for --bundle, which names it by its run."""
    for name in names:
        if os.path.isdir(name):
            raise SettingError(f"--controller {shown(name)} is a folder; name a bundle with --bundle")
        if name.endswith(SUFFIX):
            RuleFile.load(name).require(env.deployment())
    return {name: controller(name, env.schema) for name in names}


def _searched(arguments: Arguments, env: SyneraReplayEnv, grower: Grower, links: LinksOf) -> dict[str, Controller]:
    graphs = grower(GraphSet.load(arguments.graphs.with_name("train.safetensors")))
    world = SyneraReplayEnv(graphs, links("train"), env.device, env.cloud, cloud_load=env.cloud_load)
    found = grid_search(world, episodes=96, preference=arguments.valued)
    console.print(f"best of {found.tried} fixed settings on training prompts: {found.knobs}")
    return {_BEST_FIXED: FixedRule(found.knobs, env.schema)}


def _report(
    arguments: Arguments,
    env: SyneraReplayEnv,
    bundles: Mapping[str, Path],
    answered: Mapping[str, Mapping[str, Sequence[Answered]]],
) -> None:
    """Print the tables and what they rest on, draw the picture, write the figures, say what comes next."""
    families: dict[str, FamilyResult] = {}
    if arguments.links is not None:
        for family, of_family in answered.items():
            families[family] = _family(arguments, env, family, bundles, of_family)
    together = {name: [a for of in answered.values() for a in of[name]] for name in next(iter(answered.values()))}
    planned = len(next(iter(together.values())))
    found = summarise_all(together)
    summaries = {name: {"replay": summary} for name, summary in found.items()}
    where = f", links of {len(families)} families" if families else ""
    console.print(table(summaries, f"replay, {planned} answers to {len(env.graphs)} {env.graphs.meta.split} prompts{where}"))
    _say_what_was_lost(together)
    results = results_of(together, found, bundles, _reference(together), arguments.controller)
    for name, result in results.items():
        for reference, difference in result.reward_minus.items():
            console.print(f"reward of {name} minus {reference}, same plan, interval by prompt: {difference:+.3f}")
    evaluation = Evaluation(
        graphs=str(arguments.graphs),
        split=env.graphs.meta.split,
        device_profile=str(arguments.device_profile),
        cloud_profile=str(arguments.cloud_profile),
        workload=None if arguments.workload is None else str(arguments.workload),
        seed=arguments.seed,
        planned_answers=planned,
        controllers=results,
        links=None if arguments.links is None else str(arguments.links),
        families=families,
    )
    pareto_picture(summaries, arguments.drawn, f"Replay on {env.graphs.meta.split} prompts{where}")
    say("picture", str(arguments.drawn))
    if arguments.json is not None:
        write_json(arguments.json, asdict(evaluation))
        say("figures", str(arguments.json))
    compared = [name for name in (*bundles, *arguments.controller) if name in found]
    best = max(compared, key=lambda name: found[name]["reward"], default=None)
    _say_what_comes_next(arguments, env, None if best is None else str(bundles.get(best, best)))


def _family(
    arguments: Arguments,
    env: SyneraReplayEnv,
    family: str,
    bundles: Mapping[str, Path],
    answered: Mapping[str, Sequence[Answered]],
) -> FamilyResult:
    """Print the table of a family of links."""
    links = [link for link in env.links if link.family == family]
    seconds, filled = sum(link.seconds for link in links), filled_by_family(links).get(family, {})
    console.print(family_table(family, links, answered, arguments.answers))
    results = results_of(answered, summarise_all(answered), bundles, _reference(answered), arguments.controller)
    return FamilyResult(len(links), seconds, filled, results)


def _reference(answered: Mapping[str, object]) -> str:
    """Whom bundles and named controllers are compared with."""
    return _BEST_FIXED if _BEST_FIXED in answered else "threshold"


def _say_what_was_lost(answered: Mapping[str, Sequence[Answered]]) -> None:
    """Name what the means stand for, and who kept nothing at all."""
    if all(covered_share(outcomes) == 1 for outcomes in answered.values()):
        return
    console.print(
        "answers that left the recorded graphs (column uncovered) are stood for by those kept, of the same controller, to the same "
        f"prompt or to prompts of the same kind: {ADVICE}",
        style="yellow",
    )
    for name, outcomes in answered.items():
        if not covered_share(outcomes):
            console.print(
                f"{harmless(name)} keeps none of its {len(outcomes)} answers; nothing can be said of it", style="yellow"
            )


def _say_what_comes_next(arguments: Arguments, env: SyneraReplayEnv, controller: str | None) -> None:
    """Name what was given, the models that the graphs say that they were recorded with, and what is worth deploying."""
    notes = env.graphs.meta.notes
    slm, llm = arguments.slm or notes.get("slm"), arguments.llm or notes.get("llm")
    served = {"model": llm} if llm else {}
    deployed: dict[str, object] = {"slm": slm, "graphs": arguments.graphs} if slm else {}
    deployed |= {"links": arguments.links, "fill": arguments.fill}
    deployed |= {name: getattr(arguments, name) for name in ("prefer", "preference", "max_offload")}
    if controller is not None:
        deployed["controller"] = controller
    deploy = next_step("deploy", **deployed, profile=arguments.device_profile)
    say("next", next_step("serve", **served), f"{deploy}   # in another terminal")


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
