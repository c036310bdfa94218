"""The device's session with the cloud, against a real server of a fake LLM."""

from __future__ import annotations

import threading

import pytest

from runtime.client import CloudClient
from runtime.errors import CloudBusyError, CloudRejectedError, CloudUnavailableError, TokenizerMismatchError
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
from tests.support.verifying import PROMPT, ManualClock, World, lost, try_all, verdict_of


def check(verifier: CloudVerifier) -> Verdict:
    verifier.submit(PROMPT, [])
    return verdict_of(verifier)


def test_checks_follow_each_other_and_count_their_bytes(world: World) -> None:
    answer = continuation(PROMPT, 8)
    with CloudVerifier(world.client, world.tokenizer_hash, clock=world.clock) as verifier:
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
    with CloudVerifier(world.client, world.tokenizer_hash) as verifier:
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
    with CloudVerifier(world.client, world.tokenizer_hash, emulator=link, clock=world.clock) as verifier:  # type: ignore[arg-type]
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
    with CloudVerifier(world.client, world.tokenizer_hash) as verifier:
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


def test_a_wrong_tokenizer_is_told_as_such(world: World) -> None:
    with CloudVerifier(world.client, "other") as verifier:
        verifier.open(3)
        verifier.submit(PROMPT, [])
        with pytest.raises(TokenizerMismatchError, match=f"'other'.*'{world.tokenizer_hash}'"):
            verifier.result()
        assert verifier.probe_seconds() is None


def test_a_rejected_check_leaves_the_next_one_a_clean_session(world: World) -> None:
    with CloudVerifier(world.client, world.tokenizer_hash) as verifier:
        verifier.submit(PROMPT, [VOCAB])
        rejected = lost(verifier)
        assert isinstance(rejected.error, CloudRejectedError)
        assert f"token {VOCAB} is outside" in str(rejected.error)
        assert check(verifier).next_token == continuation(PROMPT, 1)[0]


def test_a_full_cloud_is_busy_and_a_new_answer_releases_the_old_session(world: World) -> None:
    def answer(verifier: CloudVerifier) -> int:
        verifier.open(3)
        return check(verifier).next_token

    verifiers = [CloudVerifier(world.client, world.tokenizer_hash) for _ in range(3)]
    try:
        for _ in range(2):
            assert [answer(v) for v in verifiers[:2]] == continuation(PROMPT, 1) * 2
            verifiers[2].open(3)
            verifiers[2].submit(PROMPT, [])
            refused = lost(verifiers[2]).error
            assert isinstance(refused, CloudBusyError)
            assert "all 2 sessions are in use" in str(refused)
        verifiers[0].shutdown()
        assert answer(verifiers[2]) == continuation(PROMPT, 1)[0]
    finally:
        for each in verifiers:
            each.shutdown()


def test_a_dead_cloud_is_left_alone_ever_longer(absent: str) -> None:
    clock = ManualClock()
    with CloudClient(absent) as client, CloudVerifier(client, "hash", clock=clock) as verifier:
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
    with CloudVerifier(world.client, world.tokenizer_hash) as verifier:
        with pytest.raises(RuntimeError, match="call submit"):
            verifier.result()
        verifier.submit(PROMPT, [])
        with pytest.raises(RuntimeError, match="call result"):
            verifier.submit(PROMPT, [])


def test_shutdown_ends_the_thread_and_may_be_repeated(world: World) -> None:
    before = set(threading.enumerate())
    verifier = CloudVerifier(world.client, world.tokenizer_hash)
    verifier.open(3)
    verifier.close()
    verifier.shutdown()
    verifier.shutdown()
    verifier.close()
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("verifier")]
    assert not list(try_all(world))


def test_what_travelled_for_a_lost_check_is_counted(world: World) -> None:
    """The request was sent, and what the cloud answered cost nothing of the answer's own."""
    with CloudVerifier(world.client, world.tokenizer_hash) as verifier:
        check(verifier)
        verifier.submit(PROMPT, [VOCAB])
        rejected = lost(verifier)
    assert rejected.uplink_bytes == verify_request_bytes(len(PROMPT), [], [VOCAB], 2) + GRPC_OVERHEAD_BYTES
    assert rejected.downlink_bytes == 0
