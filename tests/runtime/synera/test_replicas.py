"""Which replica a device turns to, and that those left alone are found again: over verifiers that answer as a test says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.answers import ModelInfo
from runtime.client import CloudClient, Deadlines
from runtime.errors import CloudBusyError, CloudRejectedError, ModelChangedError, SettingError
from runtime.link import LinkEmulator
from runtime.synera.caution import CloudState
from runtime.synera.chunk import Lost, Verdict
from runtime.synera.remote import Terms
from runtime.synera.replicas import Replica, Replicas, rendezvous
from runtime.synera.verifier import CloudVerifier
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import GRPC_OVERHEAD_BYTES, open_request_bytes, verify_request_bytes
from tests.support.engine import VOCAB
from tests.support.hostile import NEXT, Answer, HostileServer, but, fails, hangs, hostile
from tests.support.verifying import PROMPT, ManualClock

INFO = pb.ModelInfoResponse(fingerprint="f" * 16, tokenizer_hash="t" * 16, context_tokens=256, max_draft_tokens=16, vocab=VOCAB)
TERMS = Terms(INFO.tokenizer_hash, INFO.fingerprint, VOCAB)
NAMES = st.lists(st.text("abcdef.:0123456789", min_size=1), min_size=2, max_size=12, unique=True)
UNAVAILABLE = fails(grpc.StatusCode.UNAVAILABLE, "draining", "CloudUnavailableError")
BUSY = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "CloudBusyError", synera_retry_after_ms="7000")


# ---------------------------------------------------------------- rendezvous


@given(NAMES, st.text())
def test_every_name_has_its_place_whatever_order_they_come_in(names: list[str], key: str) -> None:
    order = rendezvous(key, names)
    assert sorted(order) == sorted(names)
    assert order == rendezvous(key, names[::-1])


@given(NAMES, st.text(), st.data())
def test_a_name_that_goes_moves_only_its_own_keys(names: list[str], key: str, data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(names))
    before, after = rendezvous(key, names), rendezvous(key, [name for name in names if name != gone])
    assert after == [name for name in before if name != gone]  # so a key whose first it was moves to its second


@pytest.mark.parametrize("replicas", [2, 5, 16])
def test_keys_spread_evenly_and_a_name_that_comes_takes_its_share_of_each(replicas: int) -> None:
    names = [f"10.0.0.{number}:50051" for number in range(replicas)]
    keys = [f"device-{number}" for number in range(4000)]
    first = {key: rendezvous(key, names)[0] for key in keys}
    fair = len(keys) / replicas
    spread = 5 * fair**0.5  # five standard deviations
    assert all(abs(list(first.values()).count(name) - fair) < spread for name in names)
    moved = {key: was for key, was in first.items() if rendezvous(key, [*names, "new:1"])[0] != was}
    assert all(rendezvous(key, [*names, "new:1"])[0] == "new:1" for key in moved)
    assert abs(len(moved) - len(keys) / (replicas + 1)) < spread


# ---------------------------------------------------------------- a device and two verifiers


class Fleet:
    """Two replicas in the order of a device, and its session."""

    def __init__(self, servers: list[HostileServer], replicas: Replicas, clock: ManualClock, verifier: CloudVerifier) -> None:
        by_target = {server.target: server for server in servers}
        self.first, self.second = (by_target[replica.client.target] for replica in replicas.order)
        self.replicas, self.clock, self.verifier = replicas, clock, verifier

    def begin(self) -> None:
        """Begin an answer, and wait until its session is opened."""
        self.verifier.open(3)
        self.verifier._worker.submit(lambda: None).result()

    def check(self, draft: tuple[int, ...] = ()) -> Verdict | Lost:
        self.verifier.submit(PROMPT, draft)
        return self.verifier.result()

    def verdict(self) -> Verdict:
        found = self.check()
        assert isinstance(found, Verdict), found
        return found

    def lost(self) -> str:
        found = self.check()
        assert isinstance(found, Lost), found
        return str(found.error)

    def verifies(self) -> tuple[int, int]:
        return len(self.first.calls("Verify")), len(self.second.calls("Verify"))

    def found_again(self) -> None:
        """Wait for the probes under way."""
        for _ in range(500):
            if not any(replica.state.breaker._probed for replica in self.replicas.order):
                return
            threading.Event().wait(0.02)
        raise AssertionError("a probe never ended")


@contextmanager
def fleet(answers: dict[str, Answer] | None = None, *, others: dict[str, Answer] | None = None, **more: Any) -> Iterator[Fleet]:
    """The first of the device's order answers as told, the second honestly or as told."""
    clock = ManualClock()
    with ExitStack() as stack:
        servers = [stack.enter_context(hostile(INFO, {})) for _ in range(2)]
        clients = [
            stack.enter_context(CloudClient(server.target, deadlines=Deadlines(verify_seconds=20))) for server in servers
        ]
        replicas = Replicas([Replica(client, CloudState()) for client in clients], "device", fits)
        named = {"clock": clock, "wait": clock.wait} | more
        verifier = stack.enter_context(CloudVerifier(replicas, TERMS, **named))
        made = Fleet(servers, replicas, clock, verifier)
        made.first.answers, made.second.answers = answers or {}, others or {}
        yield made


