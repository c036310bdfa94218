"""Find how much there is to gain, for training and evaluation to say which share of that gap a controller closes.

Two bounds. Clairvoyant: what the best plan earns that a beam search finds for each answer, all that is drawn for it known
beforehand. Informed: what gradient-boosted trees earn that see what a device sees, fitted to the exact gains of all actions on the
training prompts, the mean of several fits; a yardstick, which more prompts can raise and a better learner can beat. Without
--scenarios both are of the answers by which synera train validates. It takes minutes, most of them for the fits.

Examples:
    synera bounds                                   # for synera train --bounds runs/bounds.json, on the bundled graphs
    synera bounds --graphs runs/graphs --preference sampled
    synera bounds --scenarios mix --no-clairvoyant --out runs/mix.json
    synera bounds --scenarios quick --out runs/quick.json   # for synera evaluate --scenarios quick --bounds runs/quick.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.base import Controller
from agents.comparison import covered_share, mean_of, resampled, warn_uncovered
from agents.counterfactual.informed import InformedConfig
from agents.counterfactual.scales import find_bounds, fit_informed
from agents.evaluation import MOST_ANSWERS, Answered, PlannedAnswer, answer_all
from agents.gaps import VALIDATION, Bounds, plan_hash
from agents.learning.judge import validation_plan
from agents.learning.recipe import Recipe
from agents.registry import rules
from agents.stage import Stage
from runtime.settings import whole
from scripts._cli import check_output, check_seed, console, launch, next_step, progress, say
from scripts._growth import Grower, say_grown
from scripts._links import links_of
from scripts._world import Graphs, SyneraOpened, World
from synera_env import Preference, SettingError, SyneraReplayEnv
from synera_env.mixes import Worlds, read_mix, scenarios_of
from synera_env.reward import Trained, trained_for
from traces.links.trace import LinkTrace
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs

_ANSWERS = {VALIDATION: 64, "scenario": 160}
"""As synera train and synera evaluate have them."""
_LOADS = 3.0
"""Of scenarios: the cloud's waits in the fit are a draw's times or divided by up to so much, as some have a busy cloud, or an idle one."""
CLAIRVOYANT, INFORMED = "clairvoyant", "informed"


@dataclass(frozen=True)
class Arguments(World):
    """Find bounds."""

    out: Path = Path("runs/bounds.json")
    """JSON file; what is there is replaced."""
    scenarios: str | None = None
    """Of the scenarios of synera evaluate instead, `mix`, `quick` or a YAML file, on the test.safetensors of --graphs."""
    answers: int | None = None
    """As the --validation-answers of the training, or the --answers of the evaluation; by default theirs, 64 or 160."""
    preference: Trained = "default"
    """As that of the training; scenarios have their own."""
    seed: int = 0
    """As that of the training or evaluation; also of the fits."""
    fits: int = 3
    """Of the informed bound, averaged."""
    clairvoyant: bool = True
    """Also search a clairvoyant's plan of every answer; of many scenarios that takes the longest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.system != "synera":
            raise SettingError(
                f"bounds are of chunks that are offloaded or kept, and --system {self.system} has none; leave it out"
            )
        check_seed(self.seed)
        whole("fits", self.fits, 1, 100)
        if self.answers is not None:
            whole("answers", self.answers, 1, MOST_ANSWERS)
        if self.workload is not None:
            raise SettingError("bounds are of a cloud as its profile says it is; leave out --workload")
        if self.scenarios is not None and self.preference != "default":
            raise SettingError("--preference is of a training, and scenarios have their own; leave out one of the two")

    @property
    def counted(self) -> int:
        """Answers of a plan."""
        return self.answers or _ANSWERS[VALIDATION if self.scenarios is None else "scenario"]


@dataclass(frozen=True)
class _Where:
    """A plan, in the world where controllers answer it and over what was known of its graphs when they had."""

    name: str
    env: SyneraReplayEnv
    plan: Sequence[PlannedAnswer]
    answered: Sequence[Answered]
    """By the informed policy."""

    @property
    def once(self) -> bool:
        """Whether each prompt counts once, and not each answer."""
        return self.name != VALIDATION


def main(arguments: Arguments) -> None:
    """Fit, answer, search, write.

    Raises:
        SyneraError: a file cannot be used, or too little stays inside the graphs.
    """
    check_output(arguments.out)
    opened = SyneraOpened.of(arguments)
    graphs: Graphs
    if arguments.scenarios is None:
        graphs, where = opened.validation, _of_training(arguments, opened)
    else:
        grower = Grower(arguments.grow, arguments.slm, arguments.llm, arguments.score)
        graphs = grower(GraphSet.load(arguments.graph_folder / "test.safetensors"))
        where = _of_scenarios(arguments, opened, graphs)
    say_grown({graphs.meta.split: graphs})
    bounds = _searched(where, _known(graphs), arguments)
    bounds.save(arguments.out)
    say("bounds", str(arguments.out))
    say("next", _next(arguments))


