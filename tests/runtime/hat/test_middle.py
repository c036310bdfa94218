"""The live middle against a scripted cloud: what it sends when, and that whatever fails is healed or told."""

from __future__ import annotations

import math
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from runtime.client import CloudClient, Deadlines
from runtime.errors import (
    BadAnswerError,
    CloudBusyError,
    CloudError,
    CloudRejectedError,
    CloudUnavailableError,
    GivenUpError,
    LateError,
    LinkDownError,
    ModelChangedError,
    SessionLostError,
    TokenizerMismatchError,
    UnauthenticatedError,
)
from runtime.hat.middle import RemoteMiddle
from runtime.hat.opening import Terms
from runtime.hat.patience import Patience
from runtime.hat.values import Reply, Upload
from runtime.leftovers import Leftovers
from runtime.link import LinkEmulator
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import forward_request_bytes, on_the_link
from scripts.benchmarks._faulty import Cable, cable
from synera_env.radio import Radio
from tests.support.middles import HIDDEN, MAX_ROWS, TERMS, Broken, Middle, Refusal, Script, echo, scripted
from traces.links.generators import constant_link

QUICK = Patience(
    longest_seconds=20.0, silent_seconds=0.3, open_seconds=0.5, first_retry_seconds=0.05, longest_retry_seconds=0.2
)
UNTIL_LATE = Patience(longest_seconds=1.5, first_retry_seconds=0.05, longest_retry_seconds=0.2)
"""A busy machine may hold up a cloud for longer than `BRIEF` takes for silence, which is then the reason."""
BRIEF = Patience(longest_seconds=0.8, silent_seconds=0.2, open_seconds=0.3, first_retry_seconds=0.05, longest_retry_seconds=0.2)
STATES = torch.arange(200 * HIDDEN).reshape(200, HIDDEN).float()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No thread stays, of ours or of gRPC's calls."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread


@contextmanager
def met(target: str, patience: Patience = QUICK, **more: Any) -> Iterator[RemoteMiddle]:
    terms = more.pop("terms", TERMS)
    with (
        CloudClient(target, deadlines=Deadlines(close_seconds=0.5)) as client,
        RemoteMiddle(client, terms, patience=patience, **more) as middle,
    ):
        yield middle


@contextmanager
def world(
    script: Script | None = None, patience: Patience = QUICK, opens: Callable[[Middle, int], Any] | None = None, **more: Any
) -> Iterator[tuple[Middle, RemoteMiddle]]:
    """A scripted cloud and a device's middle; afterwards the cloud holds no session and no stream."""
    with scripted(script, opens) as cloud:
        with met(cloud.target, patience, **more) as middle:
            middle.open()
            yield cloud, middle
        cloud.wait_for(lambda: not cloud.streams_open)
        assert not cloud.sessions


def send(middle: RemoteMiddle, first: int, stop: int, returned: int | None = None) -> int:
    returned = stop - first if returned is None else returned
    return middle.send(Upload(first, stop - first, STATES[first:stop], returned, "fp32"))


def answered(middle: RemoteMiddle) -> list[Reply]:
    """All replies, once they are there."""
    middle.wait_ready()
    assert middle.lost() is None, middle.lost()
    return middle.replies()


def rows(replies: list[Reply]) -> list[float]:
    """What came back, by the first number of each row."""
    return torch.cat([each.states for each in replies])[:, 0].tolist()


def are(first: int, stop: int) -> list[float]:
    return STATES[first:stop, 0].tolist()


def why_lost(middle: RemoteMiddle) -> CloudError:
    middle.wait_ready()
    middle.wait_free()
    lost = middle.lost()
    assert lost is not None
    return lost.error


# ---------------------------------------------------------------- all is well


