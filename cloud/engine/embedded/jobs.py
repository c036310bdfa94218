"""What the batcher runs, in general, and for checks and streams: results made on the engine's thread, handed to the event loop.

What does not live here: a session's history (engine.py), chunks of hidden states (middle.py), which jobs share a batch (runtime/scheduling.py), blocks (memory.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from cloud.engine.base import Checked, Streamed
from cloud.engine.embedded.forward import Rows
from cloud.engine.embedded.kv_pool import Table
from runtime.errors import CloudError
from runtime.model.distributions import accept_sampled, draw, truncated
from runtime.model.placement import moved
from runtime.rules import Acceptance, accept_greedy
from runtime.sampling import Draws, Purpose, SampledDraft, Sampling

Inputs_co = TypeVar("Inputs_co", covariant=True)
"""See :data:`cloud.engine.embedded.forward.Inputs`."""
_Result = TypeVar("_Result")
_Settled = TypeVar("_Settled")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[_Result]):
    """What its forwards gave a job, from its last result on."""

    results: Sequence[_Result]
    """Of each forward that ran some of the wanted positions, in order."""
    queue_ms: float
    """Time that none of its forwards took: from when it was put, or from its result before, to this result."""
    compute_ms: float
    """Duration of its forwards."""
    compute_share_ms: float
    """Its share of them, by tokens."""
    processed_tokens: int
    """Tokens run for it."""
    load: int
    """Jobs that are there at the end of the last forward, those that it ran included."""


class Job(Protocol[Inputs_co, _Result]):
    """A request, one result after the other. The engine's thread calls its methods; its attributes are that thread's, too."""

    table: Table
    """Of its sequence."""
    first: int
    """The first place whose input is at hand; what is before it has to be in the table."""
    kept: int
    """Places of the table that may be kept where they are filled: what is behind them is of other inputs, or may be."""
    tail: int
    """Positions at the end that have to be in one forward, at least one."""
    check: bool
    """Its result is what a device waits for."""
    account: str
    deadline: float
    """On the batcher's clock; infinity is not known."""

    @property
    def tokens(self) -> Sequence[int]:
        """Of the sequence, from the first, by which others may find what is there of it; none where it is of states."""
        ...

    @property
    def length(self) -> int:
        """Places of the sequence up to what the next result is after."""
        ...

    def inputs(self, start: int, stop: int) -> Inputs_co:
        """Return what goes in at these places, none of them before the first."""
        ...

    def wanted(self, start: int, stop: int) -> int:
        """Of how many of these places, its last ones, a result is wanted."""
        ...

    def deliver(self, outcome: Outcome[_Result]) -> bool:
        """Take a result; True where there is to be another. Length and `kept` are now those of what stands."""
        ...

    def fail(self, error: CloudError) -> None:
        """Take the reason why there will be no (more) results; called by any thread, perhaps more than once."""
        ...


class Awaited(Job[Inputs_co, _Result], Protocol[Inputs_co, _Result, _Settled]):
    """A job with one result, which is made of what it is given."""

    result: asyncio.Future[_Settled]


class OfTokens:
    """What jobs over token ids have in common."""

    first = 0
    tokens: list[int]
    tail: int

    @property
    def length(self) -> int:
        """See :class:`Job`."""
        return len(self.tokens)

    def inputs(self, start: int, stop: int) -> list[int]:
        """See :class:`Job`."""
        return self.tokens[start:stop]

    def wanted(self, start: int, stop: int) -> int:
        """See :class:`Job`."""
        return self.tail if stop == len(self.tokens) else 0


class AwaitedJob(Generic[_Settled]):
    """A job with one result, awaited through `result`. Made on the event loop."""

    check = True

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[_Settled] = self._loop.create_future()

    def fail(self, error: CloudError) -> None:
        """See :class:`Job`."""
        self._hand_out(error)

    def _hand_out(self, result: _Settled | CloudError) -> None:
        self._loop.call_soon_threadsafe(self._settle, result)

    def _settle(self, result: _Settled | CloudError) -> None:
        if self.result.done():  # cancelled, or failed when its session was closed
            return
        if isinstance(result, CloudError):
            self.result.set_exception(result)
        else:
            self.result.set_result(result)


