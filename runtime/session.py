"""What the sessions of all systems share: a stepper, what a step cost, and when an answer ends.

What does not live here: a system's own decode loop (runtime/synera/session.py) and who chooses the knobs (policy.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from runtime.errors import SettingError
from runtime.values import value

Knobs_contra = TypeVar("Knobs_contra", contravariant=True)
Point = TypeVar("Point")
Record = TypeVar("Record", bound="StepRecord")


@value()
class Cost:
    """What one step cost; rewards and metrics read this, the tokens and the quality, and nothing else of a system."""

    seconds: float = 0.0
    """From the commit before (or the request) to this step's commit; what the user waits."""
    device_seconds: float = 0.0
    """The device was busy."""
    wait_seconds: float = 0.0
    """The device waited for the cloud and had nothing to do."""
    cloud_seconds: float = 0.0
    """This request's share of the cloud's compute; unknown, and 0, where the cloud was lost."""
    cloud_tokens: int = 0
    """Tokens that the cloud's model processed."""
    joules: float = 0.0
    """Device energy, radio included."""
    uplink_bytes: int = 0
    """Sent, also for what came to nothing."""
    downlink_bytes: int = 0
    """Received."""


@value()
class Ahead:
    """What the device did on a guess while the cloud was asked; it changes time and energy, never tokens."""

    guess: tuple[int | None, ...]
    """Tokens that the step was taken to commit; None is one that a replay does not know."""
    probability: float
    """How likely that was thought to be."""
    hit: bool
    """The step committed just those."""
    drafted: int
    """Tokens drafted on from the guess, its own last one included where the device had to draft that."""
    kept: int
    """Those of them that the next step begins with."""
    seconds: float
    """Device time of all of them; part of the step's `device_seconds`."""
    saved_seconds: float
    """Device time of those kept, less what the device was still at it once the answer was known; negative where it only delayed."""
    wasted_joules: float
    """Energy of those not kept; part of the step's `joules`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """How one step ended, as far as all systems agree; a system's own record adds to it."""

    knobs: Any
    """The setting that it was taken with."""
    cost: Cost
    committed: tuple[int, ...]
    """Tokens added to the answer."""
    committed_at: float
    """Seconds from `begin` to the commit."""
    offloaded: bool = False
    """The cloud was asked (also when it was then lost)."""
    judged: int = 0
    """Draft tokens that the cloud gave a verdict on."""
    accepted: int = 0
    """Those of them that it let stand."""
    error: str | None = None
    """Why the cloud, though asked, gave nothing; the device then went on alone."""
    ahead: Ahead | None = None
    """What was drafted meanwhile, if anything."""

    @property
    def drafted(self) -> tuple[int, ...]:
        """Tokens that the device proposed; none, unless the system drafts."""
        return ()

    @property
    def sampled(self) -> bool:
        """Tokens were drawn at random, so that no replay of greedy models can give them."""
        return False


@value()
class Step(Generic[Point, Record]):
    """The result of `advance`: the record, and the next decision point unless the answer is done."""

    record: Record
    point: Point | None

    @property
    def done(self) -> bool:
        """True when the answer is complete."""
        return self.point is None


class Stepper(Protocol[Knobs_contra, Point, Record]):
    """One answer at a time, step by step; each system has its own. Reusable: `begin` starts over."""

    @property
    def records(self) -> Sequence[Record]:
        """One record a settled step of the answer under way."""
        ...

    @property
    def answer(self) -> tuple[int, ...]:
        """Committed tokens, without the prompt."""
        ...

    def begin(self, prompt: Sequence[int], knobs: Knobs_contra) -> Point:
        """Start an answer to token ids; `knobs` rule what is done before the first decision."""
        ...

    def advance(self, knobs: Knobs_contra) -> Step[Point, Record]:
        """Settle what is in hand by `knobs`, and prepare the next decision.

        Raises:
            UncoveredError: in replay, the step leaves what was recorded; what it settled before is in `records`.
        """
        ...

    def close(self) -> None:
        """Release what the answer holds elsewhere; answer and records stay readable."""
        ...


@dataclass(frozen=True)
class Limits:
    """When an answer ends."""

    max_new_tokens: int
    eos_ids: frozenset[int]
    context: int
    """Longest prompt plus answer that the models take."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SettingError(f"max_new_tokens={self.max_new_tokens} must be at least 1")

    def room(self, prompt_tokens: int) -> int:
        """Most tokens of an answer to a prompt of that length."""
        return min(self.max_new_tokens, self.context - prompt_tokens)

    def cut(self, tokens: Sequence[int], room: int) -> tuple[int, ...]:
        """Return the first `room` tokens, up to and with the first that ends an answer."""
        kept: list[int] = []
        for token in tokens[:room]:
            kept.append(token)
            if token in self.eos_ids:
                break
        return tuple(kept)
