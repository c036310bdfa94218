"""The embedded engine: sessions over the model core, batched on a thread of its own.

What does not live here: batches (batcher.py), the forward (forward.py), what a job does with its result (jobs.py).
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import torch

from cloud.engine.base import Check, Checked, Engine, EngineInfo, EngineUsage, Iteration, Streamed
from cloud.engine.embedded.batcher import Batcher
from cloud.engine.embedded.forward import Forward, TorchForward, Work
from cloud.engine.embedded.jobs import CheckJob, StreamJob
from cloud.engine.embedded.kv_pool import Table, blocks_for
from cloud.engine.embedded.pace import Arrivals, Pace
from runtime.errors import CloudBusyError, CloudError, CloudUnavailableError, SessionLostError
from runtime.model.decoder import Decoder
from runtime.model.loading import fingerprint, load_decoder
from runtime.model.paged_kv import BLOCK_TOKENS
from runtime.policies import DEFAULT_POLICY
from runtime.sampling import Sampling
from runtime.scheduling import TOKEN_BUDGET, Scheduler

if TYPE_CHECKING:
    from cloud.config import ServerConfig


_USUAL_SEQUENCES = 64


@dataclass(slots=True, eq=False)
class _Session:
    table: Table
    account: str
    history: list[int] = field(default_factory=list)
    """All tokens known, the last verdict's next token included."""
    cached: int = 0
    """First tokens of the history that its table was filled with."""
    job: CheckJob | None = None
    """The check in flight."""

    def catch_up(self, check: Check) -> list[int]:
        """Return the history that a check builds on; the table keeps no more than that."""
        history = [*self.history[: check.prefix_length], *check.context]
        # The last token of the history is always run (again): its choice is what the draft begins with.
        self.cached = min(self.cached, check.prefix_length, len(history) - 1)
        return history


