"""Who goes into the next forward of a cloud that many share, and how much of each: iteration-level scheduling. Pure.

The verifier's embedded engine and the replay's shared cloud run this same code. What does not live here: clocks, threads, durations,
and room in the KV pool, which is asked for through `grant`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

from runtime.errors import SettingError
from runtime.settings import above, one_of, whole

TOKEN_BUDGET = 512
"""Most tokens in a forward, by default."""
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


class Slice(NamedTuple):
    """A request's part of a forward."""

    request: Request
    tokens: int
    """Its next so many."""

    @property
    def last(self) -> bool:
        """Whether the forward gives its result."""
        return self.tokens == self.request.left


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


def _granted(request: Request, tokens: int) -> bool:
    return True


class Scheduler:
    """Requests that are there, and which of them the next forward runs. Not thread-safe.

    A forward holds at most `token_budget` tokens, but that its first request's tail always goes. Requests are asked in the
    policy's order, and each takes as much of what is left of the budget as it can use: a prompt may so be cut into chunks.
    """

    def __init__(self, policy: str = DEFAULT_POLICY, token_budget: int = TOKEN_BUDGET) -> None:
        """Begin with nobody there.

        Args:
            policy: a name of `POLICIES`.
            token_budget: 1 to 1e6.

        Raises:
            SettingError: there is no such policy, or the budget is out of its range.
        """
        one_of("policy", policy, tuple(POLICIES))
        whole("token_budget", token_budget, 1, 1_000_000)
        self.policy, self.token_budget = POLICIES[policy](), token_budget
        self._requests: dict[float, Request] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        """Go through those who are there, in order of arrival."""
        return iter(self._requests.values())

    def add(self, request: Request) -> None:
        """Take a request; it stays until it is removed.

        Raises:
            SettingError: it has no tokens left, or a tail that is no part of them.
        """
        above("left", request.left, 0)
        if not 1 <= request.tail <= request.left:
            raise SettingError(f"tail={request.tail} must be from 1 to the {request.left} tokens left")
        self._arrivals += 1
        request.number, request.served = self._arrivals, request.arrived
        self.policy.places(request)
        self.policy.came(request)
        self._requests[request.number] = request

    def remove(self, request: Request) -> None:
        """Let go of a request; nothing happens when it is not there."""
        if self._requests.pop(request.number, None) is not None:
            self.policy.went(request)

    def introduce(self, guest: Request) -> None:
        """Give a request its place behind those who are there, without taking it: see `beside`."""
        guest.number, guest.served = self._arrivals + 0.5, guest.arrived
        self.policy.places(guest)

    def beside(self, guest: Request, now: float) -> list[Slice] | None:
        """Return the slices that the next forward would have beside a guest, if it were there; None where it would have to wait.

        Nothing is taken note of.
        """
        slices = self._chosen(now, _granted, guest)
        others = [each for each in slices if each.request is not guest]
        return others if len(others) < len(slices) and all(each.last for each in slices if each.request is guest) else None

    def goes_on(self, request: Request, left: int) -> None:
        """Give a stream that had a result the tokens of its next one; it keeps its place."""
        request.left, request.tail, request.decoding = left, 1, True
        self.policy.again(request)

    def plan(self, now: float, grant: Callable[[Request, int], bool] = _granted) -> list[Slice]:
        """Form the next forward's batch; what it runs counts as run.

        Args:
            now: seconds, not before any arrival.
            grant: asked, in order, whether there is room for so many tokens of a request; who gets none waits.
        """
        slices = self._chosen(now, grant)
        for request, tokens in slices:
            request.served = now
            self.policy.ran(request, tokens)
        return slices

    def _chosen(self, now: float, grant: Callable[[Request, int], bool], guest: Request | None = None) -> list[Slice]:
        there = [*self._requests.values()] if guest is None else [*self._requests.values(), guest]
        policy, budget, slices = self.policy, self.token_budget, list[Slice]()
        bulk = self._most_bulk(there)
        if sum([request.left for request in there]) <= min(budget, bulk):  # all go, whatever the order
            return [Slice(request, request.left) for request in there if grant(request, request.left)]
        keys = {request.number: policy.key(request, now) for request in there}
        for request in sorted(there, key=lambda request: (keys[request.number], request.number)):
            tokens, is_bulk = request.left, policy.bulk(request)
            room = min(budget, bulk) if is_bulk else budget
            if tokens > room:
                if slices and not policy.chunks:
                    break
                tokens = min(room, request.left - request.tail) if policy.chunks else 0
                if not slices and tokens <= 0:
                    tokens = request.left
            if tokens > 0 and grant(request, tokens):
                slices.append(Slice(request, tokens))
                budget -= tokens
                bulk -= tokens if is_bulk else 0
                if budget <= 0:
                    break
        return slices

    def _most_bulk(self, there: Collection[Request]) -> int:
        """Tokens of bulk in the next forward: all that there is room for, unless a check would wait for them."""
        policy = self.policy
        beside = any([request.check and not policy.bulk(request) for request in there]) and any(map(policy.bulk, there))
        return policy.BULK_TOKENS if beside else self.token_budget

    def ran(self, slices: Collection[Slice]) -> None:
        """Take note that the forward over a plan's slices is over."""
        for request, tokens in slices:
            request.left -= tokens
