"""The streams of a session against a scripted cloud: what is sent once, which are ended, and what is told of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from runtime.client import CloudClient
from runtime.errors import CloudBusyError, CloudUnavailableError
from runtime.hat.streams import Stream, Streams
from runtime.wire import synera_pb2 as pb
from tests.support.middles import HIDDEN, TERMS, Middle, Refusal, Script, scripted


@dataclass
class Heard:
    """What the streams told, and which chunks have gone."""

    streams: Streams
    cloud: Middle
    client: CloudClient
    session_id: str
    told: queue.SimpleQueue[tuple[Stream, Any]] = field(default_factory=queue.SimpleQueue)
    gone: list[int] = field(default_factory=list)

    def put(self, seq: int) -> None:
        states = bytes([seq % 7] * (4 * HIDDEN))
        self.streams.put(
            pb.ForwardRequest(session_id=self.session_id, seq=seq, prefix_length=seq - 1, states=states, returned=1)
        )

    def next(self) -> tuple[Stream, Any]:
        return self.told.get(timeout=20)


@contextmanager
def world(script: Script | None = None) -> Iterator[Heard]:
    """Afterwards no thread of a stream is left, and the cloud has none open."""
    with scripted(script) as cloud, CloudClient(cloud.target) as client:
        session_id = client.open(TERMS.tokenizer_hash).session_id
        heard = Heard(None, cloud, client, session_id)  # type: ignore[arg-type]
        heard.streams = Streams(client, lambda *said: heard.told.put(said), lambda _, seq: heard.gone.append(seq))
        try:
            yield heard
        finally:
            heard.streams.end()
            heard.streams.join()
            assert not heard.streams
            cloud.wait_for(lambda: not cloud.streams_open)
            assert not [each for each in threading.enumerate() if each.name == "states"]


def silent_on(*numbers: int) -> Callable[[Middle, Any, int], Any]:
    return lambda cloud, request, stream: False if stream in numbers else None


def test_the_first_chunk_begins_a_stream_and_a_repeat_over_it_is_not_sent() -> None:
    with world() as heard:
        assert not heard.streams
        for seq in (1, 2, 1, 2, 3):
            heard.put(seq)
        answers = [heard.next() for _ in range(3)]
        assert [said.seq for _, said in answers] == [1, 2, 3]
        assert len({stream for stream, _ in answers}) == 1
        assert answers[0][0] in heard.streams
        assert [seq for _, _, seq in heard.cloud.chunks] == [1, 2, 3]
        assert heard.gone[:2] == [1, 2]


def test_another_is_over_the_other_channel_and_is_sent_what_the_first_has_had() -> None:
    with world(silent_on(1)) as heard:
        heard.put(1)
        heard.cloud.wait_for(lambda: len(heard.cloud.chunks) == 1)
        heard.streams.begin_another()
        heard.put(1)
        stream, said = heard.next()
        assert (said.seq, heard.cloud.streams) == (1, 2)
        assert stream.channel != heard.client.preferred
        heard.streams.keep(stream)
        assert heard.client.preferred == stream.channel
        heard.cloud.wait_for(lambda: heard.cloud.streams_open == 1)
        heard.put(2)
        while not isinstance(said, pb.ForwardResponse) or said.seq != 2:  # the one that was ended tells its end, too
            stream, said = heard.next()
        assert stream in heard.streams


def test_no_more_than_two_are_kept() -> None:
    with world(silent_on(1, 2, 3)) as heard:
        heard.put(1)
        for number in (2, 3):
            heard.streams.begin_another()
            heard.put(1)
            heard.cloud.wait_for(lambda number=number: heard.cloud.streams == number)  # type: ignore[misc]
        heard.cloud.wait_for(lambda: heard.cloud.streams_open == 2)
        channels = [each.channel for each in heard.streams._open]
        assert sorted(channels) == [0, 1]


def test_the_error_that_ends_a_stream_is_told_last_as_what_it_stands_for() -> None:
    def busy(cloud: Middle, request: Any, stream: int) -> Any:
        if request.seq == 2:
            raise Refusal(CloudBusyError, "full", synera_retry_after_ms="1500")

    with world(busy) as heard:
        heard.put(1)
        heard.put(2)
        stream, first = heard.next()
        _, error = heard.next()
        assert first.seq == 1
        assert isinstance(error, CloudBusyError)
        assert error.retry_after_seconds == 1.5
        heard.streams.drop(stream)
        assert stream not in heard.streams
        assert not heard.streams


def test_a_stream_that_the_cloud_ends_by_itself_is_told_as_unavailable() -> None:
    with scripted() as cloud, CloudClient(cloud.target) as client:
        said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stream = Stream(client, 0, lambda _, what: said.put(what), lambda *_: None)
        stream._messages.put(None)  # so that the cloud has no more to wait for
        assert isinstance(said.get(timeout=20), CloudUnavailableError)
        stream.end()
        stream.join()
