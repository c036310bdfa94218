"""Who goes first into the next forward of a cloud that many share: the policies, and what they know of a request. Pure.

What does not live here: the forward's batch (scheduling.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

DEFAULT_POLICY = "verification_aware"


@dataclass(slots=True, eq=False)
class Request:
    """What a scheduler knows of a request: a check, or a stream of tokens, one result after the other."""

    arrived: float
    """Seconds, on the scheduler's clock."""
    left: int
    """Tokens that are yet to be run for its next result, at least one."""
    tail: int = 1
    """Of those the last so many have to be in one forward: of a check the draft and the position before it."""
    check: bool = True
    """A device waits for the verdict; else it is a stream."""
    account: str = ""
    """Whom its tokens are charged to."""
    deadline: float = math.inf
    """When the result is of use no more; infinity is not known."""
    decoding: bool = field(default=False, init=False)
    """A stream that has had its first token."""
    served: float = field(default=0.0, init=False)
    """When a forward was last planned for it, at first its arrival."""
    number: float = field(default=0, init=False)
    """Of arrivals, from 1; of a guest it is between two."""
    tag: int = field(default=0, init=False)
    """Of fair queueing, in tokens; a policy's own."""
    level: float = field(default=0, init=False)
    """Of queues with levels, the least is served first; a policy's own, as the tokens that it `used` there."""
    used: int = field(default=0, init=False)


class Policy(Protocol):
    """Orders requests; made for one scheduler."""

    chunks: ClassVar[bool]
    """Whether what is left of a budget is filled with the beginning of a prompt that does not fit into it."""
    BULK_TOKENS: ClassVar[int]
    """Most tokens of bulk in a forward that also runs others."""

    def bulk(self, request: Request) -> bool:
        """Whether it is work that others, which are not, should wait little for."""
        ...

    def key(self, request: Request, now: float) -> tuple[float, ...]:
        """The smaller goes first; of equals who came first."""
        ...

    def places(self, request: Request) -> None:
        """Give a request that comes now its place, and take no note of it."""
        ...

    def came(self, request: Request) -> None:
        """A request that has its place is there."""
        ...

    def went(self, request: Request) -> None:
        """A request that was there is no more."""
        ...

    def ran(self, request: Request, tokens: int) -> None:
        """So many of its tokens go into a forward."""
        ...

    def again(self, request: Request) -> None:
        """A stream had a result, and stays for the next."""
        ...


class _Plain:
    """A policy that keeps no books."""

    chunks: ClassVar[bool] = True
    BULK_TOKENS: ClassVar[int] = 0

    def bulk(self, request: Request) -> bool:
        """See :class:`Policy`."""
        return False

    def places(self, request: Request) -> None:
        """See :class:`Policy`."""

    def came(self, request: Request) -> None:
        """See :class:`Policy`."""

    def went(self, request: Request) -> None:
        """See :class:`Policy`."""

    def ran(self, request: Request, tokens: int) -> None:
        """See :class:`Policy`."""

    def again(self, request: Request) -> None:
        """See :class:`Policy`."""


class Fcfs(_Plain):
    """First come, first served: by arrival. A long prompt takes whole forwards before anybody behind it has a turn; a stream
    keeps its place from token to token (iteration-level, as Orca: Yu et al., OSDI 2022).
    """

    def key(self, request: Request, now: float) -> tuple[float, ...]:
        """See :class:`Policy`."""
        return ()


class FcfsWhole(_Plain):
    """First come, first served, without chunks: each prompt is read in one forward, however long, and what does not fit behind others
    ends the batch; a stream goes to the queue's end from token to token. What servers did before prompts were chunked.
    """

    chunks: ClassVar[bool] = False

    def __init__(self) -> None:
        self._last = 0  # place in the queue

    def key(self, request: Request, now: float) -> tuple[float, ...]:
        """See :class:`Policy`."""
        return (request.level,)

    def places(self, request: Request) -> None:
        """See :class:`Policy`."""
        request.level = self._last + 0.5

    def came(self, request: Request) -> None:
        """See :class:`Policy`."""
        self.again(request)

    def again(self, request: Request) -> None:
        """See :class:`Policy`."""
        self._last += 1
        request.level = self._last


