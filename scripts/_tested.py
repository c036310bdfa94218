"""What an evaluation is of: the test prompts, links and profiles that its arguments name, read.

What does not live here: the arguments (evaluate.py), and a training's world (_world.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from scripts._growth import Grower
from scripts._links import LinksOf, links_of
from scripts._systems import SystemName
from synera_env import SyneraReplayEnv
from synera_env.hat.replay import HatReplayEnv
from traces.hat.graph import HatGraphs
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs
from traces.workload.shared_cloud import SharedCloud

if TYPE_CHECKING:
    from scripts.evaluate import Arguments

TestEnv = SyneraReplayEnv | HatReplayEnv
"""A world with graphs of prompts."""


class Testing(Protocol):
    """What an evaluation is of; each system has its own."""

    @property
    def cloud(self) -> CloudProfile:
        """Times of the cloud."""
        ...

    def env(self, load: SharedCloud | None = None) -> TestEnv:
        """The world of the test prompts, with others who use the cloud or without."""
        ...

    def searched(self, load: SharedCloud | None = None) -> TestEnv:
        """The same of the training prompts, those of the train.safetensors beside the graph file."""
        ...


@dataclass(frozen=True)
class _Around:
    """What answers meet beside the device."""

    links: LinksOf
    """By split."""
    device: DeviceProfile
    cloud: CloudProfile

    @classmethod
    def of(cls, arguments: Arguments) -> _Around:
        device, cloud = DeviceProfile.load(arguments.device_file), CloudProfile.load(arguments.cloud_file)
        links = links_of(arguments.links, arguments.fill)
        links("test")  # refused before the work
        return cls(links, device, cloud)


@dataclass(frozen=True)
class Tested:
    """Synera's; implements :class:`Testing`."""

    graphs: GraphSet | GrowingGraphs
    """Of the test prompts."""
    grower: Grower
    """Opens others, of training and validation."""
    training: Path
    """File of the training graphs, if it is there."""
    links: LinksOf
    """By split."""
    device: DeviceProfile
    cloud: CloudProfile

    @classmethod
    def of(cls, arguments: Arguments) -> Tested:
        """Read all of it.

        Raises:
            SyneraError: something is missing, damaged or does not fit.
        """
        around, file = _Around.of(arguments), arguments.graph_file
        grower = Grower(arguments.grow, arguments.slm, arguments.llm, arguments.score)
        return cls(grower(GraphSet.load(file)), grower, _training(file), around.links, around.device, around.cloud)

    @property
    def test_links(self) -> Sequence[LinkTrace]:
        """Those that are tested on."""
        return self.links("test")

    def env(self, load: SharedCloud | None = None) -> SyneraReplayEnv:
        """See :class:`Testing`."""
        return SyneraReplayEnv(self.graphs, self.test_links, self.device, self.cloud, cloud_load=load)

    def searched(self, load: SharedCloud | None = None) -> SyneraReplayEnv:
        """See :class:`Testing`."""
        graphs = self.grower(GraphSet.load(self.training))
        return SyneraReplayEnv(graphs, self.links("train"), self.device, self.cloud, cloud_load=load)


@dataclass(frozen=True)
class HatTested:
    """HAT's; implements :class:`Testing`."""

    graphs: HatGraphs
    training: Path
    around: _Around
    first_token_weight: float

    @classmethod
    def of(cls, arguments: Arguments) -> HatTested:
        """Read all of it.

        Raises:
            SyneraError: something is missing, damaged or does not fit.
        """
        around, file = _Around.of(arguments), arguments.graph_file
        return cls(HatGraphs.load(file), _training(file), around, arguments.first_token_weight)

    @property
    def cloud(self) -> CloudProfile:
        """See :class:`Testing`."""
        return self.around.cloud

    def env(self, load: SharedCloud | None = None) -> HatReplayEnv:
        """See :class:`Testing`."""
        return self._env(self.graphs, "test", load)

    def searched(self, load: SharedCloud | None = None) -> HatReplayEnv:
        """See :class:`Testing`."""
        return self._env(HatGraphs.load(self.training), "train", load)

    def _env(self, graphs: HatGraphs, split: str, load: SharedCloud | None) -> HatReplayEnv:
        a, weight = self.around, self.first_token_weight
        return HatReplayEnv(graphs, a.links(split), a.device, a.cloud, cloud_load=load, first_token_weight=weight)


def _training(graphs: Path) -> Path:
    return graphs.with_name("train.safetensors")


TESTED: Mapping[SystemName, Callable[[Arguments], Testing]] = {"synera": Tested.of, "hat": HatTested.of}
"""By system, what reads it."""
