"""Who goes into the next forward of a cloud that many share, and how much of each: iteration-level scheduling. Pure.

The verifier's embedded engine and the replay's shared cloud run this same code. What does not live here: who goes first
(policies.py), clocks, threads, durations, and room in the KV pool, which is asked for through `grant`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from runtime.errors import SettingError
from runtime.policies import DEFAULT_POLICY, POLICIES, Request
from runtime.settings import above, one_of, whole

TOKEN_BUDGET = 512
"""Most tokens in a forward, by default."""


class Slice(NamedTuple):
    """A request's part of a forward."""

    request: Request
    tokens: int
    """Its next so many."""

    @property
    def last(self) -> bool:
        """Whether the forward gives its result."""
        return self.tokens == self.request.left


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
