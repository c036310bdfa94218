"""The device's session with the cloud, against a real server of a fake LLM."""

from __future__ import annotations

import re
import socket
import threading
from dataclasses import replace
from typing import Any

import grpc
import pytest

from runtime.client import CloudClient
from runtime.courier import Inbox
from runtime.errors import (
    CloudRejectedError,
    CloudUnavailableError,
    LateError,
    LinkDownError,
    ModelChangedError,
)
from runtime.link import LinkEmulator
from runtime.synera import remote
from runtime.synera.caution import CloudState
from runtime.synera.chunk import Lost, Verdict
from runtime.synera.verifier import CloudVerifier
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import (
    GRPC_OVERHEAD_BYTES,
    open_request_bytes,
    open_response_bytes,
    verify_request_bytes,
    verify_response_bytes,
)
from scripts.benchmarks._faulty import Cable, cable
from tests.support.engine import VOCAB, continuation
from tests.support.hostile import fails, hostile
from tests.support.verifying import NOBODY, PROMPT, ManualClock, World, lost, try_all, verdict_of


def check(verifier: CloudVerifier) -> Verdict:
    verifier.submit(PROMPT, [])
    return verdict_of(verifier)


def verifier_of(world: World, clock: ManualClock, **more: Any) -> CloudVerifier:
    """One whose time passes by the clock alone."""
    return CloudVerifier(world.client, world.terms, clock=clock, wait=clock.wait, **more)


def wait_for(verifier: CloudVerifier) -> None:
    """Until what it has begun is done."""
    verifier._worker.submit(lambda: None).result()


def test_checks_follow_each_other_and_count_their_bytes(world: World) -> None:
    answer = continuation(PROMPT, 8)
    with CloudVerifier(world.client, world.terms, clock=world.clock) as verifier:
        verifier.open(len(PROMPT))
        verifier.submit(PROMPT, answer[:2])
        first = verdict_of(verifier)
        assert verifier.probe_seconds() == 0.0  # the manual clock stood still
        assert (first.accepted, first.next_token, first.cloud_tokens) == (2, answer[2], 5)
        verifier.submit((*PROMPT, *answer[:3]), [answer[3], (answer[4] + 1) % VOCAB])
        second = verdict_of(verifier)
    assert (second.accepted, second.next_token, second.cloud_tokens) == (1, answer[4], 3)
    assert second.network_seconds == 0.0  # never below
    assert second.cloud_seconds == pytest.approx(second.compute_seconds)
    assert first.uplink_bytes == verify_request_bytes(0, PROMPT, answer[:2], 1) + GRPC_OVERHEAD_BYTES
    assert second.uplink_bytes == verify_request_bytes(6, [], [answer[3], (answer[4] + 1) % VOCAB], 2) + GRPC_OVERHEAD_BYTES
    assert second.downlink_bytes == verify_response_bytes(1, answer[4], 3, 1) + GRPC_OVERHEAD_BYTES


def test_the_device_may_go_elsewhere(world: World) -> None:
    with CloudVerifier(world.client, world.terms) as verifier:
        verifier.submit(PROMPT, continuation(PROMPT, 3))
        verdict_of(verifier)
        other = (*PROMPT[:2], 9)
        verifier.submit(other, continuation(other, 1))
        verdict = verdict_of(verifier)
    assert (verdict.accepted, verdict.next_token) == (1, continuation(other, 2)[1])
    assert verdict.cloud_tokens == 2