def _of_training(arguments: Arguments, opened: SyneraOpened) -> list[_Where]:
    env = opened.validating()
    shared = {"validation_answers": arguments.counted, "preference": arguments.preference, "seed": arguments.seed}
    plan = validation_plan(env, Recipe.of(**shared))  # type: ignore[arg-type]
    policy = _fitted(arguments, opened, opened.around.links("train"), trained_for(arguments.preference))
    with progress() as bar:
        task = bar.add_task("answer", total=1 + len(rules(env.schema)))
        answered = answer_all(env, policy, plan)
        bar.advance(task)
        for rule in rules(env.schema).values():  # graphs that grow are searched as far as these know them
            if isinstance(env.graphs, GrowingGraphs):
                answer_all(env, rule, plan)
            bar.advance(task)
    return [_Where(VALIDATION, env, plan, answered)]


def _of_scenarios(arguments: Arguments, opened: SyneraOpened, graphs: Graphs) -> list[_Where]:
    tested = links_of(arguments.links, arguments.fill)("test")
    mix = read_mix(arguments.scenarios or "")
    scenarios = scenarios_of(mix, tested)
    worlds = Worlds(mix, graphs, tested, opened.around.device, opened.around.cloud, arguments.seed)
    stage = Stage(worlds, arguments.counted, arguments.seed)
    still = [link for each in scenarios for link in stage.env(each).links if len(link.rtt_ms) == 1]
    policy = _fitted(arguments, opened, [*opened.around.links("train"), *{link.name: link for link in still}.values()], None)
    found = []
    with progress() as bar:
        task = bar.add_task("answer", total=len(scenarios))
        for each in scenarios:
            answered = stage.rows(each).answers(policy, stage.plan(each), True)
            found.append(_Where(each.name, stage.env(each), stage.plan(each), answered))
            bar.advance(task)
    return found


def _fitted(
    arguments: Arguments, opened: SyneraOpened, links: Sequence[LinkTrace], preference: Preference | None
) -> Controller:
    """The informed policy, fitted on the training prompts as far as they are known."""
    config = InformedConfig(fits=arguments.fits, seed=arguments.seed)
    train = SyneraReplayEnv(_known(opened.train), links, opened.around.device, opened.around.cloud, preference)
    with progress() as bar:
        task = bar.add_task("fit", total=config.fits * config.rounds)
        spread = 1.0 if arguments.scenarios is None else _LOADS
        _, policy = fit_informed(train, config, preference, spread, on_round=lambda done: bar.advance(task))
    return policy


def _known(graphs: Graphs) -> GraphSet:
    return graphs.known() if isinstance(graphs, GrowingGraphs) else graphs


def _searched(where: Sequence[_Where], known: GraphSet, arguments: Arguments) -> Bounds:
    """Plan every answer, and say what was found."""
    names = (CLAIRVOYANT, INFORMED) if arguments.clairvoyant else (INFORMED,)
    bounds: dict[str, dict[str, float]] = {name: {} for name in names}
    made: dict[str, Any] = {
        "answers": arguments.counted,
        "seed": arguments.seed,
        "fits": arguments.fits,
        "preference": arguments.preference if arguments.scenarios is None else "of each scenario",
        "clairvoyant_at_most": {},
        "answers_without_plan": {},
    }
    with progress() as bar:
        task = bar.add_task("search", total=sum(len(each.plan) for each in where))
        for each in where:
            env = each.env
            if covered_share(each.answered):
                of_plan = resampled(each.answered, "reward")[0] if each.once else mean_of(each.answered, "reward")
                bounds[INFORMED][each.name] = float(of_plan)
                warn_uncovered(f"the informed bound of {each.name}", each.answered)
            if not arguments.clairvoyant or env.cloud_load is not None:  # nobody plans with a cloud that others use
                bar.advance(task, len(each.plan))
                continue
            here = SyneraReplayEnv(known, env.links, env.device, env.cloud, outages=env.outages)
            found = find_bounds(here, each.plan, finished=lambda: bar.advance(task))
            lower, upper = (float(found.clairvoyant(end)[0]) if each.once else found.mean(end) for end in ("lower", "upper"))
            bounds[CLAIRVOYANT][each.name], made["clairvoyant_at_most"][each.name] = lower, upper
            made["answers_without_plan"][each.name] = sum(bracket is None for bracket in found.brackets)
            console.print(_said(each, bounds, made))
    return Bounds(bounds, {each.name: plan_hash(each.env, each.plan) for each in where}, made)


def _said(each: _Where, bounds: dict[str, dict[str, float]], made: dict[str, Any]) -> str:
    informed = bounds[INFORMED].get(each.name)
    without, at_most = made["answers_without_plan"][each.name], made["clairvoyant_at_most"][each.name]
    lost = f"; {without} answers have no plan in what is known, and are left out" if without else ""
    return (
        f"{each.name}: clairvoyant {bounds[CLAIRVOYANT][each.name]:.3f} (no plan in the graphs as they are known earns more than "
        f"{at_most:.3f}), informed {'unknown' if informed is None else f'{informed:.3f}'}{lost}"
    )


def _next(arguments: Arguments) -> str:
    world = arguments.given()
    if arguments.scenarios is None:
        world |= {"preference": arguments.preference, "validation_answers": arguments.counted}
        return next_step("train", **world, seed=arguments.seed, bounds=arguments.out)
    world |= {"graphs": arguments.test_graphs, "answers": arguments.counted, "scenarios": arguments.scenarios}
    return next_step("evaluate", **world, seed=arguments.seed, bounds=arguments.out)


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
