"""The device's side of a split model, for tests of the cloud's: its ends, and a stream of chunks that is written and read by hand."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import grpc
import torch
from torch import Tensor

from runtime.model.decoder import Decoder
from runtime.model.split import Split
from runtime.wire import synera_pb2 as pb
from runtime.wire import synera_pb2_grpc
from runtime.wire.sizes import PRECISIONS
from runtime.wire.tensors import decoded, encoded

SECONDS = 60


class Chunks:
    """One stream of chunks of a session."""

    def __init__(self, stub: synera_pb2_grpc.SyneraStub, session_id: str, hidden: int, precision: str = "fp32") -> None:
        self.session_id, self.seq = session_id, 0
        self._hidden, self._precision = hidden, precision
        self._sent: queue.SimpleQueue[pb.ForwardRequest | None] = queue.SimpleQueue()
        self.call = stub.Forward(self._requests(), timeout=SECONDS)

    def _requests(self) -> Iterator[pb.ForwardRequest]:
        while (request := self._sent.get()) is not None:
            yield request

    def request(self, states: Tensor, prefix: int, returned: int, seq: int | None = None) -> pb.ForwardRequest:
        """The next chunk of the session, or that of a number."""
        self.seq = self.seq + 1 if seq is None else seq
        return pb.ForwardRequest(
            session_id=self.session_id,
            seq=self.seq,
            prefix_length=prefix,
            states=encoded(states, self._precision),
            precision=PRECISIONS.index(self._precision),  # type: ignore[arg-type]  # an enum's number is one
            returned=returned,
        )

    def send(self, request: pb.ForwardRequest) -> None:
        self._sent.put(request)

    def read(self) -> tuple[pb.ForwardResponse, Tensor]:
        """The next answer and its states."""
        answer: pb.ForwardResponse = next(self.call)
        return answer, decoded(answer.states, self._hidden, self._precision)

    def ask(self, states: Tensor, prefix: int, returned: int) -> Tensor:
        self.send(self.request(states, prefix, returned))
        return self.read()[1]

    def end(self) -> list[pb.ForwardResponse]:
        """Send no more; return what is still answered."""
        self._sent.put(None)
        return list(self.call)

    def refusal(self) -> tuple[grpc.StatusCode, str]:
        """Read on until the stream is refused."""
        try:
            for _ in self.call:
                pass
        except grpc.RpcError:
            pass
        self._sent.put(None)
        return self.call.code(), self.call.details()


class Device:
    """The ends of a split model, whose middle is at the other end of a stream."""

    def __init__(self, ends: Decoder, split: Split, chunks: Chunks) -> None:
        self._ends, self._split, self._chunks = ends, split, chunks
        self._kv = ends.new_cache()
        self.held = 0
        """Positions that both sides hold."""

    def shallow(self, ids: Tensor) -> Tensor:
        """States of the next positions, as they leave the first layers."""
        places = torch.arange(self.held, self.held + len(ids))
        self.held += len(ids)
        return self._ends.run(self._ends.embed(ids), places, self._kv, 0, self._split.first)

    def logits(self, deep: Tensor) -> Tensor:
        """Of the last positions, by their states as they leave the middle."""
        places, cut = torch.arange(self.held - len(deep), self.held), self._ends.config.layers - self._split.last
        return self._ends.logits(self._ends.run(deep, places, self._kv, cut))

    def truncate(self, length: int) -> None:
        self._kv.truncate(length)
        self.held = length

    def prompt(self, ids: Tensor, sizes: int) -> int:
        """Send a prompt ahead, in chunks of so many positions; return the next token."""
        want_all = self._split.last > 0  # whose keys and values the device's last layers need
        last = torch.empty(0)
        parts = ids.split(sizes)
        sent = list[int]()
        for part in parts:
            prefix = self.held
            returned = len(part) if want_all or part is parts[-1] else 0
            self._chunks.send(self._chunks.request(self.shallow(part), prefix, returned))
            sent.append(len(part))
        end, self.held = self.held, self.held - sum(sent)
        for size in sent:
            self.held += size
            _, deep = self._chunks.read()
            if len(deep):
                last = self.logits(deep)
        assert self.held == end
        return int(last[-1].argmax())

    def run(self, ids: Tensor) -> list[int]:
        """Token after each of these, at once."""
        prefix = self.held
        deep = self._chunks.ask(self.shallow(ids), prefix, len(ids))
        return self.logits(deep).argmax(-1).tolist()


def greedy_of(whole: Decoder, prompt: Tensor, count: int) -> list[int]:
    """What the whole model writes, without stopping at an end."""
    kv, ids, answer = whole.new_cache(), prompt, list[int]()
    for _ in range(count):
        places = torch.arange(kv.lengths[0], kv.lengths[0] + len(ids))
        answer.append(int(whole.logits(whole.run(whole.embed(ids), places, kv)[-1:]).argmax()))
        ids = torch.tensor(answer[-1:])
    return answer