class RecordingLink:
    """An emulator that takes notes; a round trip takes 0.4 s."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []

    def uplink(self, size_bytes: int) -> float:
        self.sent.append(("up", size_bytes - GRPC_OVERHEAD_BYTES))
        return 0.15

    def downlink(self, size_bytes: int) -> float:
        self.sent.append(("down", size_bytes - GRPC_OVERHEAD_BYTES))
        return 0.25


def test_every_message_goes_over_the_link_and_into_the_network_time(world: World) -> None:
    link, clock = RecordingLink(), world.clock
    with verifier_of(world, clock, emulator=link) as verifier:
        verifier.open(3)
        verifier.submit(PROMPT, [])
        verdict = verdict_of(verifier)
        assert verifier.probe_seconds() == pytest.approx(0.4)
    assert verdict.network_seconds == pytest.approx(0.4 - verdict.queue_seconds - verdict.compute_seconds)
    assert link.sent == [
        ("up", open_request_bytes()),
        ("down", open_response_bytes()),
        ("up", verify_request_bytes(0, PROMPT, [], 1)),
        ("down", verify_response_bytes(0, verdict.next_token, 3, 1)),
    ]


def test_a_lost_session_is_healed_within_the_check(world: World) -> None:
    answer = continuation(PROMPT, 8)
    with CloudVerifier(world.client, world.terms) as verifier:
        verifier.open(3)
        verifier.submit(PROMPT, answer[:2])
        verdict_of(verifier)
        world.clock.seconds += 61  # past the lease
        verifier.submit((*PROMPT, *answer[:3]), answer[3:5])
        healed = verdict_of(verifier)
        verifier.submit((*PROMPT, *answer[:6]), answer[6:7])
        after = verdict_of(verifier)
    assert (healed.accepted, healed.next_token, healed.cloud_tokens) == (2, answer[5], 8)
    assert (after.accepted, after.next_token, after.cloud_tokens) == (1, answer[7], 2)
    once = verify_request_bytes(0, (*PROMPT, *answer[:3]), answer[3:5], 1) + GRPC_OVERHEAD_BYTES
    assert healed.uplink_bytes > once + open_request_bytes()  # all that travelled counts


def test_a_cloud_of_another_tokenizer_is_lost(world: World) -> None:
    with CloudVerifier(world.client, replace(world.terms, tokenizer_hash="other")) as verifier:
        verifier.open(3)
        verifier.submit(PROMPT, [])
        changed = lost(verifier).error
        assert isinstance(changed, CloudUnavailableError)  # it is left alone since the open
        assert re.search(f"'other'.*'{world.tokenizer_hash}'.*next try in", str(changed))
        assert verifier.probe_seconds() is None


def test_a_cloud_of_another_model_is_lost_and_its_session_released(world: World) -> None:
    clock = ManualClock()
    with CloudVerifier(world.client, replace(world.terms, llm_fingerprint="feed"), clock=clock) as verifier:
        verifier.submit(PROMPT, [])
        changed = lost(verifier)
        assert isinstance(changed.error, ModelChangedError)
        assert re.search(f"serves the model '{world.terms.llm_fingerprint}', it began with 'feed'", str(changed.error))
        assert changed.uplink_bytes == open_request_bytes() + GRPC_OVERHEAD_BYTES
        assert not list(try_all(world))
        verifier.submit(PROMPT, [])
        assert "next try in 0.5 s" in str(lost(verifier).error)
        clock.seconds += 0.5
        assert "it is being tried again" in str(lost_of(verifier).error)
        wait_for(verifier)
        assert "next try in 1.0 s" in str(lost_of(verifier).error)  # and found to be the same
    assert not list(try_all(world))


def test_a_rejected_check_leaves_the_next_one_a_clean_session(world: World) -> None:
    with CloudVerifier(world.client, world.terms) as verifier:
        verifier.submit(PROMPT, [VOCAB])
        rejected = lost(verifier)
        assert isinstance(rejected.error, CloudRejectedError)
        assert f"token {VOCAB} is outside" in str(rejected.error)
        assert check(verifier).next_token == continuation(PROMPT, 1)[0]


def test_a_full_cloud_is_busy_and_a_new_answer_releases_the_old_session(world: World) -> None:
    def answer(verifier: CloudVerifier) -> int:
        verifier.open(3)
        return check(verifier).next_token

    verifiers = [CloudVerifier(world.client, world.terms) for _ in range(3)]
    try:
        for _ in range(2):
            assert [answer(v) for v in verifiers[:2]] == continuation(PROMPT, 1) * 2
            verifiers[2].open(3)
            verifiers[2].submit(PROMPT, [])
            refused = lost(verifiers[2]).error
            assert "all 2 sessions are in use" in str(refused)
            assert "next try in" in str(refused)  # it is full for the next check, too
        verifiers[0].close()
        wait_for(verifiers[0])
        verifiers[2]._replicas.order[0].state.breaker.succeeded()  # time has passed
        assert answer(verifiers[2]) == continuation(PROMPT, 1)[0]
    finally:
        for each in verifiers:
            each.__exit__(None, None, None)


def test_a_full_cloud_is_not_asked_before_it_said_to_come_back(world: World) -> None:
    """It was asked at every chunk: 21 Opens for one answer. Its hint is when the lease of a session ends, of 10 s where unused."""
    held = [world.client.open(world.tokenizer_hash).session_id for _ in range(2)]
    clock, opens = ManualClock(), Counting(world.client, "Open")
    with CloudVerifier(opens, world.terms, clock=clock, wait=clock.wait) as verifier:  # type: ignore[arg-type]
        verifier.open(3)
        for _ in range(40):
            verifier.submit(PROMPT, [])
            refused = lost(verifier).error
            assert "all 2 sessions are in use" in str(refused)
            wait_for(verifier)
            clock.seconds += 0.15
        assert opens.count == 1
        world.client.close_session(held[0])
        clock.seconds += 8.0
        verifier.submit(PROMPT, [])
        assert "it is being tried again" in str(lost(verifier).error)
        wait_for(verifier)
        assert check(verifier).next_token == continuation(PROMPT, 1)[0]
        assert opens.count == 2


@pytest.mark.parametrize(
    ("status", "kind", "hint", "pause"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "CloudBusyError", "3000", 3.0),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "CloudBusyError", "9" * 18, 60.0),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "CloudBusyError", "soon", 0.5),
        (grpc.StatusCode.UNAUTHENTICATED, "UnauthenticatedError", "0", 60.0),
    ],
)
@pytest.mark.parametrize("method", ["Open", "Verify"])
def test_a_cloud_that_refuses_is_left_alone_for_as_long_as_it_says_or_somebody_must_act(
    method: str, status: grpc.StatusCode, kind: str, hint: str, pause: float
) -> None:
    info = pb.ModelInfoResponse(fingerprint=NOBODY.llm_fingerprint)
    refuses = fails(status, "no", kind, synera_retry_after_ms=hint)
    clock = ManualClock()
    with (
        hostile(info, {method: refuses}) as server,
        CloudClient(server.target) as client,
        CloudVerifier(client, NOBODY, clock=clock, wait=clock.wait) as verifier,
    ):
        verifier.submit(PROMPT, [])
        lost(verifier)
        assert f"next try in {pause:.1f} s" in str(lost_of(verifier).error)
        clock.seconds += pause - 0.01
        lost_of(verifier)
        wait_for(verifier)
        assert len(server.calls(method)) == 1
        clock.seconds += 0.01
        lost_of(verifier)
        wait_for(verifier)
        assert len(server.calls("Open")) == 2


class Counting:
    """A client that counts what it is asked of one method."""

    def __init__(self, client: CloudClient, method: str) -> None:
        self._client, self._method, self.count = client, method, 0

    def ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        self.count += method == self._method
        return self._client.ask(method, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def test_a_dead_cloud_is_left_alone_ever_longer_and_tried_in_the_background(absent: str) -> None:
    clock = ManualClock()
    with CloudClient(absent) as client, CloudVerifier(client, NOBODY, clock=clock, wait=clock.wait) as verifier:
        verifier.open(3)  # does not raise, does not wait
        waits = []
        for tries in range(6):
            verifier.submit(PROMPT, [])
            gone = lost(verifier)
            assert isinstance(gone.error, CloudUnavailableError)
            assert "no verifier answers" in str(gone.error)
            assert ("it is being tried again" in str(gone.error)) == (tries > 0)
            wait_for(verifier)
            assert verifier.probe_seconds() is None
            verifier.submit(PROMPT, [])
            refused = lost(verifier)
            assert isinstance(refused.error, CloudUnavailableError)
            assert (refused.uplink_bytes, refused.downlink_bytes) == (0, 0)  # it was not even asked
            waits.append(float(str(refused.error).split("next try in ")[1].split()[0]))
            clock.seconds += waits[-1]
        verifier.close()
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]


def test_one_check_at_a_time(world: World) -> None:
    with CloudVerifier(world.client, world.terms) as verifier:
        with pytest.raises(RuntimeError, match="call submit"):
            verifier.result()
        verifier.submit(PROMPT, [])
        with pytest.raises(RuntimeError, match="call result"):
            verifier.submit(PROMPT, [])


def test_who_has_retired_released_its_session_and_takes_no_more_work(world: World) -> None:
    before = set(threading.enumerate())
    with CloudVerifier(world.client, world.terms) as verifier:
        verifier.open(3)
        verifier.close()
        verifier.open(3)
        verifier.retire().result()
        assert not list(try_all(world))
        verifier.retire()
        verifier.close()
        for work in (lambda: verifier.open(3), lambda: verifier.submit(PROMPT, [])):
            with pytest.raises(RuntimeError, match="retired"):
                work()
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("verifier")]


def test_a_cloud_that_is_left_alone_is_asked_to_release_once_it_answers_again(world: World) -> None:
    clock, state = ManualClock(), CloudState()
    with verifier_of(world, clock, state=state) as verifier:
        check(verifier)
        state.breaker.failed(clock.now(), "another session found it dead")
        verifier.close()
        wait_for(verifier)
        assert len(state.leftovers) == 1
        assert list(try_all(world))
        clock.seconds += 0.5
        verifier.submit(PROMPT, [])
        lost(verifier)
        wait_for(verifier)
        state.leftovers.settle(30)
        assert len(state.leftovers) == 0
    assert not list(try_all(world))


def test_an_open_is_not_even_tried_while_the_cloud_is_left_alone(world: World) -> None:
    clock, state = ManualClock(), CloudState()
    state.breaker.failed(clock.now(), "dead")
    with verifier_of(world, clock, state=state) as verifier:
        verifier.open(3)
        verifier.submit(PROMPT, [])
        assert str(lost(verifier).error) == "dead (next try in 0.5 s)"
        wait_for(verifier)
        assert verifier.probe_seconds() is None
        assert not list(try_all(world))
        clock.seconds += 0.5
        verifier.submit(PROMPT, [])
        assert str(lost(verifier).error) == "dead (it is being tried again)"
        wait_for(verifier)
        found = check(verifier)
        assert found.next_token == continuation(PROMPT, 1)[0]
        opened, asked = open_request_bytes(), verify_request_bytes(0, PROMPT, [], 1)
        assert found.uplink_bytes == opened + asked + 2 * GRPC_OVERHEAD_BYTES  # what found it counts into the first check
        assert verifier.probe_seconds() is None


def test_one_session_at_a_time_finds_out_whether_the_cloud_is_back(world: World) -> None:
    clock, state = ManualClock(), CloudState()
    opens = Counting(world.client, "Open")
    verifiers = [CloudVerifier(opens, world.terms, clock=clock, wait=clock.wait, state=state) for _ in range(2)]  # type: ignore[arg-type]
    world.clock, held = clock, threading.Event()
    with verifiers[0], verifiers[1]:
        state.breaker.failed(clock.now(), "dead")
        clock.seconds += 0.5
        verifiers[0]._worker.submit(held.wait, 30)  # its probe takes long
        for verifier in verifiers * 3:
            verifier.submit(PROMPT, [])
            assert str(lost(verifier).error) == "dead (it is being tried again)"
        wait_for(verifiers[1])
        assert opens.count == 0
        held.set()
        wait_for(verifiers[0])
        assert opens.count == 1
        for verifier in verifiers:
            assert check(verifier).next_token == continuation(PROMPT, 1)[0]


def test_a_probe_whose_session_ends_may_be_made_by_another(world: World) -> None:
    clock, state, held = ManualClock(), CloudState(), threading.Event()
    with verifier_of(world, clock, state=state) as other:
        with verifier_of(world, clock, state=state) as verifier:
            state.breaker.failed(clock.now(), "dead")
            clock.seconds += 0.5
            verifier._worker.submit(held.wait, 30)
            verifier.submit(PROMPT, [])
            lost(verifier)
            verifier.retire()
            held.set()
        assert str(lost_of(other).error) == "dead (it is being tried again)"
        wait_for(other)
        assert check(other).next_token == continuation(PROMPT, 1)[0]
    assert not list(try_all(world))


def lost_of(verifier: CloudVerifier) -> Lost:
    verifier.submit(PROMPT, [])
    return lost(verifier)


class Outage:
    """A link that is down until a test lets messages through, and takes no time then."""

    def __init__(self) -> None:
        self.messages = 0
        """So many more get through."""

    def reachable(self, at_seconds: float) -> bool:
        self.messages -= 1
        return self.messages >= 0

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        return 0.0

    def downlink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        return 0.0


def test_an_outage_of_the_emulated_link_is_a_silent_cloud(world: World) -> None:
    """The rules that the replay mirrors, figure by figure."""
    clock, link = ManualClock(), Outage()
    with verifier_of(world, clock, emulator=LinkEmulator(link, now=clock.now)) as verifier:
        verifier.open(3)
        wait_for(verifier)
        assert (verifier.probe_seconds(), clock.now()) == (None, 1.0)  # sent at 0 and 0.5, given up at 1
        verifier.submit(PROMPT, [1])
        refused = lost(verifier)
        assert "the emulated link carried no answer in time" in str(refused.error)
        assert "next try in 0.5 s" in str(refused.error)
        assert (refused.uplink_bytes, refused.downlink_bytes, clock.now()) == (0, 0, 1.0)

        clock.seconds += 0.5
        link.messages = 1  # the open gets through, the check does not
        assert "being tried again" in str(lost_of(verifier).error)
        wait_for(verifier)
        verifier.submit(PROMPT, [1])
        gone = lost(verifier)
        assert isinstance(gone.error, LinkDownError)
        opened, asked = open_request_bytes(), verify_request_bytes(0, PROMPT, [1], 1)
        assert gone.uplink_bytes == opened + 2 * asked + 3 * GRPC_OVERHEAD_BYTES
        assert gone.downlink_bytes == open_response_bytes() + GRPC_OVERHEAD_BYTES
        assert clock.now() == pytest.approx(1.5 + 2 * (0.0 + 0.5))  # no time on the link, 0.5 s for a cloud that is not known
        assert "next try in 1.0 s" in str(lost_of(verifier).error)  # the second failure in a row

        clock.seconds += 1.0
        link.messages = 2
        lost_of(verifier)
        wait_for(verifier)
        healed = check(verifier)
        once = verify_request_bytes(0, PROMPT, [], 1)
        assert healed.uplink_bytes == opened + once + 2 * GRPC_OVERHEAD_BYTES  # another session, from its beginning
        verifier.submit((*PROMPT, healed.next_token), [])
        again = lost(verifier)
        assert again.uplink_bytes == 2 * (verify_request_bytes(4, [], [], 2) + GRPC_OVERHEAD_BYTES)
        assert "next try in 0.5 s" in str(lost_of(verifier).error)  # a verdict ended the row
        clock.seconds += 1.0


def test_a_blip_of_the_emulated_link_costs_half_of_the_deadline_and_no_check(world: World) -> None:
    clock, link = ManualClock(), Outage()
    with verifier_of(world, clock, emulator=LinkEmulator(link, now=clock.now)) as verifier:
        link.messages = 1
        verifier.open(3)
        wait_for(verifier)
        link.messages = 0

        def later(inbox: Inbox, seconds: float, calls: int) -> object:
            if not calls:
                link.messages = 1  # it is over by the time of the repeat
            return clock.wait(inbox, seconds, calls)

        verifier._courier.wait = later
        found = check(verifier)
        assert clock.now() == pytest.approx(0.5)  # of 1 s
        assert found.network_seconds == pytest.approx(0.5 - found.queue_seconds - found.compute_seconds)
        assert found.uplink_bytes == 2 * (verify_request_bytes(0, PROMPT, [], 1) + GRPC_OVERHEAD_BYTES)
        assert found.downlink_bytes == verify_response_bytes(0, found.next_token, 3, 1) + GRPC_OVERHEAD_BYTES


def test_an_outage_of_the_emulated_link_says_nothing_of_the_cloud(world: World) -> None:
    """The next answer has a link of its own, so it asks at once; as the replay does, where each answer starts afresh."""
    clock, state = ManualClock(), CloudState()

    def answer(link: Outage) -> CloudVerifier:
        return verifier_of(world, clock, emulator=LinkEmulator(link, now=clock.now), state=state)

    with answer(Outage()) as verifier:
        verifier.open(3)
        wait_for(verifier)
        assert "emulated link" in str(lost_of(verifier).error)
    link = Outage()
    link.messages = 2
    with answer(link) as verifier:
        verifier.open(3)
        assert check(verifier).next_token >= 0
        link.messages = 0
        lost_of(verifier)
        verifier.open(3)  # and so does another answer of the same session
        link.messages = 2
        assert check(verifier).next_token >= 0


def test_what_travelled_for_a_lost_check_is_counted(world: World) -> None:
    """The request was sent, and what the cloud answered cost nothing of the answer's own."""
    with CloudVerifier(world.client, world.terms) as verifier:
        check(verifier)
        verifier.submit(PROMPT, [VOCAB])
        rejected = lost(verifier)
    assert rejected.uplink_bytes == verify_request_bytes(len(PROMPT), [], [VOCAB], 2) + GRPC_OVERHEAD_BYTES
    assert rejected.downlink_bytes == 0


