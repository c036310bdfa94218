"""Who asks a verifier for something in a load test: devices and other users. A scenario of another kind is an actor beside them.

An actor is a coroutine over a :class:`scripts._load_desk.Desk`: it asks until the desk's end, and leaves what it saw in the desk's
samples. :func:`actors_of` says which act in a plan. What does not live here: what a device's answer consists of (_load_answers.py),
the process around it (_load_worker.py), and attackers, who keep to no rules and have processes of their own (_attacks.py).
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from runtime.answers import Checked, read_checked, read_opened
from runtime.client import CloudClient, new_key
from runtime.errors import CloudBusyError, CloudUnavailableError, SessionLostError, SyneraError
from runtime.sampling import Sampling
from runtime.synera.held import HeldHistory
from runtime.wire import synera_pb2 as pb
from scripts._load_answers import Answer, Chunk, MadeUpAnswer, ScriptedAnswer, made_up_lengths, made_up_tokens
from scripts._load_desk import MOST_TRIES, Desk, call, stream, until, wait_seconds
from scripts._load_result import CheckSample, StreamSample

_DEVICE, _USER, _ARRIVAL = 1, 2, 3
"""What random numbers are for."""
_TRIES_OF_A_SESSION = 3
"""After so many refusals of one check its session is taken for lost."""
_START_SECONDS = 0.25
"""Within which devices of a closed loop begin."""
_AFTER_FAILURE_SECONDS = 0.25
"""Nobody begins anew at once who was given no answer."""
_ANY_TOKEN = Sampling(temperature=100.0)
"""Draws nearly evenly from the vocabulary, so that a stream seldom ends before it is as long as asked for."""


def actors_of(desk: Desk, threads: ThreadPoolExecutor) -> Iterator[Coroutine[Any, Any, None]]:
    """Who acts in this process; devices, users and arrivals are dealt out to the processes in turn."""
    plan, mine = desk.plan, range(desk.place, 2**31, desk.plan.processes)
    if plan.arrivals is None:
        yield from (device(desk, number) for number in mine[: _share(plan.devices, desk)])
    else:
        yield from (arrival(desk, number, threads) for number in mine[: _share(len(plan.arrivals), desk)])
    yield from (user(desk, number, threads) for number in mine[: _share(plan.streams, desk)])


def _share(whole: int, desk: Desk) -> int:
    """How many of so many belong to this process."""
    return len(range(desk.place, whole, desk.plan.processes))


# ---------------------------------------------------------------- devices


async def device(desk: Desk, number: int) -> None:
    """Answer prompt after prompt."""
    rng = np.random.default_rng([desk.plan.seed, _DEVICE, number])
    at = desk.began + float(rng.random()) * _START_SECONDS
    while at < desk.ends:
        await until(at)
        at = await _Answering(desk, desk.client(number), _answer(desk, rng), at).run()


async def arrival(desk: Desk, number: int, threads: ThreadPoolExecutor) -> None:
    """One request of the workload: a device's answer, or another user's stream."""
    workload = desk.plan.arrivals
    assert workload is not None
    rng = np.random.default_rng([desk.plan.seed, _ARRIVAL, number])
    at = desk.began + float(workload.arrival_seconds[number])
    streams = float(rng.random()) < desk.plan.prefill_share
    await until(at)
    if at >= desk.ends:
        return
    context, generated = int(workload.context_tokens[number]), int(workload.generated_tokens[number])
    if streams:
        await _generate(desk, desk.client(number), rng, at, context, generated, threads)
    else:
        await _Answering(desk, desk.client(number), _answer(desk, rng, (max(1, context), max(1, generated))), at).run()


def _answer(desk: Desk, rng: np.random.Generator, lengths: tuple[int, int] | None = None) -> Answer:
    """A recorded answer, whose lengths are its own; else one that is made up."""
    if desk.source is not None:
        return ScriptedAnswer(desk.source[int(rng.integers(len(desk.source)))])
    context, generated = lengths or made_up_lengths(rng, desk.info.context_tokens)
    drafted = min(desk.plan.knobs.draft_length, desk.info.max_draft_tokens)
    return MadeUpAnswer(rng, prompt_tokens=context, answer_tokens=generated, vocab=desk.info.vocab, draft_tokens=drafted)


class _CutError(SyneraError):
    """The load ends before the answer does."""


class _Answering:
    """One answer of a device: its session, its checks one after the other, and what is done when they fail."""

    def __init__(self, desk: Desk, client: CloudClient, answer: Answer, at: float) -> None:
        self._desk, self._client, self._answer, self._at = desk, client, answer, at
        self._session, self._held = "", HeldHistory()
        self._check: Any = None  # the request of the check under way, as long as a repeat may be the same

    async def run(self) -> float:
        """Answer; return when the next may begin."""
        desk, began = self._desk, self._at
        try:
            await self._open(self._at)
            while (chunk := self._answer.chunk()) is not None:
                meant = self._at + chunk.think_seconds + desk.plan.pause_seconds
                if meant >= desk.ends:
                    raise _CutError
                await until(meant)
                await self._settle(chunk, meant)
            desk.count("answers", self._at)
            if desk.measured(began):
                desk.samples.answer_seconds.append(self._at - began)
        except _CutError:
            desk.samples.counts["cut"] += 1
        except SyneraError:
            self._at = time.monotonic() + _AFTER_FAILURE_SECONDS
            desk.count("given_up", time.monotonic())
        await self._close()
        return self._at

    async def _settle(self, chunk: Chunk, meant: float) -> None:
        """Have a chunk checked, however often that takes.

        Raises:
            SyneraError: it is given up.
        """
        for tries in range(1, MOST_TRIES + 1):
            try:
                if not self._session:
                    await self._open(time.monotonic())
                    self._desk.count("reopened", time.monotonic())
                said = await self._verify(chunk, meant if tries == 1 else time.monotonic(), meant)
                break
            except (CloudBusyError, CloudUnavailableError, SessionLostError) as error:
                if tries == MOST_TRIES:
                    raise
                if time.monotonic() >= self._desk.ends:
                    raise _CutError from error
                if not isinstance(error, CloudBusyError) or tries % _TRIES_OF_A_SESSION == 0:
                    await self._close(lost=isinstance(error, SessionLostError))
                if not isinstance(error, SessionLostError):
                    await until(time.monotonic() + wait_seconds(error, tries))
        self._held.settled(chunk.history, chunk.draft, said.accepted, said.next_token)
        right = self._answer.settle(said.accepted, said.next_token)
        if right is not None:
            counts = self._desk.samples.counts  # also of what is not measured: none may be wrong
            counts["checked"] += 1
            counts["wrong"] += not right

    async def _verify(self, chunk: Chunk, send_at: float, meant: float) -> Checked:
        if self._check is None:
            asked = self._held.request(chunk.history, chunk.draft)
            self._check = pb.VerifyRequest(
                session_id=self._session,
                seq=asked.seq,
                prefix_length=asked.prefix_length,
                context=asked.context,
                draft=asked.draft,
            )
        longest = self._client.deadlines.verify_seconds
        answer, self._at = await self._asked("Verify", self._check, longest, send_at)
        said = read_checked(
            answer,
            history_tokens=len(chunk.history),
            draft=chunk.draft,
            vocab=self._desk.info.vocab,
            longest_seconds=longest,
        )
        self._check = None
        times = (answer.queue_ms, answer.compute_ms, answer.compute_share_ms)
        self._desk.samples.checks.append(
            CheckSample(meant, self._at, *times, said.processed_tokens, said.load, len(chunk.draft), said.accepted)
        )
        return said

    async def _open(self, meant: float) -> None:
        """Get a session, however often that takes.

        Raises:
            SyneraError: it is given up.
        """
        key, send_at = new_key(), meant
        for tries in range(1, MOST_TRIES + 1):
            request = pb.OpenRequest(tokenizer_hash=self._desk.info.tokenizer_hash, key=key)
            try:
                answer, self._at = await self._asked("Open", request, self._client.deadlines.open_seconds, send_at)
                break
            except (CloudBusyError, CloudUnavailableError) as error:
                if tries == MOST_TRIES:
                    raise
                send_at = time.monotonic() + wait_seconds(error, tries)
                if send_at >= self._desk.ends:
                    raise _CutError from error
                await until(send_at)
        self._session, self._held, self._check = read_opened(answer).session_id, HeldHistory(), None
        if self._desk.measured(meant):
            self._desk.samples.open_seconds.append(self._at - meant)

    async def _close(self, lost: bool = False) -> None:
        """Release the session, if there is one; where that fails its lease does it."""
        session, self._session, self._check = self._session, "", None
        if session and not lost:
            request = pb.CloseRequest(session_id=session)
            try:
                _, at = await self._asked("Close", request, self._client.deadlines.close_seconds, time.monotonic())
            except SyneraError:
                return  # as it was counted
            self._at = max(self._at, at)

    async def _asked(self, method: str, request: Any, seconds: float, meant: float) -> tuple[Any, float]:
        self._desk.sent(meant)
        try:
            return await call(self._client, method, request, seconds)
        except SyneraError as error:
            self._desk.failed(error)
            raise


# ---------------------------------------------------------------- other users


async def user(desk: Desk, number: int, threads: ThreadPoolExecutor) -> None:
    """Have one Generate request answered after the other."""
    lengths = desk.plan.stream_lengths
    assert lengths is not None
    rng = np.random.default_rng([desk.plan.seed, _USER, number])
    at = desk.began + float(rng.random()) * _START_SECONDS
    while at < desk.ends:
        await until(at)
        one = int(rng.integers(len(lengths)))
        context, generated = int(lengths.context_tokens[one]), int(lengths.generated_tokens[one])
        at = await _generate(desk, desk.client(number), rng, at, context, generated, threads)


async def _generate(
    desk: Desk,
    client: CloudClient,
    rng: np.random.Generator,
    at: float,
    context: int,
    generated: int,
    threads: ThreadPoolExecutor,
) -> float:
    """Have a prompt of so many tokens answered by the LLM alone, however often that takes; return when it was over."""
    prompt = made_up_tokens(rng, max(1, context), desk.info.vocab)
    sampling = Sampling(temperature=_ANY_TOKEN.temperature, seed=int(rng.integers(2**63)))
    send_at = at
    for tries in range(1, MOST_TRIES + 1):
        try:
            times = await stream(partial(_read, desk, client, prompt, max(1, generated), sampling, send_at), threads)
        except SyneraError as error:
            desk.failed(error)
            send_at = time.monotonic() + wait_seconds(error, tries)
            if not isinstance(error, CloudBusyError | CloudUnavailableError) or tries == MOST_TRIES:
                desk.count("given_up", time.monotonic())
                break
            if send_at >= desk.ends:
                desk.samples.counts["cut"] += 1
                break
            await until(send_at)
        else:
            _note(desk, at, len(prompt), times)
            return time.monotonic()
    return time.monotonic() + _AFTER_FAILURE_SECONDS


def _read(desk: Desk, client: CloudClient, prompt: tuple[int, ...], most: int, sampling: Sampling, meant: float) -> list[float]:
    """When each token came; on a thread of its own. A stream that is under way when the load ends is cut off there."""
    desk.sent(meant)
    times = []
    for _ in client.generate(prompt, most, sampling):
        times.append(time.monotonic())
        if times[-1] >= desk.ends:
            break
    return times


def _note(desk: Desk, meant: float, prompt_tokens: int, times: list[float]) -> None:
    """Write down a stream that was answered."""
    samples = desk.samples
    for at in times:
        desk.count("stream_tokens", at)
    if times:
        desk.count("prompt_tokens", times[0], prompt_tokens)
    gaps = pairwise(at for at in times if desk.measured(at))
    samples.gaps_seconds += [after - before for before, after in gaps]
    if times and desk.measured(meant) and desk.measured(times[0]):
        samples.streams.append(StreamSample(meant, times[0], times[-1], len(times)))
