"""What a plain evaluation prints and writes: its tables, what they rest on, the picture, the figures, the next command.

What does not live here: the answers (evaluate.py), the file's fields (_evaluation.py), and an evaluation over scenarios (_grid.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from agents.comparison import ADVICE, covered_share, summarise_all
from agents.evaluation import Answered
from runtime.model.split import Split
from scripts._cli import console, next_step, say
from scripts._evaluation import Evaluation, FamilyResult, family_table, results_of
from scripts._report import pareto_picture, table
from scripts._tested import TestEnv
from scripts._text import harmless
from synera_env import write_json
from synera_env.hat.replay import HatReplayEnv
from traces.hat.graph import HatMeta
from traces.links.filling import filled_by_family
from traces.synera.graph import GraphMeta

if TYPE_CHECKING:
    from scripts.evaluate import Arguments

BEST_FIXED = "best fixed"
"""Name of the fixed setting that is searched."""


def report(
    arguments: Arguments,
    env: TestEnv,
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
    console.print(
        table(
            summaries,
            f"replay, {planned} answers to {len(env.graphs)} {env.graphs.meta.split} prompts{where}",
            arguments.system,
        )
    )
    _say_what_was_lost(together)
    results = results_of(together, found, bundles, reference_of(together), arguments.controller)
    for name, result in results.items():
        for reference, difference in result.reward_minus.items():
            console.print(f"reward of {name} minus {reference}, same plan, interval by prompt: {difference:+.3f}")
    evaluation = Evaluation(
        graphs=str(arguments.graph_file),
        split=env.graphs.meta.split,
        device_profile=str(arguments.device_file),
        cloud_profile=str(arguments.cloud_file),
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
    say_what_comes_next(arguments, env, best_of(arguments, bundles, {name: each["reward"] for name, each in found.items()}))


def best_of(arguments: Arguments, bundles: Mapping[str, Path], rewards: Mapping[str, float]) -> str | None:
    """Return the bundle's folder, or the controller that was named, of the highest reward; None where none of them has any."""
    compared = [name for name in (*bundles, *arguments.controller) if name in rewards]
    best = max(compared, key=lambda name: rewards[name], default=None)
    return None if best is None else str(bundles.get(best, best))


def _family(
    arguments: Arguments,
    env: TestEnv,
    family: str,
    bundles: Mapping[str, Path],
    answered: Mapping[str, Sequence[Answered]],
) -> FamilyResult:
    """Print the table of a family of links."""
    links = [link for link in env.links if link.family == family]
    seconds, filled = sum(link.seconds for link in links), filled_by_family(links).get(family, {})
    console.print(family_table(family, links, answered, arguments.answers, arguments.system))
    results = results_of(answered, summarise_all(answered), bundles, reference_of(answered), arguments.controller)
    return FamilyResult(len(links), seconds, filled, results)


def reference_of(answered: Mapping[str, object]) -> str:
    """Whom bundles and named controllers are compared with: the best fixed setting, or the system's own rule."""
    return next(name for name in (BEST_FIXED, "threshold", "hat-rule") if name in answered)


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


def say_what_comes_next(arguments: Arguments, env: TestEnv, controller: str | None) -> None:
    """Name what was given, the models that the graphs say that they were recorded with, and what is worth deploying."""
    if isinstance(env, HatReplayEnv):
        served, deployed = _of_hat(arguments, env.graphs.meta)
        deployed["first_token_weight"] = arguments.first_token_weight
    else:
        served, deployed = _of_synera(arguments, env.graphs.meta)
    deployed |= {"links": arguments.links, "fill": arguments.fill}
    deployed |= {name: getattr(arguments, name) for name in ("prefer", "preference", "max_offload")}
    if controller is not None:
        deployed["controller"] = controller
    deploy = next_step("deploy", **deployed, profile=arguments.device_profile)
    say("next", next_step("serve", **served), f"{deploy}   # in another terminal")


_Options = dict[str, object]


def _of_synera(arguments: Arguments, meta: GraphMeta) -> tuple[_Options, _Options]:
    """What names the models, to the server and to the device."""
    slm, llm = arguments.slm or meta.notes.get("slm"), arguments.llm or meta.notes.get("llm")
    return {"model": llm} if llm else {}, {"slm": slm, "graphs": arguments.graph_file} if slm else {}


def _of_hat(arguments: Arguments, meta: HatMeta) -> tuple[_Options, _Options]:
    """The same; the server is told where the model is cut."""
    named: _Options = {name: meta.notes[name] for name in ("model", "adapter") if meta.notes.get(name)}
    served = {name: value for name, value in named.items() if name == "model"}
    graphs: _Options = {"graphs": arguments.graph_file} if named else {}
    return served | {"split": str(Split(meta.first_layers, meta.last_layers))}, {"system": "hat"} | named | graphs
