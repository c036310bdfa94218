"""Train a controller on recorded traces, and export it as a deployable bundle.

Examples:
    synera train                                    # PPO on the bundled graphs, a minute or two
    synera train --agent maskable-ppo --stop-when beats-rules --against runs/rules/link-aware.json
    synera train --agent discrete-sac --set learning_rate=0.001 --set hidden=128
    synera train --agent counterfactual --name mine --graphs runs/graphs
    synera train --imitate runs/rules/link-aware.json    # begins as that rule, and goes on from there
    synera train --resume runs/ppo.part-1a2b3c4d    # goes on with what was interrupted
    synera train --preference sampled               # one policy for any preference weights
    synera train --preference quality               # one that costs hardly matter to; then synera deploy --prefer quality
    synera train --bounds runs/bounds.json          # shows how much of the gap to what synera bounds found is closed
    synera train --links traces/                    # recorded links, of any form that is known
    synera train --system hat --first-token-weight 3    # HAT's chunks, drafts and precision
    synera train --graphs runs/graphs --slm /models/small --llm /models/large   # the graphs grow with models that moved
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, get_args

import tyro

from agents.bundle import TABLES
from agents.gaps import Bounds
from agents.learning.around import Around
from agents.learning.recipe import AGENTS, Recipe
from agents.learning.run import train as train_agent
from agents.learning.run_folder import CHECKPOINT, CONFIG, check_run_name, unfinished
from agents.learning.settings import CounterfactualSettings
from agents.learning.settings_file import changed, read_settings, tuned
from scripts._cli import console, launch, next_step, progress, say
from scripts._growth import save_grown, say_grown
from scripts._training import Training
from scripts._world import Agent, Opened
from synera_env import SettingError
from synera_env.reward import Prefer
from traces.synera.growing import GrowingGraphs

GROWN = "graphs"
"""In a run's folder: what graphs have grown to."""


