"""Scenarios of an evaluation: the product of links, loads of the cloud, and preferences; built in, or a user's YAML file.

And the world of each. What does not live here: plans, who answers, and what is said of it (agents/).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError

from runtime.errors import SettingError
from runtime.settings import first_finding, shown
from synera_env.busy import CloudLoad, read_cloud_load
from synera_env.radio import Outages
from synera_env.reward import Preference, named_preferences
from synera_env.synera.replay import SyneraReplayEnv
from traces.errors import TraceError
from traces.links.generators import constant_link
from traces.links.trace import LinkTrace
from traces.profile import CloudProfile, DeviceProfile
from traces.schemas import EXACT, read_file
from traces.synera.graph import GraphSet
from traces.synera.growing import GrowingGraphs
from traces.workload.generators import closed_loop
from traces.workload.serving import Server

FAMILIES = "families"
"""Stands for every family of the links that are tested on, but for those that stand still."""
PROFILE, IDLE, BUSY = "profile", "idle", "busy"
"""Loads: the waits that the cloud's profile states; nobody else; many users in a closed loop."""
BUSY_USERS, THINK_SECONDS, BUSY_SECONDS = 40, 10.0, 120.0
"""Of `busy`; ours."""
MOST_SCENARIOS = 1000
_LARGEST = 2**16  # bytes of a file
_Milliseconds = Annotated[float, Field(ge=0, le=1e5)]
_Word = Annotated[str, Field(min_length=1, max_length=200)]
_Weight = Annotated[float, Field(ge=0, le=1e6)]


@dataclass(frozen=True)
class OwnLoad:
    """Others who use the cloud: so many users in a closed loop, or those of a workload file."""

    __pydantic_config__ = EXACT

    name: _Word
    users: Annotated[int, Field(ge=1, le=10_000)] | None = None
    workload: _Word | None = None

    def __post_init__(self) -> None:
        if (self.users is None) == (self.workload is None):
            raise SettingError(f"load {shown(self.name)} must state either users or a workload")


@dataclass(frozen=True)
class OwnPreference:
    """A preference with weights of its own; those that are left out are the defaults."""

    __pydantic_config__ = EXACT

    name: _Word
    weights: dict[str, _Weight]


def _form(value: object) -> str:
    return "word" if isinstance(value, str) else "own"


_Load = Annotated[Annotated[_Word, Tag("word")] | Annotated[OwnLoad, Tag("own")], Discriminator(_form)]
_Preference = Annotated[Annotated[_Word, Tag("word")] | Annotated[OwnPreference, Tag("own")], Discriminator(_form)]


def _kind_of_link(value: object) -> str:
    return "family" if isinstance(value, str) else "ms"


_Link = Annotated[Annotated[_Milliseconds, Tag("ms")] | Annotated[_Word, Tag("family")], Discriminator(_kind_of_link)]


@dataclass(frozen=True)
class Mix:
    """What scenarios are the product of; the fields of a scenario file."""

    __pydantic_config__ = EXACT

    links: Annotated[tuple[_Link, ...], Field(min_length=1)]
    """Round trips in ms of links that stand still, names of families, or `families`."""
    loads: Annotated[tuple[_Load, ...], Field(min_length=1)] = (PROFILE,)
    """`profile`, `idle`, `busy`, or one of your own."""
    preferences: Annotated[tuple[_Preference, ...], Field(min_length=1)] = ("balanced",)
    """Names of `synera_env.reward.Prefer`, or one of your own."""


BUILT_IN: Mapping[str, Mix] = {
    "mix": Mix((20.0, 75.0, 300.0, 1000.0, FAMILIES), (PROFILE, BUSY), ("balanced", "quality", "speed", "cost")),
    "quick": Mix((75.0, FAMILIES), (PROFILE,), ("balanced", "quality", "cost")),
}
"""Mixes by name."""


@dataclass(frozen=True)
class Scenario:
    """One of them."""

    link: str
    """A family, or the round trip of a link that stands still, such as `75 ms`."""
    load: str
    preference: str
    weights: Preference

    @property
    def name(self) -> str:
        """Link, load and preference."""
        return f"{self.link} / {self.load} / {self.preference}"

    @property
    def condition(self) -> tuple[str, str]:
        """Link and load: the world, in which all preferences meet the same."""
        return self.link, self.load


def read_mix(named: str) -> Mix:
    """Return the mix of a name, or of a YAML file.

    Raises:
        SettingError: there is neither.
        TraceError: the file is unreadable or not a mix; names the field that is wrong.
    """
    if named in BUILT_IN:
        return BUILT_IN[named]
    missing = f"no scenarios {shown(named)}: neither one of {', '.join(BUILT_IN)} nor a YAML file"
    content = read_file(named, missing, _LARGEST)
    try:
        stated = yaml.load(content, _Plain)
        return TypeAdapter(Mix).validate_python(stated)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise TraceError(f"{shown(named)} is not a file of scenarios: {_said(error)}") from None


