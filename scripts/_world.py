"""Where a controller is trained and validated, as arguments of a command and as what they name.

What does not live here: the training (train.py, tune.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from scripts._growth import Grow, Grower
from scripts._links import LinksOf, check_filling, links_of
from scripts._systems import BUNDLED, Own, SystemName, check_options
from synera_env import DecisionEnv, Preference, SyneraReplayEnv
from synera_env.busy import read_cloud_load
from synera_env.hat.replay import HatReplayEnv
from traces import bundled
from traces.hat.graph import HatGraphs
from traces.links.filling import Filling
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs
from traces.workload.shared_cloud import SharedCloud

Agent = Literal["ppo", "a2c", "recurrent-ppo", "maskable-ppo", "sac", "td3", "tqc", "dqn", "discrete-sac", "counterfactual"]
"""Those of agents.learning.recipe.AGENTS."""
Graphs = GraphSet | GrowingGraphs
_OWN: Own = {"synera": ("grow", "slm", "llm", "score"), "hat": ("first_token_weight",)}


@dataclass(frozen=True)
class World:
    """Where a controller is trained and validated."""

    system: SystemName = "synera"
    """What is controlled: synera, or hat, a large model that is split between device and cloud."""
    graphs: Path | None = None
    """Folder with train.safetensors and validation.safetensors (synera record); by default the bundled ones of the system."""
    device_profile: Path | None = None
    """Times and energy of the device; by default those of the bundled phone, of HAT of its testbed's board."""
    cloud_profile: Path | None = None
    """Times of the cloud; by default those of the bundled GPU, of HAT of its testbed's server."""
    links: Path | None = None
    """File or folder of recorded links, instead of the bundled ones; those for training and validation are taken (traces.links.splits says which)."""
    fill: Filling = field(default_factory=Filling)
    """With --links, your figures for what was not recorded."""
    workload: Path | None = None
    """Workload file (synera inspect-trace shows one): requests that the cloud serves beside the device, at the rate that they
    have in it; by default the cloud profile says how busy the cloud is, and each check draws it anew."""
    first_token_weight: float = 1.0
    """Of HAT: how many times a second before the first token counts."""
    grow: Grow = "auto"
    """Run what was not recorded with the models, the moment an answer needs it. auto: open graphs whose models are at hand, and
    the training's only where they hold little; so on the bundled ones validation grows and training does not, which takes a
    sixth of the time. yes: all graphs. no: an answer ends where it leaves what was recorded. HAT's graphs are always whole."""
    slm: Path | None = None
    """Folder of the SLM that the graphs were recorded with, where it is not where they say."""
    llm: Path | None = None
    """Folder of the LLM, likewise."""
    score: str | None = None
    """Your function, MODULE:FUNCTION, that answers were scored by when they were recorded: graphs that grow ask it again."""

    def __post_init__(self) -> None:
        check_filling(self.links, self.fill)
        check_options(self, _OWN)

    @property
    def graph_folder(self) -> Path:
        """Where the graphs lie."""
        return self.graphs or BUNDLED[self.system].graphs("train").parent

    @property
    def test_graphs(self) -> Path | None:
        """The graph file of the test beside them; None is the bundled one of the system."""
        return None if self.graphs is None else self.graphs / "test.safetensors"

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
        return _OPENED[self.system](self, grown)


class Opened(Protocol):
    """A world that was read; each system has its own."""

    @property
    def graphs(self) -> Mapping[str, object]:
        """Those of training and of validation, by split."""
        ...

    def training(self, preference: Preference | None) -> DecisionEnv:
        """Make a training environment."""
        ...

    def validating(self) -> DecisionEnv:
        """Make a validation environment."""
        ...


@dataclass(frozen=True)
class Around:
    """What answers meet beside the device: profiles, links and who else uses the cloud."""

    device: DeviceProfile
    cloud: CloudProfile
    links: LinksOf = bundled.links
    cloud_load: SharedCloud | None = None

    @classmethod
    def of(cls, world: World) -> Around:
        """Read what a world names; of both splits, as what is wrong is to be said before the work.

        Raises:
            SyneraError: something is missing, damaged or does not fit.
        """
        here = BUNDLED[world.system]
        device = DeviceProfile.load(world.device_profile or here.device)
        cloud = CloudProfile.load(world.cloud_profile or here.cloud)
        of = links_of(world.links, world.fill)
        links = {split: of(split) for split in ("train", "validation")}
        load = None if world.workload is None else read_cloud_load(world.workload, cloud)
        return cls(device, cloud, links.__getitem__, load)

    @cached_property
    def of_training(self) -> list[LinkTrace]:
        """Links of the training."""
        return list(self.links("train"))


@dataclass(frozen=True)
class SyneraOpened:
    """Implements :class:`Opened`."""

    train: Graphs
    validation: Graphs
    around: Around

    @classmethod
    def of(cls, world: World, grown: Path | None = None) -> SyneraOpened:
        """See :meth:`World.opened`."""
        around, folder = Around.of(world), world.graph_folder
        recorded = [GraphSet.load(folder / f"{split}.safetensors") for split in ("train", "validation")]
        grower = Grower(world.grow, world.slm, world.llm, world.score)
        before = [None if grown is None else grown / f"{split}.safetensors" for split in ("train", "validation")]
        train = grower(recorded[0], learned_on=True, grown=before[0])
        return cls(train, grower(recorded[1], grown=before[1]), around)

    @property
    def graphs(self) -> Mapping[str, Graphs]:
        """See :class:`Opened`."""
        return {"train": self.train, "validation": self.validation}

    def training(self, preference: Preference | None) -> SyneraReplayEnv:
        """See :class:`Opened`."""
        a = self.around
        return SyneraReplayEnv(self.train, a.of_training, a.device, a.cloud, preference, cloud_load=a.cloud_load)

    def validating(self) -> SyneraReplayEnv:
        """See :class:`Opened`."""
        a = self.around
        return SyneraReplayEnv(self.validation, a.links("validation"), a.device, a.cloud, cloud_load=a.cloud_load)


@dataclass(frozen=True)
class HatOpened:
    """Implements :class:`Opened`."""

    train: HatGraphs
    validation: HatGraphs
    around: Around
    first_token_weight: float

    @classmethod
    def of(cls, world: World, grown: Path | None = None) -> HatOpened:
        """See :meth:`World.opened`; these graphs are whole, so nothing has grown."""
        around, folder = Around.of(world), world.graph_folder
        train, validation = (HatGraphs.load(folder / f"{split}.safetensors") for split in ("train", "validation"))
        return cls(train, validation, around, world.first_token_weight)

    @property
    def graphs(self) -> Mapping[str, HatGraphs]:
        """See :class:`Opened`."""
        return {"train": self.train, "validation": self.validation}

    def training(self, preference: Preference | None) -> HatReplayEnv:
        """See :class:`Opened`."""
        return self._env(self.train, self.around.of_training, preference)

    def validating(self) -> HatReplayEnv:
        """See :class:`Opened`."""
        return self._env(self.validation, self.around.links("validation"))

    def _env(self, graphs: HatGraphs, links: list[LinkTrace], preference: Preference | None = None) -> HatReplayEnv:
        a, weight = self.around, self.first_token_weight
        return HatReplayEnv(graphs, links, a.device, a.cloud, preference, cloud_load=a.cloud_load, first_token_weight=weight)


_OPENED: Mapping[SystemName, Callable[[World, Path | None], Opened]] = {"synera": SyneraOpened.of, "hat": HatOpened.of}