@pytest.mark.parametrize("rtt", [None, 0.0, 40.0])
def test_uploads_are_answered_in_order_and_count_their_bytes(rtt: float | None) -> None:
    link = None if rtt is None else LinkEmulator(Radio(constant_link(rtt, 50.0, 50.0)))
    with world(emulator=link) as (cloud, middle):
        sizes = [send(middle, 0, 10, 0), send(middle, 10, 13)]
        replies = answered(middle)
        assert rows(replies) == are(10, 13)
        assert middle.ready()
        assert middle.free()
        sizes.append(send(middle, 12, 15))  # the last position is taken back
        replies += answered(middle)
        assert rows(replies) == are(10, 13) + are(12, 15)
        assert [each.uplink_bytes for each in replies] == sizes
        assert sizes[0] == on_the_link(forward_request_bytes(1, 0, 10, HIDDEN, "fp32", 0))
        assert [each.resent_bytes for each in replies] == [0, 0, 0]
        probe = middle.probe_seconds()
        assert probe is not None
        assert probe >= (rtt or 0.0) / 1e3
        assert (cloud.opened, cloud.streams) == (1, 1)


@pytest.mark.parametrize("emulated", [False, True])
def test_the_second_chunk_leaves_before_the_first_is_answered(emulated: bool) -> None:
    """The cloud answers none of them: who sends them one by one sends no second."""

    def says_nothing(cloud: Middle, request: Any, stream: int) -> Any:
        return False

    link = LinkEmulator(Radio(constant_link(10.0, 20.0, 20.0))) if emulated else None
    with world(says_nothing, Patience(), emulator=link) as (cloud, middle):
        for number in range(4):
            send(middle, 10 * number, 10 * number + 10, 0)
            middle.wait_free()
            assert middle.lost() is None
        cloud.wait_for(lambda: len(cloud.chunks) == 4)
        assert not middle.ready()


def test_the_radio_takes_one_upload_after_the_other() -> None:
    """Each takes 0.1 s: it is not free for the second before the first has left, nor for a third that was handed over at once."""
    size = on_the_link(forward_request_bytes(1, 0, 16, HIDDEN, "fp32", 0))
    link = LinkEmulator(Radio(constant_link(0.0, size * 8 / 1e6 / 0.1, 50.0)))
    with world(emulator=link) as (_, middle):
        while middle.probe_seconds() is None:
            time.sleep(0.005)
        began = time.monotonic()
        for number in range(3):
            send(middle, 16 * number, 16 * number + 16, 0)
            assert not middle.free()
        middle.wait_free()
        assert time.monotonic() - began >= 0.29
        answered(middle)


def test_without_an_emulated_link_an_upload_has_left_when_the_system_has_taken_it() -> None:
    """8 MB behind a cable that carries nothing, and whose buffers are small."""
    terms = Terms("0" * 16, "f" * 16, 4096, 512)
    with (
        scripted(terms=terms) as cloud,
        cable(int(cloud.target.split(":")[1]), _Narrow) as wire,
        met(wire.target, Patience(), terms=terms) as middle,
    ):
        middle.open()
        middle.send(Upload(0, 1, torch.ones(1, 4096), 1, "fp32"))
        assert len(answered(middle)[0].states) == 1
        wire.silence(True)
        middle.send(Upload(0, 512, torch.ones(512, 4096), 512, "fp32"))
        time.sleep(0.3)
        assert not middle.free()
        wire.silence(False)
        middle.wait_free()
        assert answered(middle)[0].states.shape == (512, 4096)  # and 8 MB come back


class _Narrow(Cable):
    """Takes little that it does not carry."""

    def _start(self, here: Any) -> None:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**18)
        super()._start(here)


def test_an_answer_begins_while_another_is_under_way_and_sees_nothing_of_it() -> None:
    held = threading.Event()

    def slow(cloud: Middle, request: Any, stream: int) -> Any:
        if request.prefix_length == 100:
            held.set()
            cloud.wait_for(lambda: cloud.opened == 2 and len(cloud.released) == 1)

    with world(slow) as (cloud, middle):
        send(middle, 0, 10)
        answered(middle)
        for first in range(10, 100, 10):
            send(middle, first, first + 10, 0)
        send(middle, 100, 103)
        held.wait(20)
        middle.open()
        assert middle.ready()
        assert middle.lost() is None
        send(middle, 0, 5)
        assert rows(answered(middle)) == are(0, 5)
        assert len(cloud.sessions) == 1


# ---------------------------------------------------------------- what is healed


def once(*numbers: int) -> Callable[[], bool]:
    """True at these calls, from 1."""
    calls = iter(range(1, 10_000))
    return lambda: next(calls) in numbers