def _said(error: Exception) -> str:
    """What is wrong with a file, as one clause."""
    if isinstance(error, ValidationError):
        return first_finding(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {shown(str(error.problem), 200)[1:-1]}"
    return shown(" ".join(str(error).split()), 200)[1:-1]


class _Plain(yaml.SafeLoader):
    """YAML without aliases, of which a small file can make a huge value."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it uses an alias; write the value out")
        return super().compose_node(parent, index)


def scenarios_of(mix: Mix, links: Sequence[LinkTrace]) -> tuple[Scenario, ...]:
    """Return the scenarios of a mix, with the families of the links that are tested on.

    Raises:
        SettingError: a family, a load or a preference is unknown, one is named twice, or they are too many.
    """
    families = sorted({link.family for link in links})
    names: list[str] = []
    for each in mix.links:
        if each == FAMILIES:
            names += [family for family in families if family != "constant"]
        elif isinstance(each, str) and each not in families:
            raise SettingError(f"links={shown(each)} of the scenarios is not a family; there are {', '.join(families)}")
        else:
            names.append(each if isinstance(each, str) else f"{each:g} ms")
    loads = [each if isinstance(each, str) else each.name for each in mix.loads]
    if unknown := [each for each in mix.loads if isinstance(each, str) and each not in (PROFILE, IDLE, BUSY)]:
        raise SettingError(f"loads={shown(unknown[0])} of the scenarios is not one of {PROFILE}, {IDLE}, {BUSY}")
    weights = dict(_weights(each) for each in mix.preferences)
    for what, several, distinct in (("links", names, set(names)), ("loads", loads, set(loads))):
        if len(distinct) < len(several):
            raise SettingError(f"{what} of the scenarios name one twice: {', '.join(several)}")
    if len(weights) < len(mix.preferences):
        raise SettingError("preferences of the scenarios name one twice")
    found = tuple(Scenario(link, load, name, weights[name]) for link, load, name in product(names, loads, weights))
    if not 1 <= len(found) <= MOST_SCENARIOS:
        raise SettingError(f"the scenarios are {len(found)}; there must be 1 to {MOST_SCENARIOS}")
    return found


def _weights(each: str | OwnPreference) -> tuple[str, Preference]:
    named = named_preferences()
    if isinstance(each, str):
        if each not in named:
            raise SettingError(f"preferences={shown(each)} of the scenarios is not one of {', '.join(named)}")
        return each, named[each]
    try:
        return each.name, replace(Preference(), **each.weights)
    except TypeError:
        known = ", ".join(vars(Preference()))
        raise SettingError(f"preference {shown(each.name)} has a weight that is not one of {known}") from None


class Worlds:
    """The worlds of scenarios over one set of graphs, each opened once."""

    def __init__(
        self,
        mix: Mix,
        graphs: GraphSet | GrowingGraphs,
        links: Sequence[LinkTrace],
        device: DeviceProfile,
        cloud: CloudProfile,
        seed: int = 0,
        outages: Outages | None = None,
        substitutes: Sequence[LinkTrace] = (),
    ) -> None:
        """See the class.

        Args:
            mix: whose loads are known by name.
            graphs: of the prompts.
            links: of the families.
            device: its times and energy.
            cloud: its times, and the waits of the load `profile`.
            seed: of the others who use the cloud.
            outages: see :class:`synera_env.synera.replay.SyneraReplayEnv`.
            substitutes: links of families that `links` has none of.
        """
        self._loads = {each.name: each for each in mix.loads if isinstance(each, OwnLoad)}
        self._graphs, self._links, self._substitutes = graphs, tuple(links), tuple(substitutes)
        self._device, self._cloud, self._outages, self._seed = device, cloud, outages, seed
        self._env, self._shared = cache(self._opened), cache(self._shared_cloud)

    def env(self, scenario: Scenario) -> SyneraReplayEnv:
        """The world of a scenario."""
        return self._env(scenario.condition)

    # ------------------------------------------------------------ pieces

    def _opened(self, condition: tuple[str, str]) -> SyneraReplayEnv:
        link, load = condition
        cloud = self._cloud
        if load == IDLE:
            cloud = replace(cloud, queue_ms_quantiles=(0.0,), load_quantiles=(0.0,))
        shared = None if load in (PROFILE, IDLE) else self._shared(load)
        links = self._of(link)
        return SyneraReplayEnv(self._graphs, links, self._device, cloud, outages=self._outages, cloud_load=shared)

    def _of(self, link: str) -> list[LinkTrace]:
        if link.endswith(" ms") and link not in {each.family for each in (*self._links, *self._substitutes)}:
            return [constant_link(rtt_ms=float(link.removesuffix(" ms")))]
        own = [each for each in self._links if each.family == link]
        return own or [each for each in self._substitutes if each.family == link]

    def _shared_cloud(self, load: str) -> CloudLoad | None:
        own = self._loads.get(load, OwnLoad(BUSY, users=BUSY_USERS))
        if own.workload is not None:
            return read_cloud_load(Path(own.workload), self._cloud)
        assert own.users is not None
        others = closed_loop(own.users, THINK_SECONDS, Server.of(self._cloud), BUSY_SECONDS, self._seed)
        return read_cloud_load(others, self._cloud)
