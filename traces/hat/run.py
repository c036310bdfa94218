"""What a run of the simulated testbed is given and gives: who asks, who looks on, and the figures.

What does not live here: the run itself (simulation.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runtime.settings import above, whole, within
from traces.hat.testbed import MOST_PROMPT_TOKENS, TESTBED_DEVICES

_WARM_SECONDS = 15.0
"""Answers that begin before it are not counted where requests come at a rate; ours."""


@dataclass(frozen=True)
class Load:
    """Who asks. Of devices each asks again when its answer is there; at a rate each request comes from a device of its own.

    Raises:
        SettingError: a value out of the range that is stated beside it.
    """

    devices: int = TESTBED_DEVICES
    """1 to 1,000; not used where there is a rate."""
    rate: float | None = None
    """Requests a second, Poisson, above 0 up to 100; None where devices ask."""
    prompt_tokens: int | None = None
    """Of every prompt, 1 to 3,968; None draws them by the testbed's law."""
    answers: int = 120
    """That are counted, 1 to 100,000; those before them warm the cloud up, and others keep it busy to their end."""

    def __post_init__(self) -> None:
        whole("devices", self.devices, 1, 1_000)
        whole("answers", self.answers, 1, 100_000)
        if self.rate is not None:
            above("rate", self.rate, 0)
            within("rate", self.rate, 0, 100)
        if self.prompt_tokens is not None:
            whole("prompt_tokens", self.prompt_tokens, 1, MOST_PROMPT_TOKENS)

    @property
    def before(self) -> int:
        """Answers that are not counted, as they begin first."""
        return 2 * self.devices if self.rate is None else round(_WARM_SECONDS * self.rate)


class Watch(Protocol):
    """Sees what happens in a run."""

    def sent(self, device: int, begin: float, end: float, tokens: int) -> None:
        """A device's uplink carries so many tokens' states."""
        ...

    def ran(self, begin: float, end: float, tokens: int) -> None:
        """The cloud runs a forward."""
        ...

    def ended(self, number: int, tokens: int) -> None:
        """An answer is whole."""
        ...


@dataclass(frozen=True)
class Run:
    """What one run gave, of the answers that were counted."""

    ttft_seconds: tuple[float, ...]
    """By answer, in order of their ends."""
    tbt_seconds: tuple[float, ...]
    """Mean gap between two tokens of each."""
    busy: float
    """Share of the time in which the cloud ran a forward."""
    chunk_tokens: float
    """Mean size of what prompts were sent in."""
    accept_length: float
    """Tokens a verification; 1 without drafts."""
    under_way: float
    """Answers at a time, on the mean: by Little's law where they come at a rate."""
