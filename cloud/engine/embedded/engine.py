"""The embedded engine: sessions over the model core, batched on a thread of its own.

What does not live here: batches (batcher.py), the forward (forward.py), what a job does with its result (jobs.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from cloud.engine.base import Check, Checked, Engine, EngineInfo, EngineUsage, Iteration, Streamed
from cloud.engine.embedded.batcher import Batcher
from cloud.engine.embedded.forward import Forward, TorchForward, Work
from cloud.engine.embedded.jobs import CheckJob, StreamJob
from cloud.engine.embedded.pace import Arrivals, Pace
from runtime.errors import CloudError, CloudUnavailableError, SessionLostError
from runtime.model.loading import fingerprint, load_decoder
from runtime.sampling import Sampling

if TYPE_CHECKING:
    from cloud.config import ServerConfig


@dataclass(slots=True, eq=False)
class _Session:
    cache: Any
    history: list[int] = field(default_factory=list)
    """All tokens known, the last verdict's next token included."""
    cached: int = 0
    """First tokens of the history whose keys and values are in the cache."""
    job: CheckJob | None = None
    """The check in flight."""

    def catch_up(self, check: Check) -> list[int]:
        """Return the history that a check builds on; the cache keeps no more than that."""
        history = [*self.history[: check.prefix_length], *check.context]
        # The last token of the history is always run (again): its choice is what the draft begins with.
        self.cached = min(self.cached, check.prefix_length, len(history) - 1)
        return history


class EmbeddedEngine:
    """Implements :class:`cloud.engine.base.Engine`.

    Who owns what; one owner each:

    | resource | owner | borrowed by | freed |
    |---|---|---|---|
    | weights | the forward | | with this object |
    | history of a session | the session, on the event loop | | `close`, `stop` |
    | cache of a session | the session | its job's work, until the batch ends | `close`, `stop` |
    | cache of a stream | its job | its work, until the batch ends | iterator closed or at its end |
    | what a cache holds | the engine's thread: a forward alone writes and truncates | | |
    | jobs that wait | the batcher's queue | | run, found abandoned, or failed by `stop` |
    | logits of a forward | its batch | jobs, while they judge | all results are handed out |
    | the thread | the batcher | | `stop` |

    A session's `cached` never exceeds what its cache surely holds: it falls before a forward and rises after its verdict.
    """

    def __init__(
        self, info: EngineInfo, forward: Forward, *, token_budget: int, pace: Pace | None = None, pace_seed: int = 0
    ) -> None:
        """Prepare.

        Args:
            info: what the forward runs.
            forward: the LLM; used by this engine only.
            token_budget: most tokens in a batch of several requests.
            pace: emulate the durations of another machine: its forwards, and the wait and the load that a request meets.
            pace_seed: of the generator that waits and loads are drawn from, one number a request, in order of arrival.
        """
        self._info, self._forward = info, forward
        self._arrivals = Arrivals(pace, pace_seed)
        self._batcher = Batcher(forward, token_budget=token_budget, died=self._on_death, pace=pace)
        self._sessions: dict[str, _Session] = {}
        self._loop: asyncio.AbstractEventLoop
        self._death: asyncio.Future[CloudUnavailableError]

    @property
    def info(self) -> EngineInfo:
        """See :class:`cloud.engine.base.Engine`."""
        return self._info

    @property
    def usage(self) -> EngineUsage:
        """See :class:`cloud.engine.base.Engine`."""
        return EngineUsage(0, 0, 0, 0, 0)

    def watch(self, watcher: Callable[[Iteration], None]) -> None:
        """See :class:`cloud.engine.base.Engine`."""

    async def start(self) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._loop = asyncio.get_running_loop()
        self._death = self._loop.create_future()
        self._batcher.start()

    async def stop(self) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._sessions.clear()
        await asyncio.to_thread(self._batcher.stop)

    async def failed(self) -> CloudUnavailableError:
        """See :class:`cloud.engine.base.Engine`."""
        return await asyncio.shield(self._death)

    async def open(self, session_id: str, account: str = "") -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._batcher.check_alive()
        if session_id in self._sessions:
            raise ValueError(f"session {session_id!r} is open already")
        self._sessions[session_id] = _Session(self._forward.new_cache())

    async def check(self, session_id: str, check: Check) -> Checked:
        """See :class:`cloud.engine.base.Engine`."""
        session = self._holding(session_id, check.prefix_length)
        arrival = self._arrivals.draw()
        history = session.catch_up(check)
        tokens = [*history[session.cached :], *check.draft]
        work = Work(session.cache, session.cached, tokens, wanted=len(check.draft) + 1)
        session.job = CheckJob(work, check.draft, check.sampled, history)
        self._batcher.put(session.job, wait_seconds=arrival.wait_seconds)
        try:
            checked = await session.job.result
        finally:
            session.job = None
        session.cached = len(history) + checked.accepted
        session.history = [*history, *check.draft[: checked.accepted], checked.next_token]
        return replace(checked, load=checked.load + arrival.load) if arrival.load else checked

    async def stream(
        self, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling | None = None, account: str = ""
    ) -> AsyncGenerator[Streamed, None]:
        """See :class:`cloud.engine.base.Engine`."""
        arrival = self._arrivals.draw()
        job = StreamJob(self._forward.new_cache(), prompt, max_new_tokens, frozenset(self._info.eos_ids), sampling)
        self._batcher.put(job, wait_seconds=arrival.wait_seconds)
        try:
            while (result := await job.results.get()) is not None:
                if isinstance(result, CloudError):
                    raise result
                yield result
        finally:
            job.abandoned = True

    async def close(self, session_id: str) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        session = self._sessions.pop(session_id, None)
        if session is not None and session.job is not None:
            session.job.fail(_lost(session_id))

    def _holding(self, session_id: str, prefix_length: int) -> _Session:
        session = self._sessions.get(session_id)
        if session is None:
            self._batcher.check_alive()
            raise _lost(session_id)
        held = len(session.history)
        if prefix_length > held:
            raise SessionLostError(
                f"session {session_id!r} holds {held} tokens, not the {prefix_length} that the request builds on; open a new one and send the whole history"
            )
        return session

    def _on_death(self, why: CloudUnavailableError) -> None:
        self._loop.call_soon_threadsafe(self._death.set_result, why)


def _lost(session_id: str) -> SessionLostError:
    return SessionLostError(f"no session {session_id!r}: it ended; open a new one and send the whole history")


def load(config: ServerConfig) -> Engine:
    """Load the model folder of a config; `config.threads` holds for the whole process.

    Raises:
        CheckpointError: it is missing, incomplete, or not a supported model.
        PlacementError: the machine has no such device.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    decoder = load_decoder(config.model, config.placement)
    c = decoder.config
    info = EngineInfo(
        engine="torch",
        model=config.model.resolve().name,
        architecture=c.architecture,
        fingerprint=fingerprint(config.model),
        vocab=c.vocab,
        context_tokens=c.context,
        eos_ids=c.eos_ids,
    )
    forward = TorchForward(decoder)
    return EmbeddedEngine(info, forward, token_budget=config.token_budget, pace=config.pace, pace_seed=config.pace_seed)