class Edf(_Plain):
    """Earliest deadline first. A request whose deadline is not known is taken to have one 0.5 s after its arrival where it is a
    check, 5 s where it is a stream; ours.
    """

    _CHECK_SECONDS, _STREAM_SECONDS = 0.5, 5.0

    def key(self, request: Request, now: float) -> tuple[float, ...]:
        """See :class:`Policy`."""
        if request.deadline < math.inf:
            return (request.deadline,)
        return (request.arrived + (self._CHECK_SECONDS if request.check else self._STREAM_SECONDS),)


class VerificationAware:
    """Verifications first, then decoding, then prefill; within these, who has had least; nobody starves. Of Synera's scheduler only
    the aim is public, so this is ours:

    * A request's class is 0 where it is a check with at most 32 tokens left, which a device may stall on; 1 where it is a stream that
      decodes; 2 otherwise, be it a prompt or a check that has much history to catch up with: both are prefill, and fill what the
      others leave of the budget, chunk by chunk.
    * Beside a check of class 0 a forward reads at most 128 tokens of class 2, however much is left of its budget: the check's device
      waits for all that is in its forward, and the next check for the forward before it.
    * Ageing: for each second without a turn it rises by a class.
    * Within a class accounts share tokens fairly, so that work is charged to who causes it, by start-time fair queueing (Goyal et al.,
      1996): a request is served at its tag, which begins where its account's request before it ends, but not before the least tag of
      those present, so that nobody saves up; and which rises with each token that is run for it.
    """

    chunks: ClassVar[bool] = True
    SHORT_TOKENS: ClassVar[int] = 32
    BULK_TOKENS: ClassVar[int] = 128
    AGE_SECONDS: ClassVar[float] = 1.0

    def __init__(self) -> None:
        self._present: dict[float, Request] = {}
        self._ends: dict[str, int] = {}  # by account, the tag at which all its requests will have been run

    def bulk(self, request: Request) -> bool:
        """See :class:`Policy`."""
        return not (request.left <= self.SHORT_TOKENS if request.check else request.decoding)

    def key(self, request: Request, now: float) -> tuple[float, ...]:
        """See :class:`Policy`."""
        rank = 2 if self.bulk(request) else 0 if request.check else 1
        aged = int((now - request.served) / self.AGE_SECONDS)
        return max(rank - aged, 0), request.tag

    def places(self, request: Request) -> None:
        """See :class:`Policy`."""
        least = min([each.tag for each in self._present.values()], default=0)
        request.tag = max(least, self._ends.get(request.account, 0))

    def came(self, request: Request) -> None:
        """See :class:`Policy`."""
        self._ends[request.account] = request.tag + request.left
        self._present[request.number] = request

    def went(self, request: Request) -> None:
        """See :class:`Policy`."""
        del self._present[request.number]
        self._ends[request.account] -= request.left  # what it did not use
        least = min((each.tag for each in self._present.values()), default=math.inf)
        if self._ends[request.account] <= least:  # it will begin there anyway
            accounts = {each.account for each in self._present.values()}
            self._ends = {name: end for name, end in self._ends.items() if end > least or name in accounts}

    def ran(self, request: Request, tokens: int) -> None:
        """See :class:`Policy`."""
        tag = request.tag = request.tag + tokens
        if self._ends[request.account] < tag:
            self._ends[request.account] = tag

    def again(self, request: Request) -> None:
        """See :class:`Policy`."""


class Mlfq(_Plain):
    """Skip-join multi-level feedback queue (FastServe: Wu et al., 2023). Level i is for 32 * 2^i tokens. A request joins the level
    that its first result fits in, so that a long prompt skips those above; with its level's tokens used up it goes one down. Who has
    had no turn for 2 s goes to the top. Levels and times are ours.
    """

    _QUANTUM_TOKENS, _STARVING_SECONDS = 32, 2.0

    def key(self, request: Request, now: float) -> tuple[float, ...]:
        """See :class:`Policy`."""
        return (0 if now - request.served > self._STARVING_SECONDS else request.level,)

    def places(self, request: Request) -> None:
        """See :class:`Policy`."""
        request.level = max(0, math.ceil(math.log2(request.left / self._QUANTUM_TOKENS)))

    def ran(self, request: Request, tokens: int) -> None:
        """See :class:`Policy`."""
        request.used += tokens
        if request.used >= self._QUANTUM_TOKENS * 2**request.level:
            request.level, request.used = request.level + 1, 0


POLICIES: dict[str, type[Policy]] = {
    "verification_aware": VerificationAware,
    "fcfs": Fcfs,
    "edf": Edf,
    "mlfq": Mlfq,
    "fcfs_whole": FcfsWhole,
}
"""By name."""
