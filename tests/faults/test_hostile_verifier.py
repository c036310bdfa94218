"""A verifier that answers wrongly in every way that was thought of: the answer completes, marked, and nothing else happens.

What stands behind the address instead of a verifier: test_hostile_address.py.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from grpc import StatusCode

from runtime.client import Deadlines
from runtime.device import Device
from runtime.wire import synera_pb2 as pb
from runtime.wire.statuses import STATUS
from tests.support.hostile import (
    CODES,
    COMPRESSED,
    DETAILS,
    LATE,
    NAMES,
    NONSENSE,
    SAYS_OF_CODE,
    TOO_LONG,
    UNREADABLE,
    UNREADABLES,
    Answer,
    Asked,
    but,
    fails,
    field_of,
    from_call,
    hangs,
    hostile,
    info_of,
    raw,
    until_call,
)
from tests.support.surviving import BRIEF, PATIENT, finish, is_marked, met

pytestmark = pytest.mark.usefixtures("nothing_else_happens")
OTHER_MODEL = "now serves the model"


@dataclass(frozen=True)
class Kind:
    """A way to answer wrongly."""

    answers: dict[str, Answer]
    why: str | None
    """Every lost chunk says this; None where the answer does not suffer."""
    honest_chunks: int = 0
    """So many chunks are checked before it begins."""
    deadlines: Deadlines = field(default=PATIENT)


def puts_the_same_in_its_place(asked: Asked) -> Any:
    return pb.VerifyResponse(next_token=asked.request.draft[0], queue_ms=0, compute_ms=0, compute_share_ms=0)


LOST = fails(StatusCode.NOT_FOUND, "no such session", "SessionLostError")
LIES = {
    "accepts one too many": but(accepted=5),
    "accepts 2^32 - 1": but(accepted=2**32 - 1),
    "next token 2^32 - 1": but(next_token=2**32 - 1),
    "next token 2^24": but(next_token=2**24),
    "refuses a token for itself": puts_the_same_in_its_place,
    "processed 2^32 - 1 tokens": but(processed_tokens=2**32 - 1),
    "load 2^32 - 1": but(load=2**32 - 1),
    "a share above the whole": but(compute_share_ms=1.0),
    "longer than the call could take": but(queue_ms=12_000.0, compute_ms=12_000.0, compute_share_ms=0.0),
    **{
        f"{name} {value}": but(**{name: value})
        for name in ("queue_ms", "compute_ms", "compute_share_ms")
        for value in (float("nan"), float("inf"), float("-inf"), -1e-9, 1e308)
    },
    **{f"no {name}": but(**{name: None}) for name in ("queue_ms", "compute_ms", "compute_share_ms")},
    "an empty message": raw(b""),
}
IDS = ["", "0" * 31, "0" * 33, "G" * 32, "\n" * 32, "\x1b[2J" + "0" * 28, "0" * 60_000, "\u0660" * 32]
KINDS: dict[str, Kind] = {
    **{f"verdict: {name}": Kind({"Verify": lie}, NONSENSE) for name, lie in LIES.items()},
    **{f"verdict: {name}": Kind({"Verify": lie}, UNREADABLE) for name, lie in UNREADABLES.items()},
    **{f"verdict: {name}": Kind({"Verify": long}, "RESOURCE_EXHAUSTED") for name, long in TOO_LONG.items()},
    **{f"verdict: {name}": Kind({"Verify": small}, f"gzip|{UNREADABLE}") for name, small in COMPRESSED.items()},
    "verdict: that of another check": Kind(
        {"Verify": from_call(3, lambda asked: but(accepted=4)(asked))}, "accepted=4 is outside 0..2", honest_chunks=2
    ),
    "verdict: wrong after two right ones": Kind({"Verify": from_call(3, but(next_token=2**30))}, NONSENSE, honest_chunks=2),
    "verdict: an answer to something else": Kind({"Verify": raw(field_of(1, b"0" * 32))}, f"{NONSENSE}|{UNREADABLE}"),
    **{f"open: id {number}": Kind({"Open": but(session_id=value)}, NONSENSE) for number, value in enumerate(IDS)},
    "open: id of 1 MB": Kind({"Open": but(session_id="0" * 1_000_000)}, "RESOURCE_EXHAUSTED"),
    "open: id that is no text": Kind({"Open": raw(field_of(1, b"\xff" * 32))}, UNREADABLE),
    **{f"open: {name}": Kind({"Open": lie}, UNREADABLE) for name, lie in UNREADABLES.items()},
    **{f"open: {name}": Kind({"Open": long}, "RESOURCE_EXHAUSTED") for name, long in TOO_LONG.items()},
    **{f"open: {name}": Kind({"Open": small}, f"gzip|{UNREADABLE}") for name, small in COMPRESSED.items()},
    "open: an empty message": Kind({"Open": raw(b"")}, NONSENSE),
    "open: no model": Kind({"Open": but(fingerprint=None)}, OTHER_MODEL),
    "open: another model": Kind({"Open": but(fingerprint="fedcba9876543210")}, OTHER_MODEL),
    "open: a model of 60 kB": Kind({"Open": but(fingerprint="\x1b" * 60_000)}, OTHER_MODEL),
    "open: another tokenizer": Kind(
        {"Open": fails(StatusCode.FAILED_PRECONDITION, "another", "TokenizerMismatchError")}, "another"
    ),
    "open: always full": Kind({"Open": fails(StatusCode.RESOURCE_EXHAUSTED, "full", "CloudBusyError")}, "full"),
    "open: hangs": Kind({"Open": hangs}, LATE, deadlines=BRIEF),
    "reopened: nothing is wrong": Kind({"Verify": lambda asked: LOST(asked) if asked.count == 2 else asked.honest}, None),
    "reopened: another model": Kind(
        {"Verify": from_call(2, LOST), "Open": from_call(2, but(fingerprint="0"))}, OTHER_MODEL, honest_chunks=1
    ),
    "reopened: another tokenizer": Kind(
        {
            "Verify": from_call(2, LOST),
            "Open": from_call(2, fails(StatusCode.FAILED_PRECONDITION, "another", "TokenizerMismatchError")),
        },
        "another",
        honest_chunks=1,
    ),
    "reopened: lost again and again": Kind({"Verify": from_call(2, LOST)}, "no such session", honest_chunks=1),
    "reopened: hangs": Kind(
        {"Verify": from_call(2, LOST), "Open": from_call(2, hangs)},
        LATE,
        honest_chunks=1,
        deadlines=Deadlines(open_seconds=0.4, verify_seconds=20),
    ),
    **{f"named {name!r}": Kind({"Verify": fails(StatusCode.INTERNAL, kind=name)}, "INTERNAL: why") for name in NAMES},
    **{
        f"named {kind.__name__} with another status": Kind(
            {"Verify": fails(StatusCode.UNKNOWN, kind=kind.__name__)}, "UNKNOWN: why"
        )
        for kind in STATUS
    },
    **{
        f"named {kind.__name__}": Kind({"Verify": fails(code, "so named", kind.__name__)}, "so named")
        for kind, code in STATUS.items()
    },
    **{
        f"{method}: {code.name}": Kind({method: fails(code)}, SAYS_OF_CODE.get(code, rf"failed \({code.name}: why\)"))
        for method in ("Open", "Verify")
        for code in CODES
    },
    **{f"verdict: {name}": Kind({"Verify": answer}, why) for name, (answer, why) in DETAILS.items()},
    "verdict: hangs": Kind({"Verify": hangs}, LATE, deadlines=BRIEF),
    "verdict: hangs after one": Kind(
        {"Verify": from_call(2, hangs)}, LATE, honest_chunks=1, deadlines=Deadlines(verify_seconds=1)
    ),
    "verdict: unavailable once": Kind({"Verify": until_call(1, fails(StatusCode.UNAVAILABLE))}, None),
    "open: unavailable once": Kind({"Open": until_call(1, fails(StatusCode.UNAVAILABLE))}, None),
    "close: fails": Kind({"Close": fails(StatusCode.INTERNAL, kind="KeyboardInterrupt")}, None),
    "close: another tokenizer": Kind({"Close": fails(StatusCode.FAILED_PRECONDITION, kind="TokenizerMismatchError")}, None),
    "close: garbage": Kind({"Close": raw(b"\xff" * 40)}, None),
    "close: hangs": Kind({"Close": hangs}, None, deadlines=Deadlines(close_seconds=0.2)),
    "close: too long": Kind({"Close": TOO_LONG["5 MB"]}, None),
}


def test_there_are_kinds_enough() -> None:
    assert len(KINDS) >= 30


# ---------------------------------------------------------------- what becomes of an answer


@pytest.mark.parametrize("name", KINDS)
def test_no_wrong_answer_costs_the_answer(name: str, device: Device, alone: tuple[int, ...]) -> None:
    kind = KINDS[name]
    with ExitStack() as stack:
        server = stack.enter_context(hostile(info_of(device), kind.answers))
        connection = stack.enter_context(met(device, server.target, kind.deadlines))
        session = stack.enter_context(connection.open())
        finish(session)
    assert len(session.answer) == device.max_new_tokens
    if kind.why is None:
        assert [record.error for record in session.records] == [None] * len(session.records)
        return
    believed, lost = session.records[: kind.honest_chunks], session.records[kind.honest_chunks :]
    assert [record.error for record in believed] == [None] * kind.honest_chunks
    assert lost
    assert [is_marked(record, kind.why) for record in lost] == [True] * len(lost)
    if not believed:
        assert session.answer == alone


@pytest.mark.parametrize("name", ["open: another model", "reopened: another model"])
def test_sessions_of_another_model_are_released(name: str, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.breaker.FIRST_SECONDS", 8.0)  # longer than the answer, however slow the machine
    with hostile(info_of(device), KINDS[name].answers) as server, met(device, server.target) as connection:
        finish(connection.open())
    opened = [place for place, (method, _) in enumerate(server.asked, 1) if method == "Open"]
    assert len(opened) == 1 + name.startswith("reopened")  # and then the cloud is left alone
    assert server.calls("Close")[-1].session_id == f"{opened[-1]:032x}"


def test_the_cloud_is_believed_again_when_it_tells_the_truth(device: Device) -> None:
    """A model that is changed back, after the pause has passed."""
    with hostile(info_of(device), {"Open": but(fingerprint="0")}) as server, met(device, server.target) as connection:
        with connection.open() as session:
            finish(session)
        assert all(record.error for record in session.records)
        del server.answers["Open"]
        connection._replicas.order[0].state.breaker.succeeded()  # time has passed
        with connection.open() as session:
            finish(session)
        assert not any(record.error for record in session.records)