def fits(target: str, info: ModelInfo) -> None:
    if info.fingerprint != INFO.fingerprint:
        raise ModelChangedError(f"{target} serves another model")


def test_an_answer_stays_on_the_first_of_the_order() -> None:
    with fleet() as made:
        made.begin()
        for _ in range(3):
            assert made.verdict().next_token == NEXT
        assert made.verifies() == (3, 0)
        assert made.second.asked == []
    assert len(made.first.calls("Close")) == 1


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("draining", {"Open": UNAVAILABLE}),
        ("busy", {"Open": BUSY}),
        ("busy checks", {"Verify": BUSY}),
        ("dead checks", {"Verify": UNAVAILABLE}),
        ("not known", {"Open": fails(grpc.StatusCode.UNAUTHENTICATED)}),
        ("another model", {"Open": but(fingerprint="0")}),
        ("nonsense", {"Verify": but(accepted=77)}),
        ("a broken engine", {"Verify": fails(grpc.StatusCode.INTERNAL, "broken", "CloudError")}),
        ("another version", {"Verify": fails(grpc.StatusCode.INVALID_ARGUMENT, "no", "CloudRejectedError")}),
        ("forgets sessions", {"Verify": fails(grpc.StatusCode.NOT_FOUND, "none", "SessionLostError")}),
    ],
)
@pytest.mark.parametrize("opened", [False, True])
def test_a_check_that_one_replica_fails_is_judged_by_the_next_and_the_answer_stays_there(
    name: str, answer: dict[str, Answer], opened: bool
) -> None:
    with fleet(answer) as made:
        if opened:
            made.begin()
        for number in range(1, 4):
            assert made.verdict().next_token == NEXT
            assert made.verifies()[1] == number
        tried = len(made.first.calls("Verify")) + len(made.first.calls("Open"))
        made.verdict()
        assert len(made.first.calls("Verify")) + len(made.first.calls("Open")) == tried
        first = made.second.calls("Verify")[0]
        assert (first.seq, first.prefix_length, list(first.context)) == (1, 0, list(PROMPT))  # from the whole history


def test_what_travelled_in_vain_is_paid_for() -> None:
    with fleet({"Verify": UNAVAILABLE}) as made:
        opened, asked = open_request_bytes(len(TERMS.tokenizer_hash)), verify_request_bytes(0, PROMPT, [], 1)
        assert made.verdict().uplink_bytes == 2 * (opened + asked + 2 * GRPC_OVERHEAD_BYTES)


def test_where_all_fail_the_check_is_lost_and_the_error_names_the_replica() -> None:
    with fleet({"Verify": BUSY}, others={"Verify": UNAVAILABLE}) as made:
        found = made.check()
        assert isinstance(found, Lost)
        assert isinstance(found.error, CloudBusyError)
        assert found.error.retry_after_seconds == 7.0
        assert str(found.error) == f"{made.first.target}: full"
        assert made.verifies() == (1, 4)  # the second's refusals are tried again, which took 0.7 s
        assert made.lost() == f"{made.first.target}: full (next try in 6.3 s)"  # and the second is left alone, too
        assert made.verifier.shut()


def test_what_no_replica_takes_is_asked_of_each_once() -> None:
    rejects = fails(grpc.StatusCode.INVALID_ARGUMENT, "no", "CloudRejectedError")
    with fleet({"Verify": rejects}, others={"Verify": rejects}) as made:
        for number in range(1, 4):
            found = made.check()
            assert isinstance(found, Lost)
            assert isinstance(found.error, CloudRejectedError)
            assert made.verifies() == (number, number)


