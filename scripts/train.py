"""Train a controller with PPO on recorded traces, and export it as a deployable bundle.

Examples:
    synera train                                    # bundled graphs, a minute or two
    synera train --name mine --graphs runs/graphs --ppo.steps 400000
    synera train --ppo.preference sampled           # one policy for any preference weights
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agents.learned import PPOConfig, train_ppo
from scripts._cli import console, launch, progress
from synera_env import Preference, SyneraReplayEnv
from traces import bundled
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback


@dataclass(frozen=True)
class Arguments:
    """Train a controller."""

    name: str = "ppo"
    """The run is written to runs/NAME."""
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
    device, cloud = DeviceProfile.load(arguments.device_profile), CloudProfile.load(arguments.cloud_profile)
    train_graphs = GraphSet.load(arguments.graphs / "train.safetensors")
    validation = GraphSet.load(arguments.graphs / "validation.safetensors")
    bundle = train(train_graphs, validation, device, cloud, arguments.ppo, Path("runs") / arguments.name)
    console.print(f"bundle: {bundle}")
    console.print(f"next: synera evaluate --graphs {arguments.graphs / 'test.safetensors'} --bundle {bundle}")
    console.print(f"      tensorboard --logdir {bundle.parent / 'tb'}")


def train(
    train_graphs: GraphSet,
    validation_graphs: GraphSet,
    device: DeviceProfile,
    cloud: CloudProfile,
    config: PPOConfig,
    folder: Path,
) -> Path:
    """Train with a progress bar; return the bundle's folder."""
    import torch

    torch.set_num_threads(1)  # networks this small only lose by more

    def make_env(preference: Preference | None) -> SyneraReplayEnv:
        return SyneraReplayEnv(train_graphs, bundled.links("train"), device, cloud, preference)

    validation = SyneraReplayEnv(validation_graphs, bundled.links("validation"), device, cloud)
    with progress() as bar:
        task = bar.add_task("train PPO", total=config.steps)
        return train_ppo(make_env, validation, config, folder, _bar_callback(lambda done: bar.update(task, completed=done)))


def _bar_callback(update: object) -> BaseCallback:
    from stable_baselines3.common.callbacks import BaseCallback

    class Bar(BaseCallback):
        def _on_step(self) -> bool:
            update(self.num_timesteps)  # type: ignore[operator]
            return True

    return Bar()


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
