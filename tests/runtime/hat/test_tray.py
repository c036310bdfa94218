"""What a device sees of its uploads: free, ready, replies in order, and why there will be no more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from runtime.errors import CloudError, LateError
from runtime.hat.tray import Tray


def reply(number: int) -> Any:
    """One is as good as another here."""
    return number


def waits(work: Callable[[], object]) -> threading.Thread:
    waiting = threading.Thread(target=work, daemon=True)
    waiting.start()
    return waiting


def test_free_is_when_all_has_left_and_ready_when_all_is_answered() -> None:
    tray = Tray()
    assert (tray.free, tray.ready, tray.take()) == (True, True, [])
    tray.handed()
    tray.handed()
    assert (tray.free, tray.ready) == (False, False)
    tray.left()
    tray.replied(reply(1))
    assert (tray.free, tray.ready) == (False, False)
    tray.left()
    assert (tray.free, tray.ready) == (True, False)
    tray.replied(reply(2))
    assert tray.ready
    assert tray.take() == [1, 2]
    assert tray.take() == []


@pytest.mark.parametrize("what", ["free", "ready"])
@pytest.mark.parametrize("lost", [False, True])
def test_who_waits_goes_on_when_it_is_so_or_will_never_be(what: str, lost: bool) -> None:
    tray = Tray()
    tray.handed()
    waiting = waits(getattr(tray, f"wait_{what}"))
    waiting.join(0.05)
    assert waiting.is_alive()
    if lost:
        tray.lose(CloudError("gone"))
    elif what == "free":
        tray.left()
    else:
        tray.replied(reply(1))
    waiting.join(20)
    assert not waiting.is_alive()


def test_the_first_reason_stands_and_is_told_while_something_has_no_answer() -> None:
    tray = Tray()
    first, second = LateError("late"), CloudError("another")
    tray.lose(first)
    tray.lose(second)
    assert tray.lost is None  # nothing was asked for
    tray.handed()
    lost = tray.lost
    assert lost is not None
    assert lost.error is first
    assert (tray.free, tray.ready) == (True, True)


def test_what_was_answered_before_the_cloud_was_lost_is_there() -> None:
    tray = Tray()
    tray.handed()
    tray.replied(reply(1))
    tray.lose(CloudError("gone"))
    assert tray.lost is None
    assert tray.take() == [1]


def test_the_first_open_is_the_probe_and_all_are_counted() -> None:
    tray = Tray()
    assert tray.probe_seconds is None
    tray.opened(0.25)
    tray.opened(0.5)
    assert (tray.probe_seconds, tray.sessions) == (0.25, 2)