@pytest.mark.parametrize("emulated", [False, True])
@pytest.mark.parametrize("answered_before", [0, 2])
def test_a_stream_that_breaks_is_replaced_and_the_rest_repeated_by_the_same_numbers(
    answered_before: int, emulated: bool
) -> None:
    broken = once(answered_before + 1)

    def breaks(cloud: Middle, request: Any, stream: int) -> Any:
        if broken():
            raise Broken

    link = LinkEmulator(Radio(constant_link(5.0, 20.0, 20.0))) if emulated else None
    with world(breaks, emulator=link) as (cloud, middle):
        sizes = [send(middle, first, first + 10) for first in range(0, 50, 10)]
        replies = answered(middle)
        assert rows(replies) == are(0, 50)
        assert cloud.streams == 2
        assert cloud.opened == 1
        repeated = [seq for stream, _, seq in cloud.chunks if stream == 2]
        assert repeated == list(range(answered_before + 1, 6))
        assert sizes[answered_before] <= sum(each.resent_bytes for each in replies) <= sum(sizes[answered_before:])


def test_what_is_handed_over_while_a_stream_is_replaced_waits_behind_the_repeats() -> None:
    """It was sent over the new stream at once, ahead of what it builds on."""
    broken = once(1)

    def breaks(cloud: Middle, request: Any, stream: int) -> Any:
        if broken():
            raise Broken

    with world(breaks, emulator=LinkEmulator(Radio(constant_link(0.0, 50.0, 50.0)))) as (cloud, middle):
        send(middle, 0, 10)
        cloud.wait_for(lambda: len(cloud.chunks) == 1)
        for first in range(10, 60, 10):
            time.sleep(0.03)
            send(middle, first, first + 10)
        assert rows(answered(middle)) == are(0, 60)
        assert [seq for stream, _, seq in cloud.chunks if stream == 2] == list(range(1, 7))


def test_a_stream_that_breaks_while_nothing_is_asked_is_not_even_noticed() -> None:
    with scripted() as cloud, cable(int(cloud.target.split(":")[1])) as wire, met(wire.target) as middle:
        middle.open()
        send(middle, 0, 10)
        assert rows(answered(middle)) == are(0, 10)
        wire.cut()
        cloud.wait_for(lambda: not cloud.streams_open)
        send(middle, 10, 20)
        assert rows(answered(middle)) == are(10, 20)
        assert cloud.opened == 1


@pytest.mark.parametrize("left", [10, 40, 100])
def test_a_session_that_is_lost_is_replaced_by_one_that_is_sent_all_states_before(left: int) -> None:
    with world() as (cloud, middle):
        for first in range(0, left, 10):
            send(middle, first, first + 10, 1)
        answered(middle)
        [lost] = cloud.sessions
        cloud.forget()
        before = len(cloud.chunks)
        size = send(middle, left - 3, left + 2)
        [reply] = answered(middle)
        assert rows([reply]) == are(left - 3, left + 2)
        [(session_id, held)] = cloud.sessions.items()
        assert session_id != lost
        assert held.states == STATES[: left + 2].numpy().tobytes()
        again = [request for request in cloud.chunks[before:] if request[1] == session_id]
        assert len(again) == math.ceil((left - 3) / MAX_ROWS) + 1
        assert reply.resent_bytes > size
        send(middle, left + 2, left + 4)
        assert answered(middle)[0].resent_bytes == 0


def test_a_session_is_lost_while_answers_of_it_cross_the_link() -> None:
    """They were still delivered, and took the places of others in the row of those that wait."""

    def loses(cloud: Middle, request: Any, stream: int) -> Any:
        if request.seq == 3 and cloud.opened == 1:
            cloud.forget()

    slow = LinkEmulator(Radio(constant_link(200.0, 50.0, 50.0)))
    with world(loses, emulator=slow) as (cloud, middle):
        for first in range(0, 60, 10):
            send(middle, first, first + 10)
        assert rows(answered(middle)) == are(0, 60)
        assert cloud.opened == 2


def test_a_session_that_is_lost_while_nothing_is_asked_is_replaced_for_the_next_upload() -> None:
    """The stream ended with it, and nobody opened another: the next upload waited for its deadline."""
    with world() as (cloud, middle):
        send(middle, 0, 10)
        answered(middle)
        cloud.forget()
        talk = middle._talk
        assert talk is not None
        lost = SessionLostError("by itself")
        middle._agenda.put(lambda: talk._do(lambda: talk._heard(talk._streams._open[0], lost)))  # type: ignore[union-attr]
        cloud.wait_for(lambda: cloud.opened == 2)
        send(middle, 10, 20)
        assert rows(answered(middle)) == are(10, 20)


