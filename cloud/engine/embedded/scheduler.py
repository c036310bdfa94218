"""Who goes into the next forward. Pure: no clock, no threads, no model.

What does not live here: the queue itself and the thread that runs the batches (batcher.py).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the scheduler sees of a job."""

    sequence: Hashable
    """Jobs of one sequence run one after the other."""
    tokens: int
    """Tokens that its forward processes."""


def pick_fcfs(waiting: Sequence[Waiting], token_budget: int) -> list[int]:
    """Pick the next batch, first come first served.

    The first job always goes, however long; later ones while the budget lasts. A job whose sequence is in the batch
    already is passed over; the first that does not fit ends the batch, so that no long job is overtaken for ever.

    Args:
        waiting: jobs in order of arrival.
        token_budget: most tokens in a batch of several jobs.

    Returns:
        Indices into `waiting`, rising.
    """
    picked: list[int] = []
    sequences: set[Hashable] = set()
    tokens = 0
    for index, job in enumerate(waiting):
        if job.sequence in sequences:
            continue
        if picked and tokens + job.tokens > token_budget:
            break
        picked.append(index)
        sequences.add(job.sequence)
        tokens += job.tokens
    return picked