# ---------------------------------------------------------------- a cloud that is silent


def test_a_silent_cloud_stalls_one_check_for_its_deadline_and_no_other(world: World) -> None:
    """Its session is released once it answers again."""
    state = CloudState()
    with CloudVerifier(world.client, world.terms, state=state) as verifier:
        check(verifier)
        world.forward.gate.clear()
        late = lost_of(verifier)
        assert isinstance(late.error, LateError)
        assert late.uplink_bytes == 2 * (verify_request_bytes(3, [], [], 2) + GRPC_OVERHEAD_BYTES)  # it was repeated
        assert "next try in" in str(lost_of(verifier).error)
        world.forward.gate.set()
        assert len(state.leftovers) == 1
        state.breaker.succeeded()  # time has passed
        assert check(verifier).next_token == continuation(PROMPT, 1)[0]
        state.leftovers.settle(30)
        assert len(state.leftovers) == 0
    assert not list(try_all(world))


def test_an_open_whose_answer_got_lost_is_repeated_by_its_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cloud has two places: the session that nobody heard of would take one."""
    read = remote.read_opened
    unheard = [LateError("planted: the answer got lost")]
    monkeypatch.setattr(remote, "read_opened", lambda answer: raise_from(unheard) or read(answer))
    state = CloudState()
    with CloudVerifier(world.client, world.terms, state=state) as verifier:
        verifier.open(3)
        assert "planted" in str(lost_of(verifier).error)
        state.breaker.succeeded()
        check(verifier)
        world.client.close_session(world.client.open(world.tokenizer_hash).session_id)  # the other place is free
        unheard.append(LateError("planted: the answer got lost"))
        verifier.open(3)
        lost_of(verifier)
        state.breaker.succeeded()
    state.leftovers.settle(30)  # released by its key
    assert not list(try_all(world))


def raise_from(errors: list[LateError]) -> None:
    if errors:
        raise errors.pop()


def test_a_lost_answer_of_a_check_is_told_by_its_repeat(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cloud runs it once; whichever answer is there first counts."""
    ask, asked = world.client.ask, []

    def lossy(method: str, request: Any, seconds: float, on_end: Any, *, elsewhere: bool = False) -> Any:
        if method == "Verify":
            asked.append((request.session_id, request.seq, elsewhere))
            if len(asked) == 1:
                return ask(method, request, seconds, lambda _: None)  # nobody hears its answer
        return ask(method, request, seconds, on_end, elsewhere=elsewhere)

    monkeypatch.setattr(world.client, "ask", lossy)
    with CloudVerifier(world.client, world.terms) as verifier:
        verifier.open(3)
        assert check(verifier).next_token == continuation(PROMPT, 1)[0]
    assert [other for *_, other in asked] == [False, True]  # the repeat took the other channel
    assert asked[0][:2] == asked[1][:2]
    assert len(world.forward.batches) == 1


