"""How much a verifier takes on, in all and of one account, and when to come back where that is too much.

What does not live here: places of sessions (sessions.py), who goes first of what was let in (the engine), connections and
sizes of messages (server.py). Knows nothing of engines: a request is a number of tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from runtime.errors import CloudBusyError, SettingError
from runtime.settings import whole, within

_MOST = 100_000
_MOST_TOKENS = 2**40
_TOKENS = 262_144
_CONTEXTS = 8
_ANSWER_BYTES = 2**28
_LONGEST_ANSWERS = 16
_SHORTEST_HINT_SECONDS, _LONGEST_HINT_SECONDS = 0.05, 60.0
_UNKNOWN_SECONDS = 1.0  # the hint while no throughput was seen
_MEMORY_SECONDS = 30.0  # of the throughput: what is longer ago weighs less than 1/e
_FEW_ACCOUNTS = 64  # so many are not worth a look for idle ones


@dataclass(frozen=True)
class Limits:
    """How much a verifier takes on at a time.

    Beyond these numbers an account that holds requests, tokens or streams gets no more of them than are free for others. So
    one alone gets at most half, each of n greedy ones about a share of 1 / (n + 1), and a newcomer finds room.

    Raises:
        SettingError: a number is outside its range.
    """

    max_requests: int = 1024
    """Most checks, chunks and streams at a time, running or waiting, 1..100000."""
    max_tokens: int | None = None
    """Most tokens that those bring and ask for, up to 2**40 and no less than the model's context; None is 262,144, or eight
    contexts where that is more."""
    max_streams: int = 128
    """Most streams at a time, until they are read, 1..100000; of chunks those alone over which none has come yet."""
    max_answer_bytes: int | None = None
    """Bytes of chunks' answers that are made, wait to be read, or are kept for who asks again, up to 2**40 and no less than sixteen of the
    longest; None is 256 MiB, or those sixteen where that is more. Where there are more, the oldest of who holds most are forgotten; who
    asks again for one of them has lost its session."""
    account_sessions: int = 256
    """Most sessions of one account, 1..100000."""
    account_requests: int = 256
    """Most checks, chunks and streams of one account, 1..100000."""
    account_streams: int = 64
    """Most streams of one account, 1..100000."""
    account_tokens_per_second: float | None = None
    """Tokens that one account may have processed in the long run, 0.001..1e9 a second; None is no limit."""
    account_burst_tokens: int = 16_384
    """Tokens that it may be ahead of that, 1..2**40; the request that comes last may go beyond."""
    unused_seconds: float = 10.0
    """A session that was opened and never used is kept this long, 0.01..604800; never longer than a lease."""
    reader_seconds: float = 30.0
    """How long an answer may wait to be read on, 0.01..3600; in all ten times as long."""

    def __post_init__(self) -> None:
        for name in ("max_requests", "max_streams", "account_sessions", "account_requests", "account_streams"):
            whole(name, getattr(self, name), 1, _MOST)
        if self.max_tokens is not None:
            whole("max_tokens", self.max_tokens, 1, _MOST_TOKENS)
        if self.max_answer_bytes is not None:
            whole("max_answer_bytes", self.max_answer_bytes, 1, _MOST_TOKENS)
        if self.account_tokens_per_second is not None:
            within("account_tokens_per_second", self.account_tokens_per_second, 0.001, 1e9)
        whole("account_burst_tokens", self.account_burst_tokens, 1, _MOST_TOKENS)
        within("unused_seconds", self.unused_seconds, 0.01, 604_800)
        within("reader_seconds", self.reader_seconds, 0.01, 3600)

    def tokens(self, context_tokens: int) -> int:
        """Most tokens at a time over a model of such a context.

        Raises:
            SettingError: its longest request would never be let in.
        """
        if self.max_tokens is None:
            return max(_TOKENS, _CONTEXTS * context_tokens)
        if self.max_tokens < context_tokens:
            raise SettingError(
                f"max_tokens={self.max_tokens} is less than the model's context of {context_tokens}, so its longest requests could never be served; allow at least that"
            )
        return self.max_tokens

    def answer_bytes(self, longest: int) -> int:
        """Bytes of answers at a time, of which the longest takes so many: one session's eight must fit into half of them.

        Raises:
            SettingError: they would not.
        """
        least = _LONGEST_ANSWERS * longest
        if self.max_answer_bytes is None:
            return max(_ANSWER_BYTES, least)
        if self.max_answer_bytes < least:
            raise SettingError(
                f"max_answer_bytes={self.max_answer_bytes} is less than sixteen answers of {longest} bytes, so a session's eight chunks might never be answered; allow at least {least}, or shorter chunks"
            )
        return self.max_answer_bytes


@dataclass(slots=True)
class Load:
    """What is in flight."""

    requests: int = 0
    tokens: int = 0
    streams: int = 0

    def add(self, other: Load, sign: int = 1) -> None:
        """Add another, or with `sign` -1 take it away."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + sign * getattr(other, each.name))

    def __bool__(self) -> bool:
        return bool(self.requests or self.tokens or self.streams)


