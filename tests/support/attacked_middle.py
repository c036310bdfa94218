"""A server of the middle of a split model on the test's own event loop, and an honest device of it that heals by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import grpc
import torch
from torch import Tensor

from runtime.wire import synera_pb2 as pb
from runtime.wire.tensors import decoded, encoded
from tests.support.attacked import World
from tests.support.engine import HIDDEN, FakeForward, FakeMiddle, after_middle, fake_middle

MAX_ROWS = 16
HEALED = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED}
"""Statuses that say how an honest device gets its answer all the same."""


def states_of(number: int, count: int) -> Tensor:
    """A device's own states [count, HIDDEN], whole numbers."""
    return (torch.arange(count * HIDDEN).reshape(count, HIDDEN) * (number + 3)).float() % 11


class MiddleWorld(World):
    """See there; its cache has room for so many blocks."""

    blocks = 400

    def _made(self, context_tokens: int) -> tuple[Any, FakeForward]:
        forward = FakeMiddle(self.blocks)
        return fake_middle(forward, context_tokens=context_tokens, max_rows=MAX_ROWS), forward

    @property
    def room(self) -> Any:
        return self.server._forwarding.room

    async def answered(self, device: Any, number: int, count: int = 60) -> Tensor:
        """What a device gets of its states: a prompt in chunks that are sent ahead, then four at a time; and how often it had to heal."""
        states = states_of(number, count)
        self.healed = 0
        while True:
            session_id = await self.session(device)
            try:
                parts = await self._asked(device, session_id, states)
            except grpc.aio.AioRpcError as error:
                if error.code() not in HEALED and not (error.details() or "").startswith("Internal error from Core"):
                    raise  # grpcio's own words for a stream that was ended while it was sent, whose status it forgets
                self.healed += 1
                await asyncio.sleep(0.05)
            else:
                return torch.cat(parts)
            finally:
                await device.Close(pb.CloseRequest(session_id=session_id), timeout=30)

    async def _asked(self, device: Any, session_id: str, states: Tensor) -> list[Tensor]:
        half = len(states) // 2
        cuts = [*range(0, half, MAX_ROWS), *range(half, len(states), 4), len(states)]
        chunks = [
            pb.ForwardRequest(
                session_id=session_id,
                seq=seq,
                prefix_length=first,
                states=encoded(states[first:stop], "fp32"),
                returned=stop - first,
            )
            for seq, (first, stop) in enumerate(pairwise(cuts), 1)
        ]

        async def sent() -> AsyncIterator[Any]:
            for each in chunks:
                yield each

        answers = [each async for each in device.Forward(sent(), timeout=30)]
        assert [each.seq for each in answers] == [each.seq for each in chunks]
        return [decoded(each.states, HIDDEN, "fp32") for each in answers]

    async def is_well(self) -> None:
        """A newcomer is served, and at once."""
        device = self.device()
        await device.ModelInfo(pb.ModelInfoRequest(), timeout=30, wait_for_ready=True)
        assert torch.equal(await self.answered(device, 1), after_middle(states_of(1, 60)))
        assert not self.healed


class SmallMiddleWorld(MiddleWorld):
    """One whose cache soon is full."""

    blocks = 48