def test_a_cloud_that_is_busy_is_asked_again_when_it_says() -> None:
    busy, asked = once(2), list[float]()

    def is_busy(cloud: Middle, request: Any, stream: int) -> Any:
        asked.append(time.monotonic())
        if busy():
            raise Refusal(CloudBusyError, "full", synera_retry_after_ms="400")

    with world(is_busy) as (cloud, middle):
        send(middle, 0, 10)
        answered(middle)
        send(middle, 10, 20)
        assert rows(answered(middle)) == are(10, 20)
        assert asked[2] - asked[1] >= 0.4
        assert cloud.opened == 1


def test_a_cloud_that_has_no_place_is_asked_again_with_the_same_key() -> None:
    def full(cloud: Middle, number: int) -> None:
        if number < 3:
            raise Refusal(CloudBusyError, "no place", synera_retry_after_ms="50") if number == 1 else Broken

    with world(opens=full) as (cloud, middle):
        send(middle, 0, 10)
        assert rows(answered(middle)) == are(0, 10)
        assert cloud.opened == 3
        assert len(cloud.keys) == 1


@pytest.mark.parametrize("kind", [CloudRejectedError, CloudError])
def test_a_session_that_takes_no_repeats_or_failed_is_replaced_once(kind: type[CloudError]) -> None:
    """A cloud remembers the last chunks alone: of more than those the answers may have got lost on the way."""
    refused = once(2)

    def forgot(cloud: Middle, request: Any, stream: int) -> Any:
        if refused():
            raise Refusal(kind, "seq=2 is out of order")

    with world(forgot) as (cloud, middle):
        send(middle, 0, 10)
        send(middle, 10, 20)
        assert rows(answered(middle)) == are(0, 20)
        assert cloud.opened == 2
        cloud.wait_for(lambda: len(cloud.released) == 1)  # the other one


def test_a_repeat_whose_answer_the_cloud_has_forgotten_is_healed_by_a_new_session_at_once() -> None:
    """Of many long answers a cloud keeps only some."""
    broken = once(3)

    def forgets(cloud: Middle, request: Any, stream: int) -> Any:
        if cloud.opened == 1 and stream == 2:
            raise Refusal(SessionLostError, "the answer to seq=3 had to make way for others")
        if broken():
            cloud.honest(request)  # it is run, and its answer gets lost
            raise Broken

    with world(forgets) as (cloud, middle):
        for first in range(0, 50, 10):
            send(middle, first, first + 10)
        assert rows(answered(middle)) == are(0, 50)
        assert cloud.opened == 2
        cloud.wait_for(lambda: len(cloud.released) == 1)
        [held] = cloud.sessions.values()
        assert held.states == STATES[:50].numpy().tobytes()


def test_a_silent_stream_is_joined_by_one_over_the_other_channel_and_the_first_answer_counts() -> None:
    silent = threading.Event()

    def says_nothing(cloud: Middle, request: Any, stream: int) -> Any:
        if stream == 1 and request.seq >= 2:
            silent.set()
            return False
        return None

    with world(says_nothing) as (cloud, middle):
        for first in range(0, 40, 10):
            send(middle, first, first + 10)
        replies = answered(middle)
        assert rows(replies) == are(0, 40)
        assert silent.is_set()
        assert cloud.streams == 2
        assert sum(each.resent_bytes for each in replies) > 0
        cloud.wait_for(lambda: cloud.streams_open == 1)
        send(middle, 40, 50)
        assert rows(answered(middle)) == are(40, 50)
        assert cloud.streams == 2


def test_a_cloud_that_is_slow_answers_over_the_stream_that_it_was_asked_by() -> None:
    """It was asked anew before it could answer, over and over, until the deadline: each time it began again."""

    def slow(cloud: Middle, request: Any, stream: int) -> Any:
        if stream == 1 and request.seq == 1:
            time.sleep(0.8)
            return None
        return False if stream > 1 else None

    with world(slow) as (cloud, middle):
        send(middle, 0, 10)
        send(middle, 10, 20)
        assert rows(answered(middle)) == are(0, 20)
        assert cloud.opened == 1
        cloud.wait_for(lambda: cloud.streams_open == 1)


