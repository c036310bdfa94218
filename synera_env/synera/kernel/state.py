"""The state of answers under way, one row an answer: what the session, the device and the cloud of the scalar replay hold.

What does not live here: what they do (answer.py, device.py, cloud.py). Times are seconds of the answer's clock.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.synera.knobs import MAX_DRAFT_LENGTH
from synera_env.reward import TERMS
from synera_env.synera.schema import HISTORY

NOTHING = -1
"""That a row wants; see device.py."""
BONUS = 1
"""A guess may draft one token more than a chunk has."""


def _fields(kind: type[np.generic], names: str) -> list[tuple[str, type[np.generic]]]:
    return [(name, kind) for name in names.split()]


def _drafted(prefix: str, most: int) -> list[Any]:
    """Tokens that the device drafted: where they were read, and what was."""
    whole = [(f"{prefix}_{name}", np.int32, (most,)) for name in ("token", "node", "exit")]
    return [*whole, *((f"{prefix}_{name}", np.float64, (most,)) for name in ("confidence_of", "margin"))]


ROW = np.dtype(
    [
        ("seed", np.uint64),
        # the answer
        *_fields(np.int32, "prompt prompt_tokens room link generated generated_bytes chunks offloaded"),
        *_fields(np.float64, "offset now committed_at"),
        ("weights", np.float64, (len(TERMS),)),
        ("weights_shown", np.float64, (len(TERMS),)),
        # the walk: nodes known beyond the root, and tokens beyond the prompt
        *_fields(np.int32, "known held"),
        # the draft in hand; `kept` is how many tokens begin the next one
        *_fields(np.int32, "drafted kept"),
        *_fields(np.float64, "draft_seconds draft_confidence draft_importance"),
        *_drafted("draft", MAX_DRAFT_LENGTH),
        ("draft_rejected", np.float64, (MAX_DRAFT_LENGTH,)),
        ("committed", np.int32, (MAX_DRAFT_LENGTH + BONUS,)),
        # what was drafted on from a guess; a token of -1 is one that nobody knows
        *_fields(np.int32, "ran guess_accepted guess_correction"),
        *_fields(np.bool_, "guessed corrected"),
        *_fields(np.float64, "run_seconds"),
        *_drafted("run", MAX_DRAFT_LENGTH + BONUS),
        ("run_second", np.float64, (MAX_DRAFT_LENGTH + BONUS,)),
        *_fields(np.float64, "rejections risk"),
        # the breaker and the patience
        *_fields(np.bool_, "open probed"),
        *_fields(np.float64, "silence until network_mean network_deviation work_mean work_deviation token_seconds"),
        *_fields(np.int32, "late_opens late_checks"),
        # the session in the cloud, and an Open under way
        *_fields(np.bool_, "has_session opening opening_answered opening_probes"),
        *_fields(np.int32, "session_tokens session_bytes session_checks checks"),
        *_fields(np.float64, "opening_over opening_seconds probe_at probe_seconds"),
        # the check in flight, and what travelled
        *_fields(np.bool_, "asked verdict"),
        *_fields(np.float64, "known_at queue compute share network load"),
        *_fields(np.int32, "accepted next_token cloud_tokens uplink downlink uplink_waiting downlink_waiting"),
        # what a check met that is on its way, and bytes of its answer
        *_fields(np.float64, "workload_offset met_queue met_compute met_share"),
        *_fields(np.int32, "met_load met_bytes"),
        # what is seen of the past
        *((f"past_{name}", np.float64, (HISTORY,)) for name in ("confidence", "importance", "offloaded", "accepted")),
        *_fields(np.float64, "acceptance guess_hits rtt throughput cloud_lost"),
        # outages and blips: the interval that was reached last
        ("stay_number", np.int32, (2,)),
        ("stay_stop", np.float64, (2,)),
        ("stay_down", np.int32, (2,)),
        # sums of the answer
        *_fields(np.float64, "reward ttft cloud_seconds joules saved wasted"),
        *_fields(np.int32, "judged stood asked_tokens sent received lost guesses hits"),
        # the environment's: the answer is over and not begun anew, and how many seeds were taken
        *_fields(np.bool_, "over"),
        *_fields(np.int32, "taken"),
        # of growing graphs, what must be known before the row can go on; see device.py
        ("wanted", np.int64),
    ],
    align=True,
)


class State(NamedTuple):
    """All rows."""

    rows: NDArray[Any]
    """[rows] of ROW."""
    path: NDArray[np.int32]
    """[rows, longest + 1]: the nodes from the root on; `rows.known` of them beyond it."""
    token: NDArray[np.int32]
    """[rows, longest]: the tokens beyond the prompt; `rows.held` of them."""
    reached: NDArray[np.int64]
    """[rows, exits]: positions that have reached each exit."""
    committed_at: NDArray[np.float64]
    """[rows, max_new_tokens]: of each chunk."""
    seen: NDArray[np.float32]
    """[rows, entries]: the observation of the decision point in hand."""
    seeds: NDArray[np.uint64]
    """[rows, block]: of the next answers; `rows.taken` of them are taken."""
    knobs: NDArray[np.float64]
    """[knobs]: room for one setting."""
    metrics: NDArray[np.float64]
    """[metrics]: room for those of one answer."""
    todo: NDArray[np.bool_]
    """[rows]: those that a call steps."""

    def kept(self) -> State:
        """Return a copy, to go back to."""
        return State._make(each.copy() for each in self)

    def put_back(self, kept: State, rows: NDArray[np.intp]) -> None:
        """Let rows be what they were, and have the next call step them alone."""
        for now, before in zip(self[:_OF_ROWS], kept[:_OF_ROWS], strict=True):
            now[rows] = before[rows]
        self.todo[:] = False
        self.todo[rows] = True

    def branch(self, parents: NDArray[np.intp]) -> None:
        """Let each row be what another one is, [rows]."""
        for each in self[:_OF_ROWS]:
            each[:] = each[parents]


_OF_ROWS = State._fields.index("seeds")
"""Arrays that hold what becomes of rows come first."""


def new_state(rows: int, exits: int, max_new_tokens: int, entries: int, knobs: int, metrics: int, seeds: int) -> State:
    """Return rows of which none has begun."""
    longest = max_new_tokens + MAX_DRAFT_LENGTH + BONUS + 1
    begun = np.zeros(rows, ROW)
    begun["wanted"] = NOTHING
    return State(
        rows=begun,
        path=np.zeros((rows, longest + 1), np.int32),
        token=np.zeros((rows, longest), np.int32),
        reached=np.zeros((rows, exits), np.int64),
        committed_at=np.zeros((rows, max_new_tokens)),
        seen=np.zeros((rows, entries), np.float32),
        seeds=np.zeros((rows, seeds), np.uint64),
        knobs=np.zeros(knobs),
        metrics=np.zeros(metrics),
        todo=np.ones(rows, np.bool_),
    )
