"""What an evaluation is of: the test prompts, links and profiles that its arguments name, read.

What does not live here: the arguments (evaluate.py), and a training's world (_world.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts._growth import Grower
from scripts._links import LinksOf, links_of
from synera_env import SyneraReplayEnv
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile, DeviceProfile
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs
from traces.workload.shared_cloud import SharedCloud

if TYPE_CHECKING:
    from scripts.evaluate import Arguments


@dataclass(frozen=True)
class Tested:
    """See the module."""

    graphs: GraphSet | GrowingGraphs
    """Of the test prompts."""
    grower: Grower
    """Opens others, of training and validation."""
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
        device, cloud = DeviceProfile.load(arguments.device_profile), CloudProfile.load(arguments.cloud_profile)
        links = links_of(arguments.links, arguments.fill)
        links("test")  # refused before the work
        grower = Grower(arguments.grow, arguments.slm, arguments.llm, arguments.score)
        return cls(grower(GraphSet.load(arguments.graphs)), grower, links, device, cloud)

    @property
    def test_links(self) -> Sequence[LinkTrace]:
        """Those that are tested on."""
        return self.links("test")

    def env(self, load: SharedCloud | None = None) -> SyneraReplayEnv:
        """The world, with others who use the cloud or without."""
        return SyneraReplayEnv(self.graphs, self.test_links, self.device, self.cloud, cloud_load=load)