def test_a_silence_that_begins_behind_an_answer_is_noticed() -> None:
    """What was written before that answer was looked after once, too early, and then never again."""

    def first_alone(cloud: Middle, request: Any, stream: int) -> Any:
        if stream == 1 and request.seq == 1:
            time.sleep(0.2)
            return None
        return False if stream == 1 else None

    with world(first_alone) as (cloud, middle):
        send(middle, 0, 10)
        send(middle, 10, 20)
        assert rows(answered(middle)) == are(0, 20)
        assert cloud.streams == 2


def test_a_dead_connection_is_left_for_the_other() -> None:
    """Nothing gets through, and nobody says so: neither a stream nor an Open that goes the same way is any better."""
    with scripted() as cloud, cable(int(cloud.target.split(":")[1]), _OneDead) as wire, met(wire.target) as middle:
        middle.open()
        send(middle, 0, 10)
        assert rows(answered(middle)) == are(0, 10)
        wire.silence(True)  # connections that were made before
        send(middle, 10, 20)
        assert rows(answered(middle)) == are(10, 20)
        assert cloud.streams == 2
        middle.open()
        send(middle, 0, 10)
        assert rows(answered(middle)) == are(0, 10)


class _OneDead(Cable):
    """Silence is for the connections that there are, others carry."""

    _dead: frozenset[Any] = frozenset()

    def silence(self, silent: bool) -> None:
        with self._lock:
            self._dead = frozenset(self._open) if silent else frozenset()

    def _pump(self, source: Any, sink: Any) -> None:
        super()._pump(_Waits(source, lambda: source in self._dead), sink)


class _Waits:
    """A socket that gives nothing while it is held up."""

    def __init__(self, source: Any, held_up: Callable[[], bool]) -> None:
        self._source, self._held_up = source, held_up

    def recv(self, size: int) -> Any:
        data = self._source.recv(size)
        while self._held_up():
            time.sleep(0.01)
        return data

    def __hash__(self) -> int:
        return hash(self._source)

    def __eq__(self, other: object) -> bool:
        return other is self._source

    def shutdown(self, how: int) -> None:
        self._source.shutdown(how)


def test_an_outage_of_the_emulated_link_is_tried_again_ever_later() -> None:
    sent: list[float] = []

    class Gap(Radio):
        def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
            if size_bytes:
                sent.append(at_seconds)
            return super().uplink_seconds(at_seconds, size_bytes)

    asked: list[float] = []
    radio = Gap(constant_link(0.0, 50.0, 50.0), outages=((0.0, 0.3), (0.6, 1.0)))
    reachable = radio.reachable

    def noted(at_seconds: float) -> bool:
        asked.append(at_seconds)
        return reachable(at_seconds)

    object.__setattr__(radio, "reachable", noted)
    with world(emulator=LinkEmulator(radio)) as (cloud, middle):
        send(middle, 0, 10)
        assert rows(answered(middle)) == are(0, 10)
        tries = [at for at in asked if at < 0.6]
        assert [round(b - a, 1) >= wait for a, b, wait in zip(tries, tries[1:], (0.0, 0.1, 0.2), strict=False)] == [True] * 3
        assert all(at >= 0.3 for at in sent)
        assert cloud.opened == 1


# ---------------------------------------------------------------- what is told


