"""The embedded engine of the middle of a split model: sessions that run chunks of hidden states.

What does not live here: what all embedded engines share (batched.py), the forward (forward.py), how states travel
(runtime/wire/tensors.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from cloud.engine.base import Check, Checked, Chunk, Ran, Streamed
from cloud.engine.embedded.batched import BatchedEngine, Seat, deadline
from cloud.engine.embedded.jobs import AwaitedJob, Outcome
from cloud.engine.embedded.kv_pool import Table
from runtime.errors import CloudRejectedError, SettingError
from runtime.sampling import Sampling
from runtime.wire.tensors import decoded, encoded

_MANY_BYTES = 65_536
"""So long states are read and written off the event loop; shorter ones take less time than a thread does to begin."""
_UNCUT_ROWS = 32
"""So many results of a chunk come of one forward, as of the draft of a check: a device waits for them."""
_Value = TypeVar("_Value")


class ChunkJob(AwaitedJob[Outcome[Tensor]]):
    """Hidden states of some places, and of how many of the last ones the middle's results are wanted.

    What is before them cannot be read again, as nobody here has it: who needs it and does not hold it has lost its session.
    """

    tokens: Sequence[int] = ()

    def __init__(
        self,
        table: Table,
        prefix_length: int,
        states: Tensor,
        returned: int,
        *,
        account: str = "",
        deadline: float = float("inf"),
    ) -> None:
        """Prepare.

        Args:
            table: of the session, filled up to the prefix unless it was evicted.
            prefix_length: places before.
            states: [rows, hidden], at least one row.
            returned: 0..rows.
            account: whom it is charged to.
            deadline: when the results are of no more use, on the batcher's clock.
        """
        super().__init__()
        self.table, self.account, self.deadline = table, account, deadline
        self.first = self.kept = prefix_length
        self.length = prefix_length + len(states)
        self.tail = max(1, returned) if returned <= _UNCUT_ROWS else 1
        self._states, self._returned = states, returned

    def inputs(self, start: int, stop: int) -> Tensor:
        """See :class:`cloud.engine.embedded.jobs.Job`."""
        return self._states[start - self.first : stop - self.first]

    def wanted(self, start: int, stop: int) -> int:
        """See :class:`cloud.engine.embedded.jobs.Job`."""
        return max(0, stop - max(start, self.length - self._returned))

    def deliver(self, outcome: Outcome[Tensor]) -> bool:
        """Hand out the states."""
        self.kept = self.length
        self._hand_out(outcome)
        return False


@dataclass(slots=True, eq=False)
class _Session(Seat):
    held: int = 0
    """Places that its table was filled with, unless it was evicted."""


class MiddleEngine(BatchedEngine[_Session, Tensor, Tensor]):
    """Implements :class:`cloud.engine.base.Engine` over the middle of a model.

    A session's `held` never exceeds what its table was filled with: it falls before a forward and rises after it. A table that lost
    its blocks cannot be filled again, but by who sends its states from the first on.
    """

    def _seated(self, table: Table, account: str) -> _Session:
        return _Session(table, account, None)

    def _held(self, session: _Session) -> int:
        return session.held

    async def forward(self, session_id: str, chunk: Chunk) -> Ran:
        """See :class:`cloud.engine.base.Engine`."""
        until = deadline(chunk.slack_seconds)
        states = await _aside(len(chunk.states), partial(self._read, chunk))
        session = self._holding(session_id, chunk.prefix_length)  # from here to the job nothing is awaited, so nobody closes it
        self._check_size(chunk.prefix_length + chunk.rows)
        arrival = self._arrivals.draw()
        session.held = chunk.prefix_length
        job = ChunkJob(session.table, chunk.prefix_length, states, chunk.returned, account=session.account, deadline=until)
        outcome = await self._settled(session, job, arrival.wait_seconds)
        given = len(chunk.states) // chunk.rows * chunk.returned
        written = await _aside(given, partial(_written, outcome.results, chunk.precision))
        session.held = chunk.prefix_length + chunk.rows
        return Ran(
            written,
            queue_ms=outcome.queue_ms,
            compute_ms=outcome.compute_ms,
            compute_share_ms=outcome.compute_share_ms,
            processed_tokens=outcome.processed_tokens,
            load=outcome.load + arrival.load,
        )

    async def check(self, session_id: str, check: Check) -> Checked:
        """See :class:`cloud.engine.base.Engine`."""
        raise CloudRejectedError("this engine runs the middle of a model, which checks no drafts")

    async def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | None = None,
        account: str = "",
        log_probabilities: bool = False,
    ) -> AsyncGenerator[Streamed, None]:
        """See :class:`cloud.engine.base.Engine`."""
        raise CloudRejectedError("this engine runs the middle of a model, which writes no tokens")
        yield

    def _read(self, chunk: Chunk) -> Tensor:
        assert self._info.middle is not None
        try:
            states = decoded(chunk.states, self._info.middle.hidden, chunk.precision)
        except SettingError as wrong:
            raise CloudRejectedError(f"the states cannot be read: {wrong}") from None
        assert len(states) == chunk.rows
        return states


def _written(results: Sequence[Tensor], precision: str) -> bytes:
    """Results as they travel.

    Raises:
        CloudRejectedError: they cannot.
    """
    if not results:
        return b""
    states = torch.cat(list(results)).float().cpu()
    if not states.isfinite().all():
        raise CloudRejectedError(
            "the middle makes no finite numbers of these states; send such as the model's first layers give"
        )
    return encoded(states, precision)


async def _aside(size: int, work: Callable[[], _Value]) -> _Value:
    """Do something about so many bytes, off the event loop where they are many."""
    return await asyncio.to_thread(work) if size > _MANY_BYTES else work()
