"""The device's session with the cloud, against a real server of a fake LLM."""

from __future__ import annotations

import re
import threading
from dataclasses import replace

import pytest

from runtime.client import CloudClient
from runtime.errors import CloudBusyError, CloudRejectedError, CloudUnavailableError, ModelChangedError
from runtime.link import LOST_AFTER_SECONDS, LinkEmulator
from runtime.synera.backoff import Backoff
from runtime.synera.chunk import Verdict
from runtime.synera.verifier import CloudVerifier
from runtime.wire.sizes import (
    GRPC_OVERHEAD_BYTES,
    open_request_bytes,
    open_response_bytes,
    verify_request_bytes,
    verify_response_bytes,
)
from tests.support.engine import VOCAB, continuation
from tests.support.verifying import NOBODY, PROMPT, ManualClock, World, lost, try_all, verdict_of


def check(verifier: CloudVerifier) -> Verdict:
    verifier.submit(PROMPT, [])
    return verdict_of(verifier)


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
    """An emulator that only takes notes, and lets the clock pass."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.sent: list[tuple[str, int]] = []

    def uplink(self, size_bytes: int) -> None:
        self.sent.append(("up", size_bytes - GRPC_OVERHEAD_BYTES))
        self._clock.seconds += 0.25

    def downlink(self, size_bytes: int) -> None:
        self.sent.append(("down", size_bytes - GRPC_OVERHEAD_BYTES))
        self._clock.seconds += 0.5


def test_every_message_goes_over_the_link_and_into_the_network_time(world: World) -> None:
    link = RecordingLink(world.clock)
    with CloudVerifier(world.client, world.terms, emulator=link, clock=world.clock) as verifier:  # type: ignore[arg-type]
        verifier.open(3)
        verifier.submit(PROMPT, [])
        verdict = verdict_of(verifier)
        assert verifier.probe_seconds() == 0.75
    assert verdict.network_seconds == pytest.approx(0.75 - verdict.queue_seconds - verdict.compute_seconds)
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
        verifier.submit(PROMPT, [])
        assert isinstance(lost(verifier).error, ModelChangedError)


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
            assert isinstance(refused, CloudBusyError)
            assert "all 2 sessions are in use" in str(refused)
        verifiers[0].close()
        wait_for(verifiers[0])
        assert answer(verifiers[2]) == continuation(PROMPT, 1)[0]
    finally:
        for each in verifiers:
            each.__exit__(None, None, None)


def test_a_dead_cloud_is_left_alone_ever_longer(absent: str) -> None:
    clock = ManualClock()
    with CloudClient(absent) as client, CloudVerifier(client, NOBODY, clock=clock) as verifier:
        verifier.open(3)  # does not raise, does not wait
        waits = []
        for _ in range(6):
            verifier.submit(PROMPT, [])
            gone = lost(verifier)
            assert isinstance(gone.error, CloudUnavailableError)
            assert "no verifier answers" in str(gone.error)
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


def test_a_cloud_that_is_left_alone_is_not_even_asked_to_release(world: World) -> None:
    clock, backoff = ManualClock(), Backoff()
    with CloudVerifier(world.client, world.terms, clock=clock, backoff=backoff) as verifier:
        check(verifier)
        backoff.failed(clock.now(), "another session found it dead")
        verifier.close()
        wait_for(verifier)
        assert list(try_all(world))  # its lease will release it
        clock.seconds += 1


def test_an_open_is_not_even_tried_while_the_cloud_is_left_alone(world: World) -> None:
    clock, backoff = ManualClock(), Backoff()
    backoff.failed(clock.now(), "dead")
    with CloudVerifier(world.client, world.terms, clock=clock, backoff=backoff) as verifier:
        verifier.open(3)
        verifier.submit(PROMPT, [])
        assert str(lost(verifier).error) == "dead (next try in 0.5 s)"
        wait_for(verifier)
        assert verifier.probe_seconds() is None
        assert not list(try_all(world))
        clock.seconds += 0.5
        assert check(verifier).next_token == continuation(PROMPT, 1)[0]  # opens within the check
        assert verifier.probe_seconds() is None


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


def test_an_outage_of_the_emulated_link_is_a_dead_cloud(world: World) -> None:
    """The rules that the replay mirrors, figure by figure."""
    clock, link = ManualClock(), Outage()

    def sleep(seconds: float) -> None:
        clock.seconds += seconds

    emulator = LinkEmulator(link, now=clock.now, sleep=sleep)
    with CloudVerifier(world.client, world.terms, emulator=emulator, clock=clock) as verifier:
        verifier.open(3)
        wait_for(verifier)
        assert (verifier.probe_seconds(), clock.now()) == (None, LOST_AFTER_SECONDS)
        verifier.submit(PROMPT, [1])
        refused = lost(verifier)
        assert "link is down" in str(refused.error)
        assert "next try in 0.5 s" in str(refused.error)
        assert (refused.uplink_bytes, refused.downlink_bytes, clock.now()) == (0, 0, LOST_AFTER_SECONDS)

        clock.seconds += 0.5
        link.messages = 1  # the open gets through, the check does not
        verifier.submit(PROMPT, [1])
        gone = lost(verifier)
        assert isinstance(gone.error, CloudUnavailableError)
        opened, asked = open_request_bytes(), verify_request_bytes(0, PROMPT, [1], 1)
        assert gone.uplink_bytes == opened + asked + 2 * GRPC_OVERHEAD_BYTES
        assert gone.downlink_bytes == open_response_bytes() + GRPC_OVERHEAD_BYTES
        assert clock.now() == pytest.approx(0.5 + 2 * LOST_AFTER_SECONDS)
        verifier.submit(PROMPT, [1])
        assert "next try in 1.0 s" in str(lost(verifier).error)  # the second failure in a row

        clock.seconds += 1.0
        link.messages = 2
        healed = check(verifier)
        once = verify_request_bytes(0, PROMPT, [], 1)
        assert healed.uplink_bytes == opened + once + 2 * GRPC_OVERHEAD_BYTES  # another session, from its beginning
        verifier.submit((*PROMPT, healed.next_token), [])
        again = lost(verifier)
        assert again.uplink_bytes == verify_request_bytes(4, [], [], 2) + GRPC_OVERHEAD_BYTES
        verifier.submit(PROMPT, [])
        assert "next try in 0.5 s" in str(lost(verifier).error)  # a verdict ended the row
        clock.seconds += 1.0


def test_an_outage_of_the_emulated_link_says_nothing_of_the_cloud(world: World) -> None:
    """The next answer has a link of its own, so it asks at once; as the replay does, where each answer starts afresh."""
    clock, backoff = ManualClock(), Backoff()

    def answer(link: Outage) -> CloudVerifier:
        def sleep(seconds: float) -> None:
            clock.seconds += seconds

        emulator = LinkEmulator(link, now=clock.now, sleep=sleep)
        return CloudVerifier(world.client, world.terms, emulator=emulator, clock=clock, backoff=backoff)

    with answer(Outage()) as verifier:
        verifier.open(3)
        wait_for(verifier)
        verifier.submit(PROMPT, [])
        assert "link is down" in str(lost(verifier).error)
    link = Outage()
    link.messages = 2
    with answer(link) as verifier:
        verifier.open(3)
        assert check(verifier).next_token >= 0


def test_what_travelled_for_a_lost_check_is_counted(world: World) -> None:
    """The request was sent, and what the cloud answered cost nothing of the answer's own."""
    with CloudVerifier(world.client, world.terms) as verifier:
        check(verifier)
        verifier.submit(PROMPT, [VOCAB])
        rejected = lost(verifier)
    assert rejected.uplink_bytes == verify_request_bytes(len(PROMPT), [], [VOCAB], 2) + GRPC_OVERHEAD_BYTES
    assert rejected.downlink_bytes == 0