def nan(request: Any) -> Any:
    return echo(request, states=struct.pack("<f", math.nan) * (request.returned * HIDDEN))


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another number": (lambda request: echo(request, seq=request.seq + 1), "answers chunk 3, whose turn it is not"),
    "a number that was": (lambda request: echo(request, seq=1), "answers chunk 1, whose turn it is not"),
    "too few states": (lambda request: echo(request, states=b"1234"), "4 bytes of states, not the 320"),
    "too many states": (lambda request: echo(request, states=b"1" * 400), "400 bytes of states"),
    "no numbers": (nan, "not finite"),
    "a negative time": (lambda request: echo(request, queue_ms=-1.0), "queue_ms=-1"),
    "no time": (lambda request: echo(request, forward_ms=None), "forward_ms is missing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_ends_it(name: str) -> None:
    wrong, says = WRONG[name]

    def answers(cloud: Middle, request: Any, stream: int) -> Any:
        return wrong(request) if request.seq == 2 else None

    with world(answers) as (_, middle):
        send(middle, 0, 10)
        answered(middle)
        send(middle, 10, 20)
        error = why_lost(middle)
        assert isinstance(error, BadAnswerError), error
        assert re.search(says, str(error))
        assert middle.replies() == []
        send(middle, 20, 30)  # nothing comes of it, and at once
        assert why_lost(middle) is error
        middle.open()
        send(middle, 0, 5)
        assert rows(answered(middle)) == are(0, 5)


def test_one_answer_too_many_ends_it() -> None:
    with world() as (_, middle):
        send(middle, 0, 10)
        answered(middle)
        talk = middle._talk
        assert talk is not None
        extra = pb.ForwardResponse(seq=2)
        middle._agenda.put(lambda: talk._do(lambda: talk._heard(talk._streams._open[0], extra)))  # type: ignore[union-attr]
        assert middle.lost() is None  # what was asked for is there
        send(middle, 10, 20)
        assert isinstance(why_lost(middle), BadAnswerError)


@pytest.mark.parametrize("kind", [UnauthenticatedError, CloudRejectedError, CloudError])
def test_what_does_not_pass_by_itself_ends_it(kind: type[CloudError]) -> None:
    def refuses(cloud: Middle, request: Any, stream: int) -> Any:
        raise Refusal(kind, "for good")

    with world(refuses) as (cloud, middle):
        send(middle, 0, 10)
        error = why_lost(middle)
        assert type(error) is kind
        assert "for good" in str(error)
        assert cloud.opened == (1 if kind is UnauthenticatedError else 2)


@pytest.mark.parametrize("when", ["first", "later"])
def test_a_cloud_of_another_model_ends_it_and_its_session_is_released(when: str) -> None:
    def another(cloud: Middle, number: int) -> Any:
        if number == (1 if when == "first" else 2):
            return pb.OpenResponse(session_id=f"{number:032x}", lease_seconds=60, fingerprint="feed")
        return None

    with world(opens=another) as (cloud, middle):
        send(middle, 0, 10)
        if when == "later":
            answered(middle)
            cloud.forget()
            send(middle, 10, 20)
        error = why_lost(middle)
        assert isinstance(error, ModelChangedError)
        assert "now serves the model 'feed'" in str(error)


def test_a_cloud_of_another_tokenizer_is_another_model() -> None:
    def another(cloud: Middle, number: int) -> Any:
        raise Refusal(TokenizerMismatchError, "another tokenizer")

    with world(opens=another) as (_, middle):
        send(middle, 0, 10)
        assert isinstance(why_lost(middle), ModelChangedError)


@pytest.mark.parametrize(
    ("says", "kind", "why"),
    [
        (lambda *_: False, LateError, "did not answer in time"),
        (Broken(), CloudUnavailableError, "no verifier answers"),
        (Refusal(SessionLostError, "gone"), SessionLostError, "gone"),
        (Refusal(CloudBusyError, "full", synera_retry_after_ms="100"), CloudBusyError, "full"),
        (Refusal(CloudBusyError, "full", synera_retry_after_ms="60000"), CloudBusyError, "full"),
    ],
)
def test_a_cloud_that_goes_on_failing_is_lost_at_the_deadline_with_the_reason(says: Any, kind: Any, why: str) -> None:
    def fails(cloud: Middle, request: Any, stream: int) -> Any:
        if isinstance(says, Exception):
            raise says
        return False

    patience = BRIEF if kind is LateError else UNTIL_LATE
    with world(fails, patience) as (cloud, middle):
        began = time.monotonic()
        send(middle, 0, 10)
        error = why_lost(middle)
        assert isinstance(error, kind), error
        assert why in str(error)
        assert time.monotonic() - began >= patience.longest_seconds
        assert cloud.streams < 20


def test_nobody_there_is_lost_at_the_deadline_and_left_alone_after_it() -> None:
    with met("127.0.0.1:9", BRIEF) as middle:
        middle.open()
        send(middle, 0, 10)
        error = why_lost(middle)
        assert "no verifier answers at 127.0.0.1:9" in str(error)
        agenda = middle._agenda
        assert agenda is not None
        assert not agenda._timers


def test_an_outage_without_an_end_is_told_as_that() -> None:
    radio = Radio(constant_link(0.0, 50.0, 50.0), outages=((0.0, math.inf),))
    with world(None, BRIEF, emulator=LinkEmulator(radio)) as (cloud, middle):
        send(middle, 0, 10)
        assert isinstance(why_lost(middle), LinkDownError)
        assert cloud.opened == 0


# ---------------------------------------------------------------- how it ends


def test_an_open_that_hangs_is_asked_again_and_nothing_of_it_is_left() -> None:
    def hangs(cloud: Middle, number: int) -> None:
        if number == 1:
            cloud.wait_for(lambda: cloud.opened == 2)

    with world(opens=hangs) as (_, middle):
        send(middle, 0, 10)
        assert rows(answered(middle)) == are(0, 10)


def test_who_leaves_while_the_answer_to_an_open_crosses_the_link_leaves_no_session() -> None:
    with world(emulator=LinkEmulator(Radio(constant_link(1000.0, 50.0, 50.0)))) as (cloud, middle):
        cloud.wait_for(lambda: bool(cloud.sessions))
        assert middle.probe_seconds() is None


@pytest.mark.parametrize("ends", ["close", "shutdown"])
def test_who_waits_while_it_is_closed_is_told(ends: str) -> None:
    with world(lambda *_: False) as (cloud, middle):
        send(middle, 0, 10)
        cloud.wait_for(lambda: len(cloud.chunks) == 1)
        found: list[CloudError] = []
        waiting = threading.Thread(target=lambda: found.append(why_lost(middle)))
        waiting.start()
        getattr(middle, ends)()
        waiting.join(20)
        [error] = found
        assert isinstance(error, GivenUpError)
        send(middle, 10, 20)
        assert isinstance(why_lost(middle), GivenUpError)
        cloud.wait_for(lambda: not cloud.sessions)


def test_a_release_that_is_not_heard_is_asked_for_again() -> None:
    """The connection broke as an answer ended: its session took a place until its lease was over."""
    with world() as (cloud, middle):
        send(middle, 0, 10)
        answered(middle)
        cloud.deaf = 2


def test_a_release_that_is_never_heard_is_made_up_for_by_the_next_session() -> None:
    leftovers = Leftovers()
    with scripted() as cloud:
        with met(cloud.target, leftovers=leftovers) as middle:
            middle.open()
            send(middle, 0, 10)
            answered(middle)
            cloud.deaf = 1_000_000
        assert len(cloud.sessions) == len(leftovers) == 1
        cloud.deaf = 0
        with met(cloud.target, leftovers=leftovers) as middle:
            middle.open()
            send(middle, 0, 10)
            answered(middle)
            cloud.wait_for(lambda: len(cloud.sessions) == 1)
        assert not cloud.sessions
        assert not len(leftovers)


def test_a_silent_cloud_does_not_hold_up_the_end() -> None:
    with scripted() as cloud, cable(int(cloud.target.split(":")[1])) as wire, met(wire.target) as middle:
        middle.open()
        send(middle, 0, 10)
        answered(middle)
        wire.silence(True)
        began = time.monotonic()
        middle.shutdown()
        assert time.monotonic() - began < 10  # the deadline of a Close, whatever the machine


def test_a_bug_is_told_and_the_next_answer_is_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with world() as (_, middle):
        talk = middle._talk
        monkeypatch.setattr(talk, "_transmit", lambda: 1 / 0)
        send(middle, 0, 10)
        assert "a bug in the device: ZeroDivisionError" in str(why_lost(middle))
        assert "the thread that talks to the cloud died" in caplog.text
        middle.open()
        send(middle, 0, 10)
        assert rows(answered(middle)) == are(0, 10)


def test_a_closed_client_ends_it() -> None:
    with scripted() as cloud, CloudClient(cloud.target) as client, RemoteMiddle(client, TERMS, patience=QUICK) as middle:
        middle.open()
        send(middle, 0, 10)
        answered(middle)
        client.close()
        send(middle, 10, 20)
        assert "was closed" in str(why_lost(middle))
