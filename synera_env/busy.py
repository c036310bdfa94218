"""How busy the replayed cloud is when a check reaches it: drawn for each from a profile, or the state that other requests leave.

What does not live here: the profile and the shared cloud (traces/), and what a check does with it (synera/verifier.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runtime.errors import SettingError
from runtime.settings import shown
from synera_env import chance
from synera_env.arguments import Source
from traces.profile import CloudProfile
from traces.workload.readers import load_workload
from traces.workload.shared_cloud import Met, SharedCloud
from traces.workload.trace import Workload

CloudLoad = Source | Workload | SharedCloud
"""The others who use the cloud: a workload, its file, or what has been worked out of one."""


class Busy(Protocol):
    """A cloud with others in it, during one answer."""

    def meets(self, check: int, at_seconds: float, tokens: int) -> Met:
        """What the answer's check of this number, from 1, and of so many tokens meets, if it comes so long after the answer's start."""
        ...


@dataclass(frozen=True)
class DrawnBusy:
    """Each check draws anew, whenever it comes: one number for its wait and its load, as who waits long meets many."""

    cloud: CloudProfile
    seed: int
    """Of the answer."""

    def meets(self, check: int, at_seconds: float, tokens: int) -> Met:
        """See :class:`Busy`; the forward is the check's alone."""
        uniform = chance.uniform(self.seed, chance.BUSY, check)
        compute = self.cloud.forward_seconds(tokens)
        return Met(self.cloud.queue_seconds(uniform), compute, compute, 1 + self.cloud.background_load(uniform))


@dataclass(frozen=True)
class SharedBusy:
    """The state of a shared cloud, from some time of its workload on."""

    shared: SharedCloud
    offset_seconds: float

    def meets(self, check: int, at_seconds: float, tokens: int) -> Met:
        """See :class:`Busy`."""
        return self.shared.meets(self.offset_seconds + at_seconds, tokens)


def busy_of(cloud: CloudProfile, shared: SharedCloud | None, seed: int) -> Busy:
    """Return the cloud of the answer with this seed; where it is shared, one draw says from which time of the workload on."""
    if shared is None:
        return DrawnBusy(cloud, seed)
    return SharedBusy(shared, chance.uniform(seed, chance.BUSY, 0) * shared.seconds)


def read_cloud_load(value: object, cloud: CloudProfile) -> SharedCloud | None:
    """Return the shared cloud that an argument `cloud_load` asks for; None for the profile's own draws.

    Raises:
        SettingError: it is no workload, or was worked out for another profile.
        TraceError: the file is missing or damaged.
    """
    if value is None:
        return None
    if isinstance(value, SharedCloud):
        if value.cloud != cloud:
            raise SettingError(
                f"cloud_load was worked out for the profile {value.cloud.name!r} and cloud is {cloud.name!r}; give the workload itself"
            )
        return value
    if not isinstance(value, Workload):
        if not isinstance(value, Source):
            raise SettingError(f"cloud_load={shown(value)} must be a Workload, a SharedCloud or the path of a workload")
        value = load_workload(value)
    return SharedCloud.of(value, cloud)