@dataclass(frozen=True)
class Arguments(Training):
    """Train a controller."""

    agent: Agent = "ppo"
    """Who learns."""
    name: str | None = None
    """The run is written to runs/NAME once it is finished; until then a run of this name stays as it was. By default the agent's."""
    settings: Path | None = None
    """YAML file with all of the agent's own settings, instead of agents/tuned/AGENT.yaml."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE: another value for one of the agent's own settings; give it again for others."""
    bounds: Path | None = None
    """What synera bounds found for these validation answers: TensorBoard then shows which share of the gap to each is closed."""
    resume: Path | None = None
    """Go on with an unfinished run, runs/NAME.part-*; its agent, settings and options are as they were, the world is to be named again."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.agent == "counterfactual" and self.system != "synera":
            raise SettingError(
                f"counterfactual training tries each chunk both kept and offloaded, and --system {self.system} has no such choice; "
                "take another agent, such as ppo"
            )

    def recipe(self) -> Recipe:
        """How to train; of a run that is gone on with, as it was.

        Raises:
            TraceError: a file is missing.
            SettingError: a setting is out of range, or is given to a run that has its own.
        """
        kind = AGENTS[self.agent].settings
        if self.resume is not None:
            return self._resumed(self.resume)
        settings = tuned(self.agent, kind) if self.settings is None else read_settings(self.settings, kind)
        return Recipe.of(self.agent, changed(settings, self.set), **self.shared(), seed=self.seed)

    def _resumed(self, path: Path) -> Recipe:
        default = Arguments()
        names = ("agent", "name", "settings", "set", *self.shared(), "seed", "imitate", "begin_from")
        if given := [name for name in names if getattr(self, name) != getattr(default, name)]:
            option = given[0].replace("_", "-")
            raise SettingError(f"--resume goes on with the run's own recipe; leave out --{option}")
        _, checkpoint = unfinished(path)
        try:
            stated = json.loads((checkpoint.parent / CONFIG).read_text())["config"]
        except (OSError, ValueError, KeyError, TypeError):
            raise SettingError(f"{checkpoint.parent} has no {CONFIG} that can be read; train anew") from None
        return Recipe.stated(stated)

    def folder(self) -> Path:
        """Of the run.

        Raises:
            SettingError: the name is none for a run, or something else is in its place.
        """
        if self.resume is not None:
            return unfinished(self.resume)[0]
        return run_folder_of(self.agent if self.name is None else self.name)


def main(arguments: Arguments) -> None:
    """Train and export."""
    folder = arguments.folder()
    if os.path.realpath(folder) == os.path.realpath(arguments.graph_folder):
        raise SettingError(f"the run {folder.name} would replace the graphs in {folder}; name another run with --name")
    recipe = arguments.recipe()
    around = Around(
        resume=None if arguments.resume is None else unfinished(arguments.resume)[1],
        beginning=arguments.beginning(),
        against=arguments.against,
        bounds=None if arguments.bounds is None else Bounds.load(arguments.bounds),
    )

    def say_how_to_go_on(part: Path) -> None:
        beside = {"against": arguments.against, "bounds": arguments.bounds}
        say("go on", next_step("train", **arguments.given(), resume=folder.parent / part.name, **beside))

    grown = None if around.resume is None else around.resume.parent / GROWN
    bundle = train(arguments.opened(grown), recipe, folder, arguments.save_graphs, around, say_how_to_go_on)
    say("bundle", str(bundle))
    say("next", *_next(arguments, bundle))


def train(
    world: Opened,
    recipe: Recipe,
    folder: Path,
    save_graphs: bool = True,
    around: Around | None = None,
    on_unfinished: Callable[[Path], object] = lambda part: None,
) -> Path:
    """Train with a progress bar, saying where it can be watched and what came of it; return the bundle's folder.

    Graphs that grow are kept in the run's folder `graphs`, as they were at its last validation, unless `save_graphs` is False; a
    training that is resumed goes on from there.

    Args:
        world: where.
        recipe: how.
        folder: the run's.
        save_graphs: see above.
        around: see :class:`agents.learning.run.Around`.
        on_unfinished: called with the unfinished folder, if it can be gone on with.
    """
    import torch

    torch.set_num_threads(1)  # networks this small only lose by more
    own, parts = recipe.settings, list[Path]()
    if isinstance(own, CounterfactualSettings) and own.explore_every == 0 and isinstance(world.graphs["train"], GrowingGraphs):
        console.print(
            "note: the training graphs can grow, but with explore_every=0 training is over what they hold; "
            "--set explore_every=50 lets the policy explore them"
        )

    def started(part: Path) -> None:
        parts.append(part)
        say("watch", f"tensorboard --logdir {shlex.quote(str(part / 'tb'))}")

    try:
        with progress() as bar:
            task = bar.add_task("prepare (compiles, once a machine)", total=recipe.steps)

            def stepped(done: int) -> None:
                bar.update(task, completed=done, description=f"train {recipe.agent}")

            def judged(*_: object) -> None:
                if save_graphs:
                    save_grown(world.graphs, parts[0] / GROWN)

            around = replace(around or Around(), on_step=stepped, on_start=started, on_judged=judged)
            bundle = train_agent(world.training, world.validating(), recipe, folder, around)
        say_grown(world.graphs)
        _say_what_came(bundle)
        return bundle
    except BaseException:
        if parts and parts[0].exists():
            kept = f"; the run before it is still in {folder}" if folder.exists() else ""
            console.print(f"not finished: what there is lies in {parts[0]}{kept}")
            if (parts[0] / CHECKPOINT).is_file():
                on_unfinished(parts[0])
        raise


def _say_what_came(bundle: Path) -> None:
    """How the best weights stand against the best rule, and when a training was first sure of it."""
    stated = json.loads((bundle.parent / CONFIG).read_text())
    if "stopped" in stated:
        say("stopped", stated["stopped"])
    if "best_rule" not in stated:
        return
    rule, beat = stated["best_rule"], stated["beat_rules"]
    when = (
        "no validation was sure that it beats every rule"
        if beat is None
        else f"first surely beat every rule after {beat['seconds']:.0f} s, {beat['steps']:,} steps"
    )
    say(
        "validation",
        f"reward {stated['validation_reward']:.3f}, the best rule, {rule['name']}, {rule['validation_reward']:.3f}; {when}",
    )


def run_folder_of(name: str) -> Path:
    """Return the folder of a run, before any work is done for it.

    Raises:
        SettingError: the name is none for a run, or something else is in its place.
    """
    check_run_name(name)
    folder = Path("runs") / name
    for each in (folder.parent, folder):
        if each.exists() and not each.is_dir():
            raise SettingError(f"{each} is there and is not a folder; name another run with --name, or move it")
    return folder


def _next(arguments: Arguments, bundle: Path) -> list[str]:
    """The commands that look at a bundle, in the world that it was trained in."""
    test = arguments.test_graphs
    of_world = ("system", "first_token_weight", "grow", "slm", "llm", "device_profile", "cloud_profile", "links", "fill")
    world = {name: getattr(arguments, name) for name in (*of_world, "workload")}
    if arguments.preference in get_args(Prefer):
        world["prefer"] = arguments.preference
    commands = [
        next_step("evaluate", graphs=test, **world, bundle=(bundle,)),
        shlex.join(["tensorboard", "--logdir", str(bundle.parent / "tb")]),
    ]
    if test is not None and not test.is_file():
        alike = {"lens": bundle / TABLES} if arguments.system == "synera" else {"system": arguments.system}
        record = next_step("record", splits=("test",), **alike, out=arguments.graphs)
        commands.insert(0, f"{record}   # and the models and prompts of the other graphs")
    return commands


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