def test_new_answers_return_to_the_first_once_it_is_well_and_no_answer_waits_for_that() -> None:
    with fleet({"Open": UNAVAILABLE}) as made:
        made.begin()
        made.verdict()
        assert made.verifies() == (0, 1)
        infos = len(made.first.calls("ModelInfo"))
        made.clock.seconds += 0.4
        made.verdict()
        assert len(made.first.calls("ModelInfo")) == infos  # it is left alone
        del made.first.answers["Open"]
        made.clock.seconds += 0.6
        made.verdict()  # asks the first whether it is back
        made.found_again()
        assert len(made.first.calls("ModelInfo")) == infos + 1
        made.verdict()
        assert made.verifies()[0] == 0  # the answer stays where it is
        made.begin()
        made.verdict()
        assert made.verifies()[0] == 1


def test_a_replica_that_is_silent_when_it_is_tried_again_holds_nobody_up() -> None:
    with fleet({"Open": UNAVAILABLE, "ModelInfo": hangs}) as made:
        made.verdict()
        made.clock.seconds += 100.0
        made.verdict()
        assert made.first.hanging.acquire(timeout=30)
        for _ in range(3):
            made.verdict()
        assert len(made.first.calls("ModelInfo")) == 1  # one probe at a time


def test_a_replica_that_comes_back_with_another_model_is_left_out_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with fleet({"Open": UNAVAILABLE, "ModelInfo": but(fingerprint="0" * 16)}) as made:
        for _ in range(4):
            made.clock.seconds += 10.0
            made.verdict()
            made.found_again()
            made.begin()
        assert made.verifies() == (0, 4)
        assert [record.getMessage() for record in caplog.records] == [
            f"the replica {made.first.target} is left out: {made.first.target} serves another model"
        ]
        made.first.answers.clear()
        made.clock.seconds += 10.0
        made.verdict()
        made.found_again()
        made.begin()
        made.verdict()
        assert made.verifies()[0] == 1  # it serves the right one again


def test_all_replicas_down_is_a_cloud_down_and_one_that_comes_back_is_found() -> None:
    full = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "CloudBusyError")
    dead = {"Open": full, "ModelInfo": UNAVAILABLE}
    with fleet(dead, others=dict(dead)) as made:
        assert made.lost().endswith("full")
        assert made.verifier.shut()
        assert made.lost().endswith("(next try in 0.5 s)")
        made.clock.seconds += 0.5
        assert not made.verifier.shut()  # a check would try it
        made.second.answers.clear()
        made.check()
        made.found_again()
        before = made.verifies()[1]
        assert made.verdict().next_token == NEXT
        assert made.verifies() == (0, before + 1)


class Down:
    """A link that carries nothing."""

    def reachable(self, at_seconds: float) -> bool:
        return False

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        return 0.0

    downlink_seconds = uplink_seconds


def test_an_outage_of_the_emulated_link_is_of_all_replicas_and_says_nothing_of_any() -> None:
    clock = ManualClock()
    emulator = LinkEmulator(Down(), now=clock.now)
    with fleet(emulator=emulator, clock=clock, wait=clock.wait) as made:
        assert "the emulated link carried no answer in time" in made.lost()
        assert "next try in" in made.lost()
        assert made.first.asked == made.second.asked == []
        assert all(replica.state.breaker.refusal(clock.now()) is None for replica in made.replicas.order)


def test_what_a_lost_replica_still_holds_is_released_when_it_is_back() -> None:
    with fleet() as made:
        made.verdict()
        held = made.first.calls("Verify")[0].session_id
        made.first.answers = {"Verify": UNAVAILABLE, "ModelInfo": UNAVAILABLE}
        made.verdict()
        assert made.verifies()[1] == 1
        made.first.answers.clear()
        made.clock.seconds += 1.0
        made.verdict()
        made.found_again()
        made.replicas.settle(30)
        assert [request.session_id for request in made.first.calls("Close")] == [held]


def test_the_number_of_replicas_is_bounded() -> None:
    with CloudClient("127.0.0.1:1") as client:
        one = Replica(client, CloudState())
        for number in (0, 65):
            with pytest.raises(SettingError, match=f"replicas={number} must be an integer in 1..64"):
                Replicas([one] * number)
