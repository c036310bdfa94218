"""An episode: what every world's must offer, what `reset` may be told of its start, and what is drawn for the rest.

What does not live here: the worlds, and the environment that starts episodes (base.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from runtime.errors import SettingError
from runtime.session import Stepper
from runtime.settings import shown, within
from synera_env import chance
from synera_env.arguments import read_preference
from synera_env.radio import Outages, Radio
from synera_env.reward import Preference
from traces.links.trace import LinkTrace

RESET_OPTIONS = ("prompt", "link", "link_offset_seconds", "preference")


class Episode(Protocol):
    """One answer in some world."""

    @property
    def session(self) -> Stepper[Any, Any, Any]:
        """What answers; nothing is begun yet."""
        ...

    @property
    def prompt_tokens(self) -> Sequence[int]:
        """What it answers."""
        ...

    @property
    def prompt(self) -> str:
        """The same as text."""
        ...

    @property
    def kind(self) -> str:
        """Kind of task, for the info."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens of the answer say."""
        ...

    def score(self) -> float:
        """Task score of the finished answer, 0..1; NaN where nobody can tell."""
        ...


@dataclass(frozen=True)
class Start:
    """What is fixed when an episode starts."""

    prompt: int
    radio: Radio
    seed: int
    """0..2^64 - 1, for whatever else the world draws (synera_env.chance); of this episode alone, so that no action changes a
    later one."""
    lost: frozenset[int] | None = None
    """Numbers, from 1, of the questions to the cloud that a replay must lose; None: those that the radio loses."""


@dataclass(frozen=True)
class ResetOptions:
    """What `reset` was told, checked; None is drawn."""

    prompt: int | None = None
    link: int | None = None
    link_offset_seconds: float | None = None
    preference: Preference | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any] | None, prompts: int, links: Sequence[LinkTrace]) -> ResetOptions:
        """Check options.

        Args:
            options: by name; one that is None is drawn, as one that is left out.
            prompts: how many there are.
            links: which there are.

        Raises:
            SettingError: an option is unknown, of a wrong type, or out of range.
        """
        if options is None:
            return cls()
        if not isinstance(options, Mapping):
            raise SettingError(f"options={shown(options)} must be a mapping of reset options")
        if unknown := [name for name in options if name not in RESET_OPTIONS]:
            raise SettingError(f"unknown reset option {shown(unknown[0])}; known are {', '.join(RESET_OPTIONS)}")
        link, preference = _index("link", options.get("link"), len(links)), options.get("preference")
        return cls(
            _index("prompt", options.get("prompt"), prompts),
            link,
            _offset(options.get("link_offset_seconds"), links if link is None else links[link : link + 1]),
            None if preference is None else read_preference(preference, "reset option preference"),
        )


def _index(name: str, value: object, count: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 0 <= value < count:
        raise SettingError(f"reset option {name}={shown(value)} must be a whole number in 0..{count - 1}")
    return int(value)


def _offset(value: object, links: Sequence[LinkTrace]) -> float | None:
    if value is None:
        return None
    number: Any = value.item() if isinstance(value, np.generic) else value
    within("reset option link_offset_seconds", number, 0.0, max(link.seconds for link in links))
    return float(number)


def checked_seed(seed: object) -> int | None:
    """Return a seed that Gymnasium takes.

    Raises:
        SettingError: it is not a whole number, or negative.
    """
    if seed is None:
        return None
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise SettingError(f"seed={shown(seed)} must be a whole number that is not negative")
    return int(seed)


@dataclass(frozen=True)
class Drawn:
    """An episode's start, and what comes with it."""

    start: Start
    link: LinkTrace
    preference: Preference


def draw(
    rng: np.random.Generator,
    chosen: ResetOptions,
    prompts: Sequence[int],
    links: Sequence[LinkTrace],
    preference: Preference | None,
    outages: Outages,
    lost: frozenset[int] | None,
) -> Drawn:
    """Draw what was not chosen, all of it from one seed, so that what is chosen changes no other draw.

    Args:
        rng: the environment's; an episode takes one whole number of it.
        chosen: what is fixed.
        prompts: those to draw from.
        links: those to draw from.
        preference: the one of all episodes; None draws it.
        outages: to draw those of the radio from; none where `lost` scripts what gets lost.
        lost: see :class:`Start`.
    """
    seed = int(rng.integers(2**64, dtype=np.uint64))
    prompt, link, offset = chosen.prompt, chosen.link, chosen.link_offset_seconds
    if prompt is None:
        prompt = prompts[chance.choice(chance.uniform(seed, chance.PROMPT, 0), len(prompts))]
    if link is None:
        link = chance.choice(chance.uniform(seed, chance.LINK, 0), len(links))
    if offset is None:
        offset = chance.uniform(seed, chance.OFFSET, 0) * links[link].seconds
    preference = chosen.preference or preference or Preference.sample(seed)
    start = Start(prompt, Radio(links[link], offset, outages.draw(seed) if lost is None else ()), seed, lost)
    return Drawn(start, links[link], preference)