class CheckJob(OfTokens, AwaitedJob[Checked]):
    """What is new of a history, and a draft."""

    def __init__(
        self,
        table: Table,
        history: Sequence[int],
        kept: int,
        draft: Sequence[int],
        sampled: SampledDraft | None = None,
        *,
        account: str = "",
        deadline: float = float("inf"),
    ) -> None:
        """Prepare.

        Args:
            table: of the session.
            history: all tokens before the draft, at least one.
            kept: below the history's length; so many of its first tokens the table was filled with, unless it was evicted.
            draft: token ids to judge.
            sampled: how it was sampled; None judges it greedily.
            account: whom it is charged to.
            deadline: when the verdict is of no more use, on the batcher's clock.
        """
        super().__init__()
        self.table, self.kept, self.account, self.deadline = table, kept, account, deadline
        self.tokens, self.tail = [*history, *draft], len(draft) + 1
        self._draft, self._sampled = draft, sampled

    def deliver(self, outcome: Outcome[Rows]) -> bool:
        """Judge the draft."""
        drafted = len(self._draft)
        history = self.tokens[: len(self.tokens) - drafted]
        checked = _checked(self._draft, self._judge(outcome.results[-1], history), outcome)
        self.tokens = [*history, *self._draft[: checked.accepted]]
        self.kept = len(self.tokens)
        self._hand_out(checked)
        return False

    def _judge(self, rows: Rows, history: Sequence[int]) -> Acceptance:
        if self._sampled is None:
            return accept_greedy(self._draft, rows.choices)
        sampling = self._sampled.sampling
        draws = Draws(sampling.seed, history)
        return accept_sampled(self._draft, self._sampled.proposals, truncated(rows.logits, sampling), draws)


class StreamJob(OfTokens):
    """A result a token; the tokens so far are its own."""

    check, tail = False, 1

    def __init__(
        self,
        table: Table,
        prompt: Sequence[int],
        max_new_tokens: int,
        eos_ids: frozenset[int],
        sampling: Sampling | None = None,
        *,
        account: str = "",
        log_probabilities: bool = False,
    ) -> None:
        self.table, self.tokens, self.kept, self.account, self.deadline = table, list(prompt), 0, account, float("inf")
        self._left, self._eos_ids, self._sampling = max_new_tokens, eos_ids, sampling
        self._log_probabilities = log_probabilities
        self._draws = None if sampling is None else Draws(sampling.seed, prompt)
        self._loop = asyncio.get_running_loop()
        self.results: asyncio.Queue[Streamed | CloudError | None] = asyncio.Queue()
        """Tokens, then an error or None."""

    def deliver(self, outcome: Outcome[Rows]) -> bool:
        """Hand out a token; go on unless it is the last."""
        rows = outcome.results[-1]
        [token] = rows.choices
        if self._sampling is not None and self._draws is not None:
            token = draw(truncated(rows.logits, self._sampling)[0], self._draws.uniform(Purpose.TOKEN))
            self._draws = self._draws.after([token])
        self.kept, self._left = len(self.tokens), self._left - 1
        took = outcome.queue_ms, outcome.compute_ms, outcome.compute_share_ms
        said = _logprobs(rows.logits, [0], [token])[0] if self._log_probabilities else None
        self._put(Streamed(token, *took, outcome.processed_tokens, said))
        more = self._left > 0 and token not in self._eos_ids
        if more:
            self.tokens.append(token)
        else:
            self._put(None)
        return more

    def fail(self, error: CloudError) -> None:
        """See :class:`Job`."""
        self._put(error)

    def _put(self, result: Streamed | CloudError | None) -> None:
        self._loop.call_soon_threadsafe(self.results.put_nowait, result)


def _checked(draft: Sequence[int], acceptance: Acceptance, outcome: Outcome[Rows]) -> Checked:
    accepted, next_token = acceptance
    judged = min(accepted + 1, len(draft))
    *of_draft, of_next = _logprobs(outcome.results[-1].logits, [*range(judged), accepted], [*draft[:judged], next_token])
    return Checked(
        accepted,
        next_token,
        draft_logprobs=tuple(of_draft),
        next_logprob=of_next,
        queue_ms=outcome.queue_ms,
        compute_ms=outcome.compute_ms,
        compute_share_ms=outcome.compute_share_ms,
        processed_tokens=outcome.processed_tokens,
        load=outcome.load,
    )


@torch.inference_mode()
def _logprobs(logits: Tensor, rows: list[int], tokens: list[int]) -> list[float]:
    """Log-probability of tokens[i] by logits[rows[i]], in float32; `rows` never fall. Only these few leave the device.

    A device waits for this, hence as few tensors as can be.
    """
    vocab = logits.shape[-1]
    places = moved(torch.tensor([row * vocab + token for row, token in zip(rows, tokens, strict=True)]), logits.device)
    return logits[: rows[-1] + 1].float().log_softmax(-1).take(places).tolist()
