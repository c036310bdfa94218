"""Look for better settings of an agent: short trainings, by Optuna, the best written as YAML that `synera train --settings` takes.

Examples:
    synera tune --agent discrete-sac --trials 30
    synera tune --agent ppo --set actions=choices --steps 60000 --graphs runs/graphs
    synera tune --agent ppo --trials 32 --at-once 4 --ray    # rounds of four trials, as tasks of Ray
    synera tune --agent discrete-sac --trials 30        # again: goes on with the search in runs/tune/discrete-sac
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from agents.learning.recipe import AGENTS, Recipe
from agents.learning.run_folder import check_run_name
from agents.learning.settings_file import changed, read_settings, tuned
from runtime.settings import whole
from scripts._cli import check_output, console, launch, next_step, progress, say
from scripts._scale import RayAddress, check_ray, connected, in_order, spread
from scripts._world import Agent, Opened, World
from synera_env.reward import Trained

if TYPE_CHECKING:  # Optuna loads only after the arguments are understood
    from agents.learning.tuning import Attempt, Attempted

_SHOWN = 5
_PART = 2
"""A trial takes one part in so many of a training's steps."""


@dataclass(frozen=True)
class Arguments(World):
    """Look for better settings."""

    agent: Agent = "ppo"
    """Whose."""
    name: str | None = None
    """The search is in runs/tune/NAME, and goes on if it is there already; by default the agent's."""
    trials: int = 20
    """How many to try, beside those that were tried before."""
    settings: Path | None = None
    """YAML file with the settings to begin with, instead of agents/tuned/AGENT.yaml; what is not looked for stays as it is there."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE: another value for one of them; give it again for others."""
    steps: int | None = None
    """Of each trial's training; by default half as many as training takes."""
    validate_every: int | None = None
    """Steps between validations; a trial that is below the median of those before it is given up at one."""
    envs: int | None = None
    """Environments stepped side by side."""
    preference: Trained = "default"
    """Of trainings; see synera train."""
    validation_answers: int = 64
    """Answers of each validation; the best reward of a training is what its settings are worth."""
    seed: int = 0
    """Of the search and of each training."""
    at_once: int = 1
    """Trials of a round, trained side by side in processes: all are drawn, and judged, by what was known before it. So what is found
    depends on it, and on nothing else that is said of where they are trained."""
    ray: RayAddress = None
    """Train those of a round as tasks of Ray, on this machine or where ADDRESS says: auto, or HOST:PORT of a cluster whose machines
    share this folder."""

    def recipe(self) -> Recipe:
        """How each trial is trained.

        Raises:
            TraceError: a file is missing.
            SettingError: a setting is out of range.
        """
        kind = AGENTS[self.agent]
        settings = tuned(self.agent, kind.settings) if self.settings is None else read_settings(self.settings, kind.settings)
        return Recipe.of(
            self.agent,
            changed(settings, self.set),
            steps=kind.steps // _PART if self.steps is None else self.steps,
            validate_every=self.validate_every,
            envs=self.envs,
            preference=self.preference,
            validation_answers=self.validation_answers,
            seed=self.seed,
        )


def main(arguments: Arguments) -> None:
    """Search, and say what was found."""
    whole("trials", arguments.trials, 1, 100_000)
    whole("at_once", arguments.at_once, 1, 4096)
    check_ray(arguments.ray)
    name = arguments.agent if arguments.name is None else arguments.name
    check_run_name(name)
    recipe, folder = arguments.recipe(), Path("runs") / "tune" / name
    check_output(folder, folder=True)
    world = arguments.opened()
    import torch

    from agents.learning.tuning import Tried, searched, tune

    torch.set_num_threads(1)  # networks this small only lose by more
    with connected(arguments.ray) if arguments.ray else nullcontext(), progress() as bar:
        task = bar.add_task("prepare (compiles, once a machine)", total=recipe.steps)
        best: list[float] = []

        def stepped(done: int) -> None:
            said = f"trial, best so far {max(best):.3f}" if best else "trial"
            bar.update(task, completed=done, description=said)

        def over(tried: Tried) -> None:
            best.extend([] if tried.reward is None else [tried.reward])
            outcome = "given up" if tried.reward is None else f"{tried.reward:.4f}"
            console.print(f"trial {tried.number}: {outcome}; {_said(tried.settings)}")

        found = tune(
            *(world.training, world.validating(), recipe, folder, arguments.trials, over, stepped),
            at_once=arguments.at_once,
            attempts=None if arguments.at_once == 1 and arguments.ray is None else partial(_side_by_side, arguments),
        )
    names = searched(type(recipe.settings))
    table = Table("trial", "reward", *names, title=f"best of {len(found.trials)} trials", title_justify="left")
    for tried in found.trials[:_SHOWN]:
        if tried.reward is not None:
            table.add_row(str(tried.number), f"{tried.reward:.4f}", *(f"{tried.settings[each]:.4g}" for each in names))
    console.print(table)
    say("settings", str(found.file))
    say("next", next_step("train", **arguments.given(), agent=arguments.agent, settings=found.file))


def _side_by_side(arguments: Arguments, asked: Sequence[Attempt]) -> Iterator[Attempted]:
    work = partial(_attempted, World(**arguments.given()))  # type: ignore[arg-type]
    return in_order(spread(work, asked, arguments.at_once, arguments.ray, fresh=False))


def _attempted(world: World, asked: Attempt) -> Attempted:
    """Train a trial in this process."""
    import torch

    from agents.learning.tuning import attempt

    torch.set_num_threads(1)
    opened = _opened(world)
    return attempt(opened.training, opened.validating(), asked)


@cache
def _opened(world: World) -> Opened:
    return world.opened()


def _said(settings: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in settings.items())


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
