"""Train a controller with PPO on recorded traces, and export it as a deployable bundle.

Examples:
    synera train                                    # bundled graphs, a minute or two
    synera train --name mine --graphs runs/graphs --ppo.steps 400000
    synera train --ppo.preference sampled           # one policy for any preference weights
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agents.bundle import TABLES
from agents.learned import PPOConfig, check_run_name, train_ppo
from scripts._cli import console, launch, next_step, progress, say
from synera_env import Preference, SettingError, SyneraReplayEnv
from traces import bundled
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet

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
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """How PPO is trained."""


def main(arguments: Arguments) -> None:
    """Train and export."""
    folder = _run_folder(arguments.name)
    device, cloud = DeviceProfile.load(arguments.device_profile), CloudProfile.load(arguments.cloud_profile)
    train_graphs = GraphSet.load(arguments.graphs / "train.safetensors")
    validation = GraphSet.load(arguments.graphs / "validation.safetensors")
    bundle = train(train_graphs, validation, device, cloud, arguments.ppo, folder)
    say("bundle", str(bundle))
    say("next", *_next(arguments, bundle))


def train(
    train_graphs: GraphSet,
    validation_graphs: GraphSet,
    device: DeviceProfile,
    cloud: CloudProfile,
    config: PPOConfig,
    folder: Path,
) -> Path:
    """Train with a progress bar, saying where it can be watched; return the bundle's folder."""
    import torch

    torch.set_num_threads(1)  # networks this small only lose by more
    unfinished: list[Path] = []

    def make_env(preference: Preference | None) -> SyneraReplayEnv:
        return SyneraReplayEnv(train_graphs, bundled.links("train"), device, cloud, preference)

    def started(part: Path) -> None:
        unfinished.append(part)
        say("watch", f"tensorboard --logdir {shlex.quote(str(part / 'tb'))}")

    validation = SyneraReplayEnv(validation_graphs, bundled.links("validation"), device, cloud)
    try:
        with progress() as bar:
            task = bar.add_task("train PPO", total=config.steps)
            callback = _bar_callback(lambda done: bar.update(task, completed=done))
            return train_ppo(make_env, validation, config, folder, callback, started)
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
    world = {"device_profile": arguments.device_profile, "cloud_profile": arguments.cloud_profile}
    commands = [
        next_step("evaluate", graphs=test, **world, bundle=(bundle,)),
        shlex.join(["tensorboard", "--logdir", str(bundle.parent / "tb")]),
    ]
    if not test.is_file():
        record = next_step("record", splits=("test",), lens=bundle / TABLES, out=arguments.graphs)
        commands.insert(0, f"{record}   # and the models and prompts of the other graphs")
    return commands


def _bar_callback(update: object) -> BaseCallback:
    from stable_baselines3.common.callbacks import BaseCallback

    class Bar(BaseCallback):
        def _on_step(self) -> bool:
            update(self.num_timesteps)  # type: ignore[operator]
            return True

    return Bar()


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
