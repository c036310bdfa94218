"""Train several controllers side by side: agents, seeds and settings, each as `synera train` does; goes on where it was interrupted.

Examples:
    synera sweep                                        # PPO, seeds 0 to 4, as many at a time as there are cores
    synera sweep --agent counterfactual ppo --seeds 5 --name mine --graphs runs/graphs
    synera sweep --agent discrete-sac --set hidden=64,128 --set learning_rate=0.0005,0.001 --seeds 3
    synera sweep --agent ppo --settings slow.yaml fast.yaml --at-once 2
    synera sweep --seeds 20 --ray                       # as tasks of Ray, on this machine
    synera sweep --seeds 20 --ray 192.0.2.1:6379        # on a cluster whose machines share the current folder
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.progress import Progress, TaskID
from rich.table import Table

from agents.learning.recipe import AGENTS, Recipe
from agents.learning.run_folder import check_run_name
from runtime.errors import SettingError, SyneraError
from runtime.settings import whole
from scripts import train
from scripts._cli import check_output, console, launch, next_step, progress, say
from scripts._scale import Ended, RayAddress, check_ray, spread
from scripts._sweep import Part, check_distinct, label, last_lines, outcome, reached, standing, trained, variants
from scripts._text import harmless
from scripts._training import Training
from scripts._world import Agent
from synera_env.reward import trained_for


@dataclass(frozen=True)
class Arguments(Training):
    """Train several controllers side by side."""

    agent: tuple[Agent, ...] = ("ppo",)
    """Who learns; each of them."""
    seeds: int = 5
    """Trainings of each, with the seeds from 0."""
    name: str | None = None
    """Runs are written to runs/NAME-seedN, of several agents to runs/NAME-AGENT-seedN; by default NAME is the agent's. What settings
    differ in is part of it, too. `synera evaluate` takes runs that are alike up to the seed for one policy."""
    settings: tuple[Path, ...] = ()
    """YAML files with all of the agent's own settings, instead of agents/tuned/AGENT.yaml; each of them."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE: another value for one of the agents' own settings, or NAME=VALUE,VALUE for each of these; give it again for
    others, and every combination is trained."""
    at_once: int | None = None
    """Trainings side by side, a core each; by default as many as there are cores."""
    ray: RayAddress = None
    """Do it as tasks of Ray, on this machine or where ADDRESS says: auto, or HOST:PORT of a cluster whose machines share this folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("seeds", self.seeds, 1, 1000)
        if self.at_once is not None:
            whole("at_once", self.at_once, 1, 4096)
        if not self.agent or len(set(self.agent)) < len(self.agent):
            raise SettingError(f"agent={' '.join(self.agent)!r} must name some of {', '.join(AGENTS)}, each once")
        if self.settings and len(self.agent) > 1:
            raise SettingError("settings are those of one agent; name one with --agent, or leave out --settings")

    def parts(self) -> list[Part]:
        """The trainings.

        Raises:
            SettingError: a name is none for a run, or two share one.
        """
        shared: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(Training)}
        found = []
        for agent in self.agent:
            name = self.name if self.name is not None and len(self.agent) == 1 else label(self.name, agent)
            for variant in variants(self.settings, self.set):
                policy = label(name, variant.label) if variant.label else name
                check_run_name(policy)
                for seed in range(self.seeds):
                    run = f"{policy}-seed{seed}"
                    train.run_folder_of(run)
                    own: dict[str, Any] = {
                        "agent": agent,
                        "name": run,
                        "settings": variant.settings,
                        "set": variant.set,
                        "seed": seed,
                    }
                    found.append(Part(policy, train.Arguments(**shared, **own)))
        check_distinct(found)
        return found


def main(arguments: Arguments) -> None:
    """Train what is not finished yet, and say what came of all.

    Raises:
        SyneraError: a training failed, or none could begin.
    """
    check_ray(arguments.ray)
    check_output(Path("runs"), folder=True)
    parts = arguments.parts()
    recipes = {part.name: part.arguments.recipe() for part in parts}
    todo = _todo(arguments, parts, recipes)
    Path("runs").mkdir(exist_ok=True)
    console.print(
        f"{len(parts)} trainings; {len(parts) - len(todo)} are finished, {sum(p.resume is not None for p in todo)} go on"
    )
    say("watch", "tensorboard --logdir runs")
    try:
        failed = _train(arguments, todo, recipes)
    except BaseException:
        console.print("not finished: the same command goes on with what there is in runs")
        raise
    _say_what_came(arguments, [part for part in parts if part.name not in {each.name for each in failed}])
    if failed:
        _say_what_failed(failed)
        raise SyneraError(
            f"{len(failed)} of {len(parts)} trainings failed; the same command trains those that are not finished"
        )