@dataclass(slots=True)
class _Account:
    held: Load = field(default_factory=Load)
    budget_tokens: float = math.inf
    """What its bucket holds; below zero it has had more than its share."""
    budget_at: float = 0.0


class Ticket:
    """A request that was let in. Whoever got it ends it, however the request ends; more than once does nothing more."""

    def __init__(self, admission: Admission, account: str, load: Load) -> None:
        self._admission, self._account, self._left = admission, account, load
        self._asked_tokens = load.tokens

    def worked(self, processed_tokens: int | None) -> None:
        """Give back requests and tokens; the place of a stream is kept, as its answer may still have to be read.

        Args:
            processed_tokens: what it came to; None where nobody knows, which is charged as what was asked for.
        """
        if self._left.requests:
            done = Load(self._left.requests, self._left.tokens)
            if processed_tokens is not None:
                self._admission.charge(self._account, processed_tokens - self._asked_tokens, processed_tokens)
            self._left.add(done, -1)
            self._admission.release(self._account, done)

    def end(self) -> None:
        """Give back all."""
        self.worked(None)
        left, self._left = self._left, Load()
        self._admission.release(self._account, left)


class Admission:
    """Lets requests in, or tells them to come back. Used on one event loop; nothing waits here."""

    def __init__(self, limits: Limits, *, context_tokens: int, now: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing in flight.

        Args:
            limits: how much is taken on.
            context_tokens: the model's, which the longest request may fill.
            now: monotonic seconds.

        Raises:
            SettingError: the longest request would never be let in.
        """
        self.limits, self.held = limits, Load()
        self._most = Load(limits.max_requests, limits.tokens(context_tokens), limits.max_streams)
        self._most_of_one = Load(limits.account_requests, self._most.tokens, limits.account_streams)
        self._now, self._throughput = now, _Throughput(now())
        self._accounts: dict[str, _Account] = {}
        self._look_at = _FEW_ACCOUNTS

    def __len__(self) -> int:
        """Accounts that are remembered."""
        return len(self._accounts)

    def admit(self, account: str, tokens: int, *, stream: bool = False) -> Ticket:
        """Let a request in.

        Args:
            account: whom it is charged to.
            tokens: that it brings and asks for, at least 1.
            stream: whether it takes a place of a stream.

        Raises:
            CloudBusyError: not now; with when to come back.
        """
        asked = Load(1, tokens, int(stream))
        known = self._accounts.get(account) or _Account()
        self._refill(known)
        if known.budget_tokens <= 0:
            rate = self.limits.account_tokens_per_second or math.inf
            raise CloudBusyError(
                f"this account has used up its {rate:g} tokens per second; send less, or raise --account-tokens-per-second",
                _bounded(-known.budget_tokens / rate),
            )
        self._check(known.held, asked)
        self._throughput.pass_time(self._now(), busy=bool(self.held.requests))
        known.budget_tokens -= tokens
        return self._let_in(account, known, asked)

    def admit_stream(self, account: str) -> Ticket:
        """Let a stream in that has not asked for anything yet.

        Raises:
            CloudBusyError: not now; with when to come back.
        """
        asked, known = Load(streams=1), self._accounts.get(account) or _Account()
        self._refill(known)
        self._check(known.held, asked)
        return self._let_in(account, known, asked)

    def drain_seconds(self, tokens: float | None = None) -> float:
        """When so many of the tokens in flight, by default those of one request, may be done with, by what was seen lately."""
        rate = self._throughput.tokens_per_second
        if tokens is None:
            tokens = self.held.tokens / max(1, self.held.requests)
        return _bounded(_UNKNOWN_SECONDS if rate is None else tokens / rate)

    def hinted(self, busy: CloudBusyError) -> CloudBusyError:
        """Return a refusal of the engine's with when to come back, where it has none."""
        known = busy.retry_after_seconds
        return CloudBusyError(str(busy), self.drain_seconds() if known is None else known)

    def charge(self, account: str, tokens: int, processed_tokens: int) -> None:
        """Charge an account more, or less, than what was asked for; for tickets, while they are held."""
        known = self._accounts[account]
        self._refill(known)
        known.budget_tokens -= tokens
        self._throughput.pass_time(self._now(), busy=True)
        self._throughput.processed(processed_tokens)

    def release(self, account: str, load: Load) -> None:
        """Take a load away; for tickets."""
        known = self._accounts.get(account)
        if known is None or not load:
            return
        self.held.add(load, -1)
        known.held.add(load, -1)
        if self._is_idle(known):
            del self._accounts[account]

    def _let_in(self, account: str, known: _Account, asked: Load) -> Ticket:
        if account not in self._accounts:
            self._forget_idle()
            self._accounts[account] = known
        known.held.add(asked)
        self.held.add(asked)
        return Ticket(self, account, asked)

    def _check(self, held: Load, asked: Load) -> None:
        """Refuse what would be too much of any kind."""
        for each in fields(Load):
            self._check_kind(each.name, held, asked)

    def _check_kind(self, name: str, held: Load, asked: Load) -> None:
        mine, more, total = getattr(held, name), getattr(asked, name), getattr(self.held, name)
        most, most_of_one = getattr(self._most, name), getattr(self._most_of_one, name)
        if not more:
            return
        if mine + more > most_of_one:
            raise CloudBusyError(
                f"this account has {mine} {name} in flight, of at most {most_of_one}; wait for their answers, or raise --account-{name}",
                self._until_less(name, mine + more - most_of_one),
            )
        if mine + more > most - total:  # which also keeps the total in its bounds
            raise CloudBusyError(
                f"{total} of at most {most} {name} are in flight, {mine} of them this account's, and as many as it holds must stay free for others; try again later, or raise --max-{name}",
                self._until_less(name, mine + more - (most - total)),
            )

    def _until_less(self, name: str, excess: int) -> float:
        per_unit = 1.0 if name == "tokens" else self.held.tokens / max(1, getattr(self.held, name))
        return self.drain_seconds(excess * per_unit)

    def _refill(self, account: _Account) -> None:
        rate, burst, now = self.limits.account_tokens_per_second, self.limits.account_burst_tokens, self._now()
        if rate is not None:
            filled = burst if account.budget_tokens == math.inf else account.budget_tokens + (now - account.budget_at) * rate
            account.budget_tokens, account.budget_at = min(burst, filled), now

    def _is_idle(self, account: _Account) -> bool:
        """Whether nothing would be different if it were forgotten."""
        self._refill(account)
        rate, burst = self.limits.account_tokens_per_second, self.limits.account_burst_tokens
        return not account.held and (rate is None or account.budget_tokens >= burst)

    def _forget_idle(self) -> None:
        """Keep no more than twice as many accounts as there is something to remember of."""
        if len(self._accounts) >= self._look_at:
            self._accounts = {name: each for name, each in self._accounts.items() if not self._is_idle(each)}
            self._look_at = max(_FEW_ACCOUNTS, 2 * len(self._accounts))


class _Throughput:
    """Tokens processed a second while there was something to do."""

    def __init__(self, now: float) -> None:
        self._at, self._tokens, self._seconds = now, 0.0, 0.0

    @property
    def tokens_per_second(self) -> float | None:
        return self._tokens / self._seconds if self._tokens > 0 and self._seconds > 0 else None

    def pass_time(self, now: float, *, busy: bool) -> None:
        """Time since the last call has passed, all of it busy or all idle."""
        seconds, self._at = now - self._at, now
        if busy:
            kept = math.exp(-seconds / _MEMORY_SECONDS)
            self._tokens, self._seconds = self._tokens * kept, self._seconds * kept + seconds

    def processed(self, tokens: int) -> None:
        self._tokens += tokens


def _bounded(seconds: float) -> float:
    return min(max(seconds, _SHORTEST_HINT_SECONDS), _LONGEST_HINT_SECONDS)
