"""Evaluate controllers in replay on test prompts and links that no training saw.

Where answers leave the recorded graphs, those that a controller keeps stand for those that it loses, to the same prompt or
to prompts of the same kind; how many each one loses is shown beside it. With --live the same plan is answered in replay and by so
many devices against a verifier that is started here, and both are compared. With --ablation, instead, rules that look at one
figure of the draft (its confidence, importance, margin, entropy) are compared at the same offload rates, with chance and with
each other, and by what they take of what a single decision is worth to a clairvoyant.

Examples:
    synera evaluate                                 # the rules
    synera evaluate --ablation --json runs/ablation.json
    synera evaluate --bundle runs/ppo/bundle runs/mine/bundle --search
    synera evaluate --controller staged rejection=0.4 linucb runs/rules/link-aware.json my_rules:Mine
    synera evaluate --links traces/ --bundle runs/ppo/bundle   # on recorded links, a table for each family of them
    synera evaluate --graphs runs/graphs/test.safetensors --answers 400 --json runs/eval.json
    synera evaluate --scenarios mix --search --bundle runs/mine-seed0/bundle runs/mine-seed1/bundle --report runs/report
    synera evaluate --live 8 --answers 16 --bundle runs/ppo/bundle --break-link   # in real time, and on a link that breaks
    synera evaluate --graphs runs/graphs/test.safetensors --slm /models/small --llm /models/large   # models that moved
    synera evaluate --system hat --bundle runs/hat/bundle   # uploads of a model that is split between device and cloud
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from agents.base import Controller
from agents.evaluation import Answered, answer_all, make_plan, plans_by_family
from agents.limits import NO_LIMIT, capped, check_limit
from agents.registry import rules
from agents.rules import FixedRule
from agents.search import grid_search
from runtime.errors import SettingError
from runtime.settings import within
from scripts import _ablation
from scripts._cli import check_output, check_seed, console, launch, progress
from scripts._contestants import distinct_names, named_controllers, usable
from scripts._growth import Grow, say_grown
from scripts._links import check_filling
from scripts._live_proof import prove, write_live
from scripts._outcome import BEST_FIXED, best_of, report, say_what_comes_next
from scripts._report import check_picture
from scripts._systems import BUNDLED, Own, SystemName, check_options
from scripts._tested import TESTED, Tested, TestEnv
from synera_env import Preference, SyneraReplayEnv
from synera_env.busy import read_cloud_load
from synera_env.radio import Outages
from synera_env.reward import Prefer, chosen_preference
from traces.links.filling import Filling
from traces.synera.graph import GraphSet

_MOST_ANSWERS = 1_000_000
_MOST_DEVICES = 256
_ALL = "all links"
_SEARCHED_ANSWERS = 480
"""Of each setting in the last round of a search."""
_DEFAULT_REPORT = Path("runs/report")
_OWN: Own = {
    "synera": (
        *("grow", "slm", "llm", "score", "ablation", "scenarios", "report", "live", "break_link", "bounds"),
        "max_offload",
    ),
    "hat": ("first_token_weight",),
}
"""What looks at offloaded chunks, or is made of them, is of Synera alone."""


@dataclass(frozen=True)
class Arguments:
    """Evaluate controllers in replay."""

    system: SystemName = "synera"
    """What is controlled: synera, or hat, a large model that is split between device and cloud."""
    bundle: tuple[Path, ...] = ()
    """Bundles to evaluate beside the rules."""
    controller: tuple[str, ...] = ()
    """Further controllers, as synera deploy takes them: rules and bandits by name (such as until-unsure, staged, rejection=0.5,
    ucbspec, exp3spec, linucb, margin=0.5), files of rules that synera fit-rules wrote, and classes of yours as MODULE:CLASS."""
    graphs: Path | None = None
    """Graph file of the test prompts; by default the bundled one of the system."""
    answers: int = 160
    """Answers of each controller, with --links on the links of each family; prompts are visited evenly."""
    search: bool = False
    """Also search the best fixed thresholds, on the train.safetensors beside the graph file."""
    first_token_weight: float = 1.0
    """Of HAT: how many times a second before the first token counts."""
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
    device_profile: Path | None = None
    """Times and energy of the device; by default those of the bundled phone, of HAT of its testbed's board."""
    cloud_profile: Path | None = None
    """Times of the cloud; by default those of the bundled GPU, of HAT of its testbed's server."""
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
    scenarios: str | None = None
    """Evaluate over scenarios, products of links, loads and preferences, into a report: `mix`, `quick`, or a YAML file with `links`
    (round trips in ms, families, or `families`), `loads` (profile, idle, busy) and `preferences`. Bundles whose runs are alike up to
    `-seedN` count as one policy; --answers are of each scenario; --search also tunes to each one."""
    report: Path | None = None
    """Folder of that report, HTML, Markdown, CSV and pictures; by default runs/report. Alone it takes the scenarios `mix`."""
    live: int | None = None
    """Answer the plan in replay and live, with so many devices side by side on a verifier that is started for it: in real time, paced
    to the profiles, over emulated links of families that no bundled training link is of, where there are such. A class of yours is
    asked from several threads."""
    break_link: bool = False
    """With --live, answer each prompt twice more, on a link that holds and on one that breaks in the middle of the answer."""
    bounds: Path | None = None
    """With --scenarios, a JSON file of bounds, as synera bounds --scenarios writes it, to report which share of the gap is closed."""
    seed: int = 0
    """Draws links and offsets."""
    json: Path | None = None
    """Also write the figures here; the fields are those of `scripts._evaluation.Evaluation`, with --ablation of
    `scripts._ablation.AblationFile`, with --live of `scripts._live_sections.LiveFile`."""
    picture: Path | None = None
    """Quality against time, with --ablation against offload rate, as PNG, PDF or SVG; by default runs/evaluate.png or
    runs/ablation.png."""

    def __post_init__(self) -> None:
        check_options(self, _OWN)
        within("answers", self.answers, 1, _MOST_ANSWERS)
        check_seed(self.seed)
        check_filling(self.links, self.fill)
        check_limit(self.max_offload)
        if self.live is not None:
            within("live", self.live, 1, _MOST_DEVICES)
        chosen_preference(self.prefer, self.preference)
        self._check_together()
        check_picture(self.drawn)
        outputs = [self.drawn, *([self.json] if self.json is not None else [])]
        inputs = [self.graph_file, self.graph_file.with_name("train.safetensors"), self.device_file, self.cloud_file]
        inputs += [] if self.workload is None else [self.workload]
        named = [os.path.realpath(path) for path in outputs]
        if len(set(named)) < len(named) or set(named) & set(map(os.path.realpath, inputs)):
            raise SettingError("json and picture must be files of their own, as what is there is replaced")

    def _check_together(self) -> None:
        """Refuse options of one kind of evaluation in another."""
        valued = self.prefer != "balanced" or self.preference != Preference() or self.max_offload != NO_LIMIT
        if self.ablation and (self.bundle or self.controller or self.search):
            raise SettingError(
                "--ablation compares figures of the draft; leave out --bundle, --controller and --search, or --ablation"
            )
        if self.ablation and (self.workload or self.gridded or valued):
            raise SettingError(
                "--ablation compares figures of the draft; leave out --workload, --scenarios, --report, --prefer, --preference and "
                "--max-offload, or --ablation"
            )
        if self.live is not None and (self.ablation or self.workload):
            raise SettingError(
                "--live answers beside a verifier that waits as the cloud profile says; leave out --ablation and --workload, or --live"
            )
        if self.break_link and self.live is None:
            raise SettingError("--break-link is of live answers: say with --live how many devices give them")
        if self.bounds is not None and not self.gridded:
            raise SettingError("--bounds are of scenarios: name them with --scenarios")
        stated = {"json": self.json, "picture": self.picture, "workload": self.workload, "prefer": self.valued != Preference()}
        if self.gridded and (given := [f"--{name}" for name, value in stated.items() if value]):
            raise SettingError(
                f"{', '.join(given)} and --scenarios do not go together: preferences and loads are the scenarios', and what is found goes into the "
                "folder of --report"
            )

    @property
    def graph_file(self) -> Path:
        """Of the test prompts."""
        return self.graphs or BUNDLED[self.system].graphs("test")

    @property
    def device_file(self) -> Path:
        """Of the device's profile."""
        return self.device_profile or BUNDLED[self.system].device

    @property
    def cloud_file(self) -> Path:
        """Of the cloud's."""
        return self.cloud_profile or BUNDLED[self.system].cloud

    @property
    def gridded(self) -> bool:
        """Whether this is an evaluation over scenarios."""
        return self.scenarios is not None or self.report is not None

    @property
    def report_folder(self) -> Path:
        """Of an evaluation over scenarios."""
        return self.report or _DEFAULT_REPORT

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
    if arguments.gridded:
        check_output(arguments.report_folder, folder=True)
    for output in () if arguments.gridded else (arguments.drawn, arguments.json):
        if output is not None:
            check_output(output)
    if arguments.ablation:
        _ablate(arguments, Tested.of(arguments))
        return
    if arguments.gridded:
        from scripts._over_scenarios import evaluated  # only who asks for a report loads what makes it

        over = Tested.of(arguments)
        evaluated(arguments, over)
        say_what_comes_next(arguments, over.env(), None)
        return
    tested = TESTED[arguments.system](arguments)
    load = None if arguments.workload is None else read_cloud_load(arguments.workload, tested.cloud)
    env = tested.env(load)
    baselines = rules(env.schema)
    bundles = distinct_names(arguments.bundle, {*baselines, *arguments.controller, BEST_FIXED})
    learned = {name: usable(path, env) for name, path in bundles.items()}
    named = named_controllers(arguments.controller, env)
    searched = _searched(arguments, tested.searched(load)) if arguments.search else {}
    if arguments.live is not None:
        assert isinstance(env, SyneraReplayEnv)  # no other system takes --live
        proof = prove(arguments, env, baselines | named | searched | learned, bundles)
        write_live(arguments, proof)
        say_what_comes_next(arguments, env, best_of(arguments, bundles, proof.live_rewards))
        return
    controllers = {
        name: capped(each, env.schema, arguments.max_offload) for name, each in (baselines | named | searched | learned).items()
    }
    plans = {_ALL: make_plan(env, arguments.answers, arguments.seed, arguments.valued)}
    if arguments.links is not None:
        plans = plans_by_family(env, arguments.answers, arguments.seed, arguments.valued)
    answered: dict[str, dict[str, list[Answered]]] = {name: {} for name in plans}
    with progress() as bar:
        task = bar.add_task("evaluate", total=len(controllers) * len(plans))
        for name, each in controllers.items():
            for links_of_plan, plan in plans.items():
                answered[links_of_plan][name] = answer_all(env, each, plan)
                bar.advance(task)
    say_grown({env.graphs.meta.split: env.graphs})
    report(arguments, env, bundles, answered)


def _ablate(arguments: Arguments, tested: Tested) -> None:
    """Compare figures of the draft, where no check is lost: what is lost says nothing of what it was about."""
    known = tested.grower(GraphSet.load(tested.training))
    train, test = (
        SyneraReplayEnv(each, tested.links(split), tested.device, tested.cloud, outages=Outages.never())
        for each, split in ((known, "train"), (tested.graphs, "test"))
    )
    rule = _ablation.run(train, test, arguments.answers, arguments.seed, arguments.drawn, arguments.json)
    say_what_comes_next(arguments, test, rule)


def _searched(arguments: Arguments, world: TestEnv) -> dict[str, Controller]:
    found = grid_search(world, episodes=_SEARCHED_ANSWERS, preference=arguments.valued)
    console.print(f"best of {found.tried} fixed settings on training prompts: {found.knobs}")
    return {BEST_FIXED: FixedRule(found.knobs, world.schema)}


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