class StuckCable(Cable):
    """Carries, but nothing of its first connection once that is stuck: TCP would try for minutes, and tell nobody."""

    def __init__(self, listening: socket.socket, port: int) -> None:
        super().__init__(listening, port)
        self.first: socket.socket | None = None
        self.moves = threading.Event()
        self.moves.set()

    def _start(self, here: socket.socket) -> None:
        self.first = self.first or here
        super()._start(here)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        super()._pump(Held(source, self.moves) if self.first in (source, sink) else source, sink)  # type: ignore[arg-type]


class Held:
    """A socket from which nothing more is heard while it may not move."""

    def __init__(self, source: socket.socket, moves: threading.Event) -> None:
        self._source, self._moves = source, moves

    def recv(self, size: int) -> bytes:
        data = self._source.recv(size)
        self._moves.wait()
        return data

    def shutdown(self, how: int) -> None:
        self._source.shutdown(how)


def test_a_connection_that_is_stuck_costs_no_check_and_is_left_for_the_other(world: World) -> None:
    with (
        cable(int(world.client.target.split(":")[1]), StuckCable) as wire,
        CloudClient(wire.target) as client,
        CloudVerifier(client, world.terms) as verifier,
    ):
        assert isinstance(wire, StuckCable)
        first = check(verifier)
        wire.moves.clear()
        once = verify_request_bytes(3, [], [], 2) + GRPC_OVERHEAD_BYTES
        assert check(verifier).uplink_bytes == 2 * once, "the repeat took another connection"
        again = check(verifier)
        assert (again.uplink_bytes, again.next_token) == (once, first.next_token), "which is used first from now on"
        wire.moves.set()
