"""An evaluation over scenarios: who answers, the search of what is tuned, the answers, and the report's folder.

What does not live here: the scenarios and the figures (agents/), and what the report says (_sections.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agents.aggregates import Means
from agents.base import Controller
from agents.contest import ONLY, Contest, Contestant, by_seeds, hold
from agents.limits import capped
from agents.own import is_own
from agents.registry import rules
from agents.stage import Stage
from agents.tuning import FIXED, Tuned, Tuning, families
from scripts._cli import console, progress
from scripts._document import Grid, Told, write_document
from scripts._outcome import BEST_FIXED
from scripts._sections import Matter, document_of, to_csv
from scripts._text import harmless
from scripts._told import tell_replayed
from synera_env import Schema, SyneraReplayEnv
from synera_env.mixes import BUSY_USERS, THINK_SECONDS, Scenario
from traces.files import write_text
from traces.synera.growing import GrowingGraphs

OF_EACH = "best fixed of each scenario"
NAMES = (BEST_FIXED, OF_EACH)
"""Of the fixed settings that are searched."""
_MOST_TOLD = 2
"""Controllers whose answers are told."""


def contestants_of(
    named: Mapping[str, Callable[[], Controller]],
    learned: Mapping[str, Controller],
    tuned: Mapping[str, Tuned],
    schema: Schema,
    max_offload: float,
) -> list[Contestant]:
    """Return who answers, the rules that need no figures first.

    Args:
        named: by name, what makes a controller; called for each scenario, as some learn while they answer.
        learned: by name, bundles; those that are alike up to their seed are one policy.
        tuned: by family, what a search found.
        schema: of their knobs.
        max_offload: a limit for all.
    """

    def limited(controller: Controller) -> Controller:
        return capped(controller, schema, max_offload)

    found = [
        Contestant(name, lambda _, each=each: limited(each))  # type: ignore[misc]
        for name, each in rules(schema).items()
    ]
    found += [
        Contestant(name, lambda _, make=make: limited(make()), together=not is_own(name))  # type: ignore[misc]
        for name, make in named.items()
    ]
    candidates = families(schema) if tuned else {}
    for family, chosen in tuned.items():
        makers = candidates[family]
        if family == FIXED:
            found.append(Contestant(BEST_FIXED, lambda _, each=makers[chosen.single]: limited(each)))  # type: ignore[misc]
        name = OF_EACH if family == FIXED else f"{family}, tuned to each scenario"
        found.append(
            Contestant(name, lambda scenario, m=makers, c=chosen: limited(m[c.of_each[scenario.name]]))  # type: ignore[misc]
        )
    for name, (policy, seed) in by_seeds(learned).items():
        found.append(Contestant(policy, lambda _, each=learned[name]: limited(each), seed, learned=True))  # type: ignore[misc]
    return found


def tune(
    schema: Schema, train: Stage, validation: Stage, scenarios: Sequence[Scenario], max_offload: float
) -> dict[str, Tuned]:
    """Search the best single setting and the best of each scenario, by family.

    Raises:
        UncoveredError: in some scenario every finalist loses too many answers.
    """
    found, candidates = {}, families(schema)
    with progress() as bar:
        task = bar.add_task("search", total=len(candidates) * (len(scenarios) + 1))
        for family, each in candidates.items():
            limited = {name: capped(controller, schema, max_offload) for name, controller in each.items()}
            tuning = Tuning(limited, train, validation, scenarios, lambda: bar.advance(task))
            found[family] = tuning.tune()
    tried, single = sum(each.tried for each in found.values()), found[FIXED].single
    console.print(
        harmless(f"{tried} settings of {len(found)} families tried on training prompts; best single fixed one: {single}")
    )
    return found


def answer_grid(stage: Stage, scenarios: Sequence[Scenario], contestants: Sequence[Contestant]) -> Contest:
    """Let everybody answer everywhere."""
    with progress() as bar:
        task = bar.add_task("answer", total=len(contestants) * len(scenarios))
        return hold(stage, scenarios, contestants, lambda: bar.advance(task))


def told_answers(
    stage: Stage, scenarios: Sequence[Scenario], contestants: Sequence[Contestant], ours: Sequence[str]
) -> list[Told]:
    """Tell an answer of each kind by each of ours, in the first scenario whose link changes."""
    scenario = next((each for each in scenarios if len(stage.env(each).links[0].rtt_ms) > 1), scenarios[0])
    env, plan, found = stage.env(scenario), stage.plan(scenario), []
    of_kinds = {env.graphs.meta.kinds[planned.prompt]: planned for planned in reversed(plan)}
    for number, name in enumerate(ours[:_MOST_TOLD], 1):
        who = next(each for each in contestants if each.name == name)
        for place, (kind, planned) in enumerate(sorted(of_kinds.items()), 1):
            seed = "" if who.seed == ONLY else f", seed {who.seed}"
            title = f"{name}{seed}: {kind}, {scenario.name}"
            found.append(tell_replayed(f"answer-{number}-{place}", title, env, who.controller(scenario), planned))
    return found


def setting_of(env: SyneraReplayEnv, answers: int, max_offload: float, links: Path | None) -> list[str]:
    """Return what the worlds are made of, a sentence each."""
    grown = ", which grow with their models" if isinstance(env.graphs, GrowingGraphs) else ""
    limit = f" No controller sends more than {max_offload:g} of the chunks of an answer." if max_offload < 1 else ""
    return [
        f"{answers} answers in each scenario to {len(env.graphs)} {env.graphs.meta.split} prompts over recorded token graphs{grown}; device "
        f"{env.device.name!r}, cloud {env.cloud.name!r}, links {'bundled' if links is None else str(links)}.{limit}",
        f"Load 'busy' is {BUSY_USERS} users in a closed loop, who think {THINK_SECONDS:g} s between an answer and the next request.",
    ]


def tuned_table(tuned: Mapping[str, Tuned], scenarios: Sequence[Scenario]) -> Grid:
    """Return what was tuned to what."""
    rows = [["all of them", *(each.single for each in tuned.values())]]
    rows += [[scenario.name, *(each.of_each[scenario.name] for each in tuned.values())] for scenario in scenarios]
    note = (
        "Searched on training prompts in the scenario's own load and links (those of training; of a family that training has none of, those "
        "that are tested on), the best three confirmed on validation prompts."
    )
    return Grid("What was tuned", ["scenario", *tuned], rows, note)


def write_report(matter: Matter, folder: Path) -> tuple[Sequence[Grid], Means]:
    """Write `results.csv`, `report.md`, `report.html` and the pictures; return the tables of the summary, and the means."""
    document, means = document_of(matter)
    write_text(folder / "results.csv", to_csv(means))
    write_document(document, folder)
    return document.sections[0].tables, means
