"""What one process sends the other gets whole and in order, however the bytes are cut; and each learns that the other is gone."""

from __future__ import annotations

import asyncio
import pickle
import socket
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.engine.process.channel import Channel, _frame, receive_now, send_now

MESSAGE = st.recursive(st.none() | st.integers() | st.text(max_size=5) | st.binary(max_size=300), st.lists, max_leaves=5)


@given(st.lists(st.lists(MESSAGE, min_size=1, max_size=4), max_size=5), st.lists(st.integers(0, 4000), max_size=12))
def test_frames_come_whole_and_in_order_however_they_are_cut(batches: list[list[Any]], cuts: list[int]) -> None:
    got: list[list[Any]] = []
    channel = Channel(got.append, lambda: None)
    data = b"".join(map(_frame, batches))
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for begin, end in pairwise(places):
        channel.data_received(data[begin:end])
    assert got == batches


def test_what_is_sent_in_one_turn_goes_as_one() -> None:
    async def live() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            channel = Channel(lambda messages: None, lambda: None)
            await channel.connect(ours)
            for number in range(3):
                channel.send(number)
            assert await asyncio.to_thread(receive_now, theirs) == [0, 1, 2]
            channel.send("last")
            channel.close()  # sends what is unsent
            assert await asyncio.to_thread(receive_now, theirs) == ["last"]
            with pytest.raises(EOFError):
                await asyncio.to_thread(receive_now, theirs)

    asyncio.run(live())


@pytest.mark.parametrize("closed_here", [False, True])
def test_that_the_other_process_has_gone_is_told_once_unless_this_end_was_closed(closed_here: bool) -> None:
    async def live() -> None:
        gone: list[bool] = []
        ours, theirs = socket.socketpair()
        channel = Channel(lambda messages: None, lambda: gone.append(True))
        await channel.connect(ours)
        if closed_here:
            channel.close()
        theirs.close()
        while not (gone or closed_here):
            await asyncio.sleep(0.001)
        channel.send("into the void")
        await asyncio.sleep(0.01)
        assert gone == ([] if closed_here else [True])
        channel.close()

    asyncio.run(live())


def test_before_there_is_a_loop_objects_are_sent_and_received_as_they_are() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_now(ours, {"a": [1, 2]})
        assert receive_now(theirs) == {"a": [1, 2]}
        ours.sendall(pickle.dumps("half a frame")[:3])
        ours.close()
        with pytest.raises(EOFError):
            receive_now(theirs)
