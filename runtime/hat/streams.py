"""gRPC streams that carry the chunks of one session, each on a thread: one, or two where the first is silent.

What does not live here: what is sent when (talk.py), chunks and their numbers (uploads.py), channels (runtime/channels.py).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from runtime.client import CloudClient
from runtime.errors import CloudUnavailableError
from runtime.wire import synera_pb2 as pb

Told = Callable[["Stream", Any], None]
"""Called on the stream's thread with each answer, and with the error that ended it, which is last."""
Gone = Callable[["Stream", int], None]
"""Called on a thread of gRPC's when the last byte of a chunk, by its number, was handed to the system."""


class Stream:
    """What is put goes out, what comes in is told."""

    def __init__(self, client: CloudClient, channel: int, told: Told, gone: Gone) -> None:
        """Begin one over a channel of the client.

        Raises:
            CloudUnavailableError: the client is closed.
        """
        self.channel, self._client, self._told, self._gone = channel, client, told, gone
        self._messages: queue.SimpleQueue[pb.ForwardRequest | None] = queue.SimpleQueue()
        self._last_seq = 0
        self._call = client.forward(self._outgoing(), channel)
        self._reader = threading.Thread(target=self._read, name="states", daemon=True)
        self._reader.start()

    def put(self, message: pb.ForwardRequest) -> None:
        """Send a chunk, unless it was put before."""
        if message.seq > self._last_seq:
            self._last_seq = message.seq
            self._messages.put(message)

    def end(self) -> None:
        """Have it end; what it still tells is not to be listened to."""
        self._messages.put(None)
        self._call.cancel()

    def join(self) -> None:
        """Wait for its thread, once it was ended."""
        self._reader.join()

    def _outgoing(self) -> Iterator[pb.ForwardRequest]:
        while (message := self._messages.get()) is not None:
            yield message
            self._gone(self, message.seq)  # gRPC asks for the next one when it has written this one

    def _read(self) -> None:
        try:
            for answer in self._call:
                self._told(self, answer)
        except grpc.RpcError as error:
            self._told(self, self._client.error_of(error))
        else:
            self._told(self, CloudUnavailableError("the verifier ended the stream"))
        finally:
            self._messages.put(None)


class Streams:
    """Those of one session. Used by one thread."""

    def __init__(self, client: CloudClient, told: Told, gone: Gone) -> None:
        self._client, self._told, self._gone = client, told, gone
        self._open: list[Stream] = []
        self._ended: list[Stream] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    def __contains__(self, stream: Stream) -> bool:
        return stream in self._open

    def put(self, message: pb.ForwardRequest) -> None:
        """Send a chunk over all of them that have not had it; the first begins where there is none."""
        if not self._open:
            self._begin(self._client.preferred)
        for each in self._open:
            each.put(message)

    def begin_another(self) -> None:
        """Begin one beside the newest, over the other channel: on its own a repeat would wait behind what TCP still tries to send."""
        newest = self._open[-1]
        for each in self._open[:-1]:
            self._end(each)
        self._begin(1 - newest.channel)

    def keep(self, stream: Stream) -> None:
        """End all but one, which has answered."""
        self._client.prefer(stream.channel)
        for each in [each for each in self._open if each is not stream]:
            self._end(each)

    def drop(self, stream: Stream) -> None:
        """One is over."""
        self._end(stream)

    def end(self) -> None:
        """End all."""
        for each in list(self._open):
            self._end(each)

    def join(self) -> None:
        """Wait until the threads of all that were ended are over."""
        for each in self._ended:
            each.join()
        self._ended.clear()

    def _begin(self, channel: int) -> None:
        self._open.append(Stream(self._client, channel, self._told, self._gone))

    def _end(self, stream: Stream) -> None:
        stream.end()
        self._open.remove(stream)
        self._ended.append(stream)
