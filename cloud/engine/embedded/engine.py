"""The embedded engine of a whole model: sessions that check drafts, and streams, over the model core.

What does not live here: what all embedded engines share (batched.py), batches (batcher.py), the forward (forward.py), what a job does
with its result (jobs.py), the loading (loading.py).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

from cloud.engine.base import Check, Checked, Chunk, Ran, Streamed
from cloud.engine.embedded.batched import BatchedEngine, Seat, deadline
from cloud.engine.embedded.forward import Rows
from cloud.engine.embedded.jobs import CheckJob, StreamJob
from cloud.engine.embedded.kv_pool import Table
from runtime.errors import CloudError, CloudRejectedError
from runtime.sampling import Sampling


@dataclass(slots=True, eq=False)
class _Session(Seat):
    history: list[int] = field(default_factory=list)
    """All tokens known, the last verdict's next token included."""
    cached: int = 0
    """First tokens of the history that its table was filled with."""

    def catch_up(self, check: Check) -> list[int]:
        """Return the history that a check builds on; the table keeps no more than that."""
        history = [*self.history[: check.prefix_length], *check.context]
        # The last token of the history is always run (again): its choice is what the draft begins with.
        self.cached = min(self.cached, check.prefix_length, len(history) - 1)
        return history


class EmbeddedEngine(BatchedEngine[_Session, list[int], Rows]):
    """Implements :class:`cloud.engine.base.Engine` over a whole model.

    A session's `cached` never exceeds what its table was filled with for its history: it falls before a forward and rises after its
    verdict. A table that lost its blocks is filled again from the history.
    """

    def _seated(self, table: Table, account: str) -> _Session:
        return _Session(table, account, None)

    def _held(self, session: _Session) -> int:
        return len(session.history)

    async def check(self, session_id: str, check: Check) -> Checked:
        """See :class:`cloud.engine.base.Engine`."""
        session = self._holding(session_id, check.prefix_length)
        self._check_size(check.prefix_length + len(check.context) + len(check.draft))
        arrival = self._arrivals.draw()
        history = session.catch_up(check)
        until = deadline(check.slack_seconds)
        job = CheckJob(
            session.table, history, session.cached, check.draft, check.sampled, account=session.account, deadline=until
        )
        checked = await self._settled(session, job, arrival.wait_seconds)
        session.cached = len(history) + checked.accepted
        session.history = [*history, *check.draft[: checked.accepted], checked.next_token]
        return replace(checked, load=checked.load + arrival.load) if arrival.load else checked

    async def forward(self, session_id: str, chunk: Chunk) -> Ran:
        """See :class:`cloud.engine.base.Engine`."""
        raise CloudRejectedError("this engine runs a whole model, not the middle of one")

    async def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | None = None,
        account: str = "",
        log_probabilities: bool = False,
    ) -> AsyncGenerator[Streamed, None]:
        """See :class:`cloud.engine.base.Engine`."""
        self._check_size(len(prompt) + max_new_tokens)
        arrival = self._arrivals.draw()
        table = self._new_table(account)
        ends = frozenset(self._info.eos_ids)
        job = StreamJob(table, prompt, max_new_tokens, ends, sampling, account=account, log_probabilities=log_probabilities)
        self._batcher.put(job, wait_seconds=arrival.wait_seconds)
        try:
            while (result := await job.results.get()) is not None:
                if isinstance(result, CloudError):
                    raise result
                yield result
        finally:
            self._batcher.drop(job)
            self._batcher.release(table)