def _todo(arguments: Arguments, parts: list[Part], recipes: dict[str, Recipe]) -> list[Part]:
    """Those that are not finished; looks at the world, so that what is wrong with it is said once and before anything is done."""
    opened, beginning = arguments.opened(), arguments.beginning()
    env = opened.training(trained_for(arguments.preference))
    world = {"train": env.provenance(), "validation": opened.validating().provenance()}
    if beginning is not None:
        world["beginning"] = beginning.as_stated()
        for recipe in recipes.values():
            beginning.check(recipe, env.schema)
    standings = (standing(part, recipes[part.name], world) for part in parts)
    return [part for part in standings if part is not None]


def _train(arguments: Arguments, todo: list[Part], recipes: dict[str, Recipe]) -> dict[Part, str]:
    """Train side by side; return those that failed, and how."""
    failed: dict[Part, str] = {}
    with progress() as bar:
        whole_sweep = bar.add_task("trainings", total=len(todo))
        bars = _Bars(bar)
        waiting = list(todo)

        def look() -> None:
            for part in waiting:
                bars.show(part, recipes[part.name])

        for ended in spread(trained, todo, arguments.at_once, arguments.ray, on_wait=look):
            part = todo[ended.number]
            waiting.remove(part)
            bars.hide(part)
            bar.advance(whole_sweep)
            if how := _how_it_failed(ended):
                failed[part] = how
            bar.console.print(f"{part.name}: {how or _in_short(outcome(part))}")
    return failed


class _Bars:
    """A bar for each training that has come to a validation."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._tasks = bar, dict[str, TaskID]()

    def show(self, part: Part, recipe: Recipe) -> None:
        steps, reward = reached(part)
        if steps:
            if part.name not in self._tasks:
                self._tasks[part.name] = self._bar.add_task(part.name, total=recipe.steps)
            said = "" if reward is None else f", reward {reward:.3f}"
            self._bar.update(self._tasks[part.name], completed=steps, description=f"{part.name}{said}")

    def hide(self, part: Part) -> None:
        if part.name in self._tasks:
            self._bar.remove_task(self._tasks.pop(part.name))


def _how_it_failed(ended: Ended[int]) -> str:
    if ended.failure is not None:
        return f"failed: {ended.failure}"
    return f"failed with exit code {ended.result}" if ended.result else ""


def _in_short(stated: dict[str, Any]) -> str:
    rule, beat = stated.get("best_rule"), stated.get("beat_rules")
    minus = "" if rule is None else f", {stated['validation_reward'] - rule['validation_reward']:+.3f} to {rule['name']}"
    when = "" if beat is None else f", surely ahead after {beat['seconds']:.0f} s"
    return f"reward {stated['validation_reward']:.3f}{minus}{when}"


def _say_what_came(arguments: Arguments, parts: list[Part]) -> None:
    """A row for each policy, and what to do with them."""
    columns = ("trainings", "validation reward", "spread", "minus the best rule", "seconds to beat it")
    table = Table("policy", *columns, title="means over seeds; spread is the standard deviation", title_justify="left")
    for policy in dict.fromkeys(part.policy for part in parts):
        table.add_row(policy, *_row([outcome(part) for part in parts if part.policy == policy]))
    if not parts:
        return
    console.print(table)
    of_world = ("system", "first_token_weight", "grow", "slm", "llm", "device_profile", "cloud_profile")
    world = {name: getattr(arguments, name) for name in of_world}
    scenarios = "mix" if arguments.system == "synera" else None
    bundles = tuple(part.folder / "bundle" for part in parts)
    say("next", next_step("evaluate", graphs=arguments.test_graphs, **world, bundle=bundles, scenarios=scenarios))


def _row(stated: list[dict[str, Any]]) -> Iterator[str]:
    """Of the trainings of one policy."""
    rewards = np.array([each["validation_reward"] for each in stated])
    minus = [each["validation_reward"] - each["best_rule"]["validation_reward"] for each in stated if each.get("best_rule")]
    beat = [each["beat_rules"]["seconds"] for each in stated if each.get("beat_rules")]
    yield str(len(stated))
    yield f"{rewards.mean():.3f}"
    yield f"{rewards.std(ddof=1):.3f}" if len(rewards) > 1 else ""
    yield f"{np.mean(minus):+.3f}" if minus else ""
    yield f"{np.median(beat):.0f} (median of {len(beat)}; {len(stated) - len(beat)} never)" if beat else "never"


def _say_what_failed(failed: dict[Part, str]) -> None:
    """Each with the end of what it printed."""
    for part, how in failed.items():
        console.print(f"{part.name}: {how}; {part.log} ends:", style="yellow")
        for line in last_lines(part):
            console.print(f"    {harmless(line)}")


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
