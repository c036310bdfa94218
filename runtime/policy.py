"""Who decides, as a session meets it, and the loop that lets it decide a whole answer.

What does not live here: controllers, schemas and preferences (synera_env/, agents/), of which a policy is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from runtime.session import Record, Step, Stepper

Knobs_co = TypeVar("Knobs_co", covariant=True)
Knobs = TypeVar("Knobs")
Point = TypeVar("Point")
Point_contra = TypeVar("Point_contra", contravariant=True)
Record_contra = TypeVar("Record_contra", contravariant=True)


class Policy(Protocol[Knobs_co, Point_contra, Record_contra]):
    """Maps decision points to knobs; serves one answer at a time."""

    @property
    def first_knobs(self) -> Knobs_co:
        """Rule what a session does before the first decision."""
        ...

    def begin(self, seed: int) -> None:
        """An answer begins; `seed` fixes whatever the policy draws in it."""
        ...

    def decide(self, point: Point_contra, records: Sequence[Record_contra]) -> Knobs_co:
        """Choose knobs for what is in hand, given the records of the answer so far."""
        ...


def drive(
    stepper: Stepper[Knobs, Point, Record], prompt: Sequence[int], policy: Policy[Knobs, Point, Record], seed: int = 0
) -> Iterator[Step[Point, Record]]:
    """Let a policy decide one answer; yields each step as it is settled.

    Args:
        stepper: the session, live or replayed.
        prompt: token ids.
        policy: who decides.
        seed: of the policy's own draws.

    Raises:
        SyneraError: as the session raises.
    """
    policy.begin(seed)
    point: Point | None = stepper.begin(prompt, policy.first_knobs)
    while point is not None:
        step = stepper.advance(policy.decide(point, stepper.records))
        point = step.point
        yield step
