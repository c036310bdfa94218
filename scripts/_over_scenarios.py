"""`synera evaluate --scenarios`: everybody answers everywhere, and the report is written.

What does not live here: the arguments (evaluate.py), and the pieces: who answers (_grid.py), what the report says (_sections.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from agents.aggregates import Means
from agents.base import Controller
from agents.gaps import Bounds, plan_hash
from agents.registry import controller, rules
from agents.stage import Stage
from agents.tuning import FIXED, Tuned, families
from scripts import _grid
from scripts._cli import console, say
from scripts._contestants import distinct_names, named_controllers, usable
from scripts._growth import say_grown
from scripts._live_proof import prove
from scripts._live_sections import Proof
from scripts._outcome import BEST_FIXED
from scripts._report import plain_table
from scripts._tested import Tested
from synera_env.mixes import Mix, Scenario, Worlds, read_mix, scenarios_of
from traces.synera.graph import GraphSet

if TYPE_CHECKING:
    from scripts.evaluate import Arguments

SEARCHED_ANSWERS = 480
"""Of each setting in the last round of a search, in each scenario."""


def evaluated(arguments: Arguments, tested: Tested) -> Means:
    """Evaluate, print the summary, write the report into its folder; return what it is made of.

    Raises:
        SyneraError: a file cannot be used, a bundle does not fit, or no answer stays inside the graphs.
    """
    mix = read_mix(arguments.scenarios or "mix")
    scenarios = scenarios_of(mix, tested.test_links)
    bounds = None if arguments.bounds is None else Bounds.load(arguments.bounds)
    worlds = Worlds(mix, tested.graphs, tested.test_links, tested.device, tested.cloud, arguments.seed)
    stage = Stage(worlds, arguments.answers, arguments.seed)
    if bounds is not None:
        for each in scenarios:
            bounds.of(each.name, plan_hash(stage.env(each), stage.plan(each)))
    env = stage.env(scenarios[0])
    taken = {*rules(env.schema), *arguments.controller, *_grid.NAMES}
    learned = {name: usable(path, env) for name, path in distinct_names(arguments.bundle, taken).items()}
    named = named_controllers(arguments.controller, env)  # refused before the work
    made = {name: partial(controller, name, env.schema) for name in arguments.controller}
    tuned = _searched(arguments, tested, mix, scenarios) if arguments.search else {}
    live = None if arguments.live is None else _live(arguments, tested, named, learned, tuned)
    contestants = _grid.contestants_of(made, learned, tuned, env.schema, arguments.max_offload)
    contest = _grid.answer_grid(stage, scenarios, contestants)
    say_grown({tested.graphs.meta.split: tested.graphs})
    ours = tuple(dict.fromkeys(each.name for each in contestants if each.learned)) or arguments.controller or ("threshold",)
    matter = _grid.Matter(
        contest,
        reference=BEST_FIXED if tuned else "threshold",
        ours=ours,
        title=f"{len(contest.answered)} controllers in {len(scenarios)} scenarios",
        setting=_grid.setting_of(env, arguments.answers, arguments.max_offload, arguments.links),
        bounds=bounds,
        live=live,
        told=_grid.told_answers(stage, scenarios, contestants, ours),
        tuned=[_grid.tuned_table(tuned, scenarios)] if tuned else [],
    )
    folder = arguments.report_folder
    tables, means = _grid.write_report(matter, folder)
    for grid in tables:
        console.print(plain_table(grid, intervals=4))
    say("report", *(str(folder / name) for name in ("report.html", "report.md", "results.csv")))
    return means


def _searched(arguments: Arguments, tested: Tested, mix: Mix, scenarios: tuple[Scenario, ...]) -> Mapping[str, Tuned]:
    """What is tuned to scenarios, on the training and validation prompts beside the test's."""
    stages = []
    for split in ("train", "validation"):
        graphs = tested.grower(GraphSet.load(arguments.graph_file.with_name(f"{split}.safetensors")))
        links, others = tested.links(split), tested.test_links
        worlds = Worlds(mix, graphs, links, tested.device, tested.cloud, arguments.seed, substitutes=others)
        stages.append(Stage(worlds, SEARCHED_ANSWERS, arguments.seed))
    return _grid.tune(tested.env().schema, stages[0], stages[1], scenarios, arguments.max_offload)


def _live(
    arguments: Arguments,
    tested: Tested,
    named: Mapping[str, Controller],
    learned: Mapping[str, Controller],
    tuned: Mapping[str, Tuned],
) -> Proof:
    env = tested.env()
    single = {BEST_FIXED: families(env.schema)[FIXED][tuned[FIXED].single]} if tuned else {}
    return prove(arguments, env, {**rules(env.schema), **named, **single, **learned}, learned)