class EmbeddedEngine:
    """Implements :class:`cloud.engine.base.Engine`.

    Who owns what; one owner each:

    | resource | owner | borrowed by | freed |
    |---|---|---|---|
    | weights, keys and values | the forward | | with this object |
    | history of a session | the session, on the event loop | | `close`, `stop` |
    | table of a session | the session | its job | `close` |
    | table of a stream | its job | | iterator closed or at its end |
    | blocks | the tables that hold them (kv_pool.py), on the engine's thread | works, in a forward | with the table, or for others who need room |
    | jobs that wait | the batcher | | run, dropped by who waited, or failed by `stop` |
    | logits of a forward | its batch | jobs, while they judge | all results are handed out |
    | the thread | the batcher | | `stop` |

    A session's `cached` never exceeds what its table was filled with for its history: it falls before a forward and rises after its
    verdict. A table that lost its blocks is filled again from the history.
    """

    def __init__(
        self,
        info: EngineInfo,
        forward: Forward,
        *,
        policy: str = DEFAULT_POLICY,
        token_budget: int = TOKEN_BUDGET,
        shares_prefixes: str = "none",
        pace: Pace | None = None,
        pace_seed: int = 0,
    ) -> None:
        """Prepare.

        Args:
            info: what the forward runs.
            forward: the LLM; used by this engine only.
            policy: who goes first; a name of `runtime.policies.POLICIES`.
            token_budget: most tokens in a forward.
            shares_prefixes: whose sequences share what they begin with alike: those of an `account`, of `all`, or of `none`.
            pace: emulate the durations of another machine: its forwards, and the wait and the load that a request meets.
            pace_seed: of the generator that waits and loads are drawn from, one number a request, in order of arrival.
        """
        self._info, self._forward, self._shares_prefixes = info, forward, shares_prefixes
        self._arrivals = Arrivals(pace, pace_seed)
        self._batcher = Batcher(forward, Scheduler(policy, token_budget), died=self._on_death, pace=pace)
        self._sessions: dict[str, _Session] = {}
        self._sequences = count()
        self._loop: asyncio.AbstractEventLoop
        self._death: asyncio.Future[CloudUnavailableError]

    @property
    def info(self) -> EngineInfo:
        """See :class:`cloud.engine.base.Engine`."""
        return self._info

    @property
    def pid(self) -> int:
        """See :class:`cloud.engine.base.Engine`."""
        return os.getpid()

    @property
    def usage(self) -> EngineUsage:
        """See :class:`cloud.engine.base.Engine`."""
        return self._batcher.usage

    def watch(self, watcher: Callable[[Iteration], None]) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._batcher.watch(watcher)

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
        self._sessions[session_id] = _Session(self._new_table(account), account)

    async def check(self, session_id: str, check: Check) -> Checked:
        """See :class:`cloud.engine.base.Engine`."""
        session = self._holding(session_id, check.prefix_length)
        self._check_size(check.prefix_length + len(check.context) + len(check.draft))
        arrival = self._arrivals.draw()
        history = session.catch_up(check)
        deadline = math.inf if check.slack_seconds is None else time.monotonic() + check.slack_seconds
        job = CheckJob(
            session.table, history, session.cached, check.draft, check.sampled, account=session.account, deadline=deadline
        )
        session.job = job
        self._batcher.put(job, wait_seconds=arrival.wait_seconds)
        try:
            checked = await job.result
        finally:
            session.job = None
            self._batcher.drop(job)
        session.cached = len(history) + checked.accepted
        session.history = [*history, *check.draft[: checked.accepted], checked.next_token]
        return replace(checked, load=checked.load + arrival.load) if arrival.load else checked

    async def stream(
        self, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling | None = None, account: str = ""
    ) -> AsyncGenerator[Streamed, None]:
        """See :class:`cloud.engine.base.Engine`."""
        self._check_size(len(prompt) + max_new_tokens)
        arrival = self._arrivals.draw()
        table = self._new_table(account)
        job = StreamJob(table, prompt, max_new_tokens, frozenset(self._info.eos_ids), sampling, account=account)
        self._batcher.put(job, wait_seconds=arrival.wait_seconds)
        try:
            while (result := await job.results.get()) is not None:
                if isinstance(result, CloudError):
                    raise result
                yield result
        finally:
            self._batcher.drop(job)
            self._batcher.release(table)

    async def close(self, session_id: str) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            if session.job is not None:
                session.job.fail(_lost(session_id))
                self._batcher.drop(session.job)
            self._batcher.release(session.table)

    async def freed(self) -> None:
        """Wait until the blocks are free of all that was given up before: until the forward in hand has ended."""
        done = asyncio.Event()
        self._batcher.when_done(partial(self._loop.call_soon_threadsafe, done.set))
        await done.wait()

    def check_integrity(self) -> None:
        """Do nothing while every block of the KV pool is accounted for; for an engine whose thread rests.

        Raises:
            AssertionError: a block is lost, or held by who should not.
        """
        self._batcher.memory.check_integrity()

    def _new_table(self, account: str) -> Table:
        salts = {"all": "all", "account": f"account {account}", "none": f"sequence {next(self._sequences)}"}
        return Table(salts[self._shares_prefixes])

    def _check_size(self, tokens: int) -> None:
        most = self._forward.blocks * BLOCK_TOKENS
        if tokens > most:
            raise CloudBusyError(
                f"{tokens} tokens do not fit into the verifier's cache of {most}; shorten the prompt, or serve with a larger --kv-tokens"
            )

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
        placement=str(config.placement),
    )
    forward = TorchForward(decoder, blocks_for(config.kv_tokens or _usual_kv_tokens(decoder)))
    forward.run([Work([0], 0, [0, 0], 1)])  # what is compiled at its first use is not to keep a device waiting
    return EmbeddedEngine(
        info,
        forward,
        policy=config.policy,
        token_budget=config.token_budget,
        shares_prefixes=config.shares_prefixes,
        pace=config.pace,
        pace_seed=config.pace_seed,
    )


def _usual_kv_tokens(decoder: Decoder) -> int:
    """As many as 64 sequences of full length have, but no more than a quarter of the memory that is there holds."""
    device, context = decoder.device, decoder.config.context
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(context, min(_USUAL_SEQUENCES * context, free // 4 // decoder.cached_bytes))
