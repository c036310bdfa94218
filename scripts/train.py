"""Train a controller with PPO on recorded traces, and export it as a deployable bundle.

Examples:
    synera train                                    # bundled graphs, a minute or two
    synera train --name mine --graphs runs/graphs --ppo.steps 400000
    synera train --links traces/           # recorded links, of any form that is known
    synera train --ppo.preference sampled           # one policy for any preference weights
    synera train --graphs runs/graphs --slm /models/small --llm /models/large   # the graphs grow with models that moved
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agents.bundle import TABLES
from agents.learned import PPOConfig, check_run_name, train_ppo
from scripts._cli import console, launch, next_step, progress, say
from scripts._growth import Grow, Grower, save_grown, say_grown
from scripts._links import LinksOf, check_filling, links_of
from synera_env import Preference, SettingError, SyneraReplayEnv
from synera_env.busy import read_cloud_load
from traces import bundled
from traces.links.filling import Filling
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs
from traces.workload.shared_cloud import SharedCloud

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback


@dataclass(frozen=True)
class Arguments:
    """Train a controller."""

    name: str = "ppo"
    """The run is written to runs/NAME once it is finished; until then a run of this name stays as it was."""
    graphs: Path = bundled.ROOT / "graphs"
    """Folder with train.safetensors and validation.safetensors (synera record)."""
    device_profile: Path = field(default_factory=lambda: bundled.profile("phone"))
    """Times and energy of the device."""
    cloud_profile: Path = field(default_factory=lambda: bundled.profile("gpu"))
    """Times of the cloud."""
    links: Path | None = None
    """File or folder of recorded links, instead of the bundled ones; those for training and validation are taken (traces.links.splits says which)."""
    fill: Filling = field(default_factory=Filling)
    """With --links, your figures for what was not recorded."""
    workload: Path | None = None
    """Workload file (synera inspect-trace shows one): requests that the cloud serves beside the device, at the rate that they
    have in it; by default the cloud profile says how busy the cloud is, and each check draws it anew."""
    grow: Grow = "auto"
    """Run what was not recorded with the models, the moment an answer needs it. auto: open graphs whose models are at hand, and
    the training's only where they hold little; so on the bundled ones validation grows and training does not, which takes a
    sixth of the time. yes: all graphs. no: an answer ends where it leaves what was recorded."""
    slm: Path | None = None
    """Folder of the SLM that the graphs were recorded with, where it is not where they say."""
    llm: Path | None = None
    """Folder of the LLM, likewise."""
    score: str | None = None
    """Your function, MODULE:FUNCTION, that answers were scored by when they were recorded: graphs that grow ask it again."""
    save_graphs: bool = True
    """Keep what graphs have grown to in runs/NAME/graphs, at every validation and at the end; a later training goes on from there
    with --graphs."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """How PPO is trained."""

    def __post_init__(self) -> None:
        check_filling(self.links, self.fill)


def main(arguments: Arguments) -> None:
    """Train and export."""
    folder = _run_folder(arguments.name)
    if os.path.realpath(folder) == os.path.realpath(arguments.graphs):
        raise SettingError(f"the run {arguments.name} would replace the graphs in {folder}; name another run with --name")
    device, cloud = DeviceProfile.load(arguments.device_profile), CloudProfile.load(arguments.cloud_profile)
    of = links_of(arguments.links, arguments.fill)
    links = {split: of(split) for split in ("train", "validation")}
    load = None if arguments.workload is None else read_cloud_load(arguments.workload, cloud)
    recorded = [GraphSet.load(arguments.graphs / f"{split}.safetensors") for split in ("train", "validation")]
    grower = Grower(arguments.grow, arguments.slm, arguments.llm, arguments.score)
    graphs = grower(recorded[0], learned_on=True), grower(recorded[1])
    bundle = train(*graphs, device, cloud, arguments.ppo, folder, arguments.save_graphs, links.__getitem__, load)
    say("bundle", str(bundle))
    say("next", *_next(arguments, bundle))


def train(
    train_graphs: GraphSet | GrowingGraphs,
    validation_graphs: GraphSet | GrowingGraphs,
    device: DeviceProfile,
    cloud: CloudProfile,
    config: PPOConfig,
    folder: Path,
    save_graphs: bool = True,
    links: LinksOf = bundled.links,
    cloud_load: SharedCloud | None = None,
) -> Path:
    """Train with a progress bar, saying where it can be watched; return the bundle's folder.

    Graphs that grow are kept in the run's folder `graphs`, unless `save_graphs` is False.
    """
    import torch
    from stable_baselines3.common.callbacks import CallbackList

    torch.set_num_threads(1)  # networks this small only lose by more
    unfinished: list[Path] = []
    of_training = links("train")

    def make_env(preference: Preference | None) -> SyneraReplayEnv:
        return SyneraReplayEnv(train_graphs, of_training, device, cloud, preference, cloud_load=cloud_load)

    def started(part: Path) -> None:
        unfinished.append(part)
        say("watch", f"tensorboard --logdir {shlex.quote(str(part / 'tb'))}")

    graphs = {"train": train_graphs, "validation": validation_graphs}
    validation = SyneraReplayEnv(validation_graphs, links("validation"), device, cloud, cloud_load=cloud_load)
    try:
        with progress() as bar:
            task = bar.add_task("prepare (compiles, once a machine)", total=config.steps)
            watching = [_calling(lambda done: bar.update(task, completed=done, description="train PPO"))]
            if save_graphs:
                watching.append(_calling(lambda _: save_grown(graphs, unfinished[0] / "graphs"), config.validate_every))
            bundle = train_ppo(make_env, validation, config, folder, CallbackList(watching), started)
        say_grown(graphs)
        return bundle
    except BaseException:
        if unfinished and unfinished[0].exists():
            kept = f"; the run before it is still in {folder}" if folder.exists() else ""
            console.print(f"not finished: what there is lies in {unfinished[0]}{kept}")
        raise


def _run_folder(name: str) -> Path:
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
    test = arguments.graphs / "test.safetensors"
    of_world = ("grow", "slm", "llm", "device_profile", "cloud_profile", "links", "fill", "workload")
    world = {name: getattr(arguments, name) for name in of_world}
    commands = [
        next_step("evaluate", graphs=test, **world, bundle=(bundle,)),
        shlex.join(["tensorboard", "--logdir", str(bundle.parent / "tb")]),
    ]
    if not test.is_file():
        record = next_step("record", splits=("test",), lens=bundle / TABLES, out=arguments.graphs)
        commands.insert(0, f"{record}   # and the models and prompts of the other graphs")
    return commands


def _calling(function: Callable[[int], object], every_steps: int = 1) -> BaseCallback:
    """A callback that hands a function the steps so far: at the end, and before it every so many of them."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Calling(BaseCallback):
        def _on_training_start(self) -> None:
            self._next = self.num_timesteps + every_steps

        def _on_step(self) -> bool:
            if self.num_timesteps >= self._next:
                self._next = self.num_timesteps + every_steps
                function(self.num_timesteps)
            return True

        def _on_training_end(self) -> None:
            function(self.num_timesteps)

    return Calling()


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
