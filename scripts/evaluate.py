"""Evaluate controllers in replay on test prompts and links that no training saw.

Examples:
    synera evaluate                                 # the rules
    synera evaluate --bundle runs/ppo/bundle runs/mine/bundle --search
    synera evaluate --graphs runs/graphs/test.safetensors --answers 400 --json runs/eval.json
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agents.bundle import Bundle
from agents.evaluation import Answered, answer, make_plan, reward_difference, summarise_answers
from agents.registry import rules
from agents.rules import FixedRule
from agents.search import grid_search
from scripts._cli import console, launch, progress
from scripts._report import pareto_picture, table
from synera_env import SyneraReplayEnv, write_json
from traces import bundled
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet


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
    device_profile: Path = field(default_factory=lambda: bundled.profile("phone"))
    """Times and energy of the device."""
    cloud_profile: Path = field(default_factory=lambda: bundled.profile("gpu"))
    """Times of the cloud."""
    seed: int = 0
    """Draws links and offsets."""
    json: Path | None = None
    """Also write the figures here."""
    picture: Path = Path("runs/evaluate.png")
    """Quality against time, as PNG."""


def main(arguments: Arguments) -> None:
    """Evaluate, print the table, draw the picture."""
    device, cloud = DeviceProfile.load(arguments.device_profile), CloudProfile.load(arguments.cloud_profile)
    env = SyneraReplayEnv(GraphSet.load(arguments.graphs), bundled.links("test"), device, cloud)
    controllers = baselines = rules(env.schema)
    if arguments.search:
        train = SyneraReplayEnv(arguments.graphs.with_name("train.safetensors"), bundled.links("train"), device, cloud)
        found = grid_search(train, episodes=96)
        console.print(f"best of {found.tried} fixed settings on training prompts: {found.knobs}")
        controllers = controllers | {"best fixed": FixedRule(found.knobs, env.schema)}
    for path in arguments.bundle:
        bundle = Bundle.load(path)
        bundle.require(env.deployment())
        controllers = controllers | {path.parent.name if path.name == "bundle" else path.name: bundle.controller(env.schema)}
    plan = make_plan(env, arguments.answers, arguments.seed)
    summaries: dict[str, dict[str, dict[str, float]]] = {}
    answered: dict[str, list[Answered]] = {}
    with progress() as bar:
        task = bar.add_task("evaluate", total=len(controllers))
        for name, each in controllers.items():
            answered[name] = [answer(env, each, planned) for planned in plan]
            summaries[name] = {"replay": summarise_answers(answered[name])}
            bar.advance(task)
    console.print(table(summaries, f"replay, {len(plan)} answers to {len(env.graphs)} {env.graphs.meta.split} prompts"))
    reference = "best fixed" if "best fixed" in answered else "threshold"
    for name in [n for n in answered if n not in baselines and n != reference]:
        difference = reward_difference(answered[name], answered[reference])
        console.print(f"reward of {name} minus {reference}, same answers, interval by prompt: {difference}")
    pareto_picture(summaries, arguments.picture, "Replay on test prompts")
    if arguments.json:
        write_json(arguments.json, summaries)
    console.print(f"picture: {arguments.picture}")
    console.print("next: synera serve, then synera deploy --controller RULE_OR_BUNDLE")


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
