"""Where a controller is trained and validated, as arguments of a command and as what they name.

What does not live here: the training (train.py, tune.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Literal

from scripts._growth import Grow, Grower
from scripts._links import LinksOf, check_filling, links_of
from synera_env import Preference, SyneraReplayEnv
from synera_env.busy import read_cloud_load
from traces import bundled
from traces.links.filling import Filling
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs
from traces.workload.shared_cloud import SharedCloud

Agent = Literal["ppo", "a2c", "recurrent-ppo", "maskable-ppo", "sac", "td3", "tqc", "dqn", "discrete-sac", "counterfactual"]
"""Those of agents.learning.recipe.AGENTS."""
Graphs = GraphSet | GrowingGraphs


@dataclass(frozen=True)
class World:
    """Where a controller is trained and validated."""

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

    def __post_init__(self) -> None:
        check_filling(self.links, self.fill)

    def given(self) -> dict[str, object]:
        """The arguments, by name."""
        return {each.name: getattr(self, each.name) for each in fields(World)}

    def opened(self, grown: Path | None = None) -> Opened:
        """Read all of it.

        Args:
            grown: folder of what graphs that grow had grown to before (:func:`scripts._growth.save_grown`).

        Raises:
            SyneraError: something is missing, damaged or does not fit.
        """
        device, cloud = DeviceProfile.load(self.device_profile), CloudProfile.load(self.cloud_profile)
        of = links_of(self.links, self.fill)
        links = {split: of(split) for split in ("train", "validation")}
        load = None if self.workload is None else read_cloud_load(self.workload, cloud)
        recorded = [GraphSet.load(self.graphs / f"{split}.safetensors") for split in ("train", "validation")]
        grower = Grower(self.grow, self.slm, self.llm, self.score)
        before = [None if grown is None else grown / f"{split}.safetensors" for split in ("train", "validation")]
        train = grower(recorded[0], learned_on=True, grown=before[0])
        return Opened(train, grower(recorded[1], grown=before[1]), device, cloud, links.__getitem__, load)


@dataclass(frozen=True)
class Opened:
    """A world that was read."""

    train: Graphs
    validation: Graphs
    device: DeviceProfile
    cloud: CloudProfile
    links: LinksOf = bundled.links
    cloud_load: SharedCloud | None = None

    def training(self, preference: Preference | None) -> SyneraReplayEnv:
        """A training environment."""
        return SyneraReplayEnv(self.train, self._of_training, self.device, self.cloud, preference, cloud_load=self.cloud_load)

    def validating(self) -> SyneraReplayEnv:
        """A validation environment."""
        links = self.links("validation")
        return SyneraReplayEnv(self.validation, links, self.device, self.cloud, cloud_load=self.cloud_load)

    @cached_property
    def _of_training(self) -> list[LinkTrace]:
        return list(self.links("train"))
