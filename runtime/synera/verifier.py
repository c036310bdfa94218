"""The live verifier: a device's session with the cloud, kept on its own thread, healed when it is lost.

What does not live here: calls and their errors (runtime/client.py), what a verdict means for the answer (session.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from runtime.client import CloudClient
from runtime.clock import Clock, RealClock
from runtime.errors import CloudError, CloudUnavailableError, SessionLostError
from runtime.link import LinkEmulator
from runtime.synera.chunk import Lost, Verdict
from runtime.synera.held import HeldHistory
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import on_the_link, open_request_bytes, open_response_bytes, verify_response_bytes


@dataclass(slots=True)
class _Remote:
    """What the device knows of its session in the cloud."""

    session_id: str
    held: HeldHistory = field(default_factory=HeldHistory)


class CloudVerifier:
    """Implements :class:`runtime.synera.session.Verifier`: one thread talks to the cloud, in order, while the device goes on.

    A lost session is opened again and sent everything, once a check. While the cloud is unavailable checks fail at
    once, and it is tried again after 0.5 s, then 1, 2, 4 and 8 s.
    """

    FIRST_BACKOFF_SECONDS = 0.5
    LONGEST_BACKOFF_SECONDS = 8.0

    def __init__(
        self, client: CloudClient, tokenizer_hash: str, *, emulator: LinkEmulator | None = None, clock: Clock | None = None
    ) -> None:
        """Start the thread; nothing is sent yet.

        Args:
            client: the channel; not closed here.
            tokenizer_hash: of the device's tokenizer.
            emulator: slows messages down as a link would.
            clock: measures round trips and backs off.
        """
        self._client, self._tokenizer_hash, self._emulator = client, tokenizer_hash, emulator
        self._clock = clock or RealClock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="verifier")
        self._opening: Future[float] | None = None
        self._checking: Future[Verdict | Lost] | None = None
        self._releasing: Future[None] | None = None
        self._shut = False
        # Below: touched by the worker only; `_retry_at` and `_why` are also read by `submit`.
        self._remote: _Remote | None = None
        self._backoff_seconds = 0.0
        self._retry_at = 0.0
        self._why = ""
        self._uplink_bytes = self._downlink_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    def open(self, prompt_tokens: int) -> None:
        """Start a session without waiting for it; an earlier one is released first. Failures show at `result`."""
        self._checking = None
        self._opening = self._worker.submit(self._reopen)

    def probe_seconds(self) -> float | None:
        """Round trip of `open`, link included; None until it is known, and when it failed."""
        if self._opening is None or not self._opening.done() or self._opening.exception():
            return None
        return self._opening.result()

    def submit(self, history: Sequence[int], draft: Sequence[int]) -> None:
        """See :class:`runtime.synera.session.Verifier`; while the cloud is left alone the check is lost at once.

        Raises:
            RuntimeError: the check before has not been asked for its result.
        """
        if self._checking is not None:
            raise RuntimeError("one check at a time: call result() before the next submit()")
        if refusal := self._refusal():
            self._checking = Future()
            self._checking.set_result(Lost(refusal))
        else:
            self._checking = self._worker.submit(self._check, tuple(history), tuple(draft))

    def result(self) -> Verdict | Lost:
        """See :class:`runtime.synera.session.Verifier`.

        Raises:
            TokenizerMismatchError: there can be no verdict from this cloud.
            RuntimeError: nothing was submitted.
        """
        if self._checking is None:
            raise RuntimeError("no check in flight: call submit() first")
        checking, self._checking = self._checking, None
        return checking.result()

    def close(self) -> None:
        """Have the session released, best effort, without waiting for it."""
        self._checking = None
        if not self._shut:
            self._releasing = self._worker.submit(self._release)

    def shutdown(self) -> None:
        """Release the session and end the thread; waits for what is in flight."""
        self.close()
        self._shut = True
        self._worker.shutdown()
        if self._releasing is not None:
            self._releasing.result()

    # ------------------------------------------------------------ on the worker

    def _release(self) -> None:
        remote, self._remote = self._remote, None
        if remote is None:
            return
        try:
            self._client.close_session(remote.session_id)
        except CloudError:
            return  # its lease releases it

    def _reopen(self) -> float:
        self._release()
        try:
            return self._connect()
        except CloudUnavailableError as gone:
            self._back_off(gone)
            raise

    def _connect(self) -> float:
        """Open a session; return the round trip in seconds."""
        began = self._clock.now()
        self._up(on_the_link(open_request_bytes(len(self._tokenizer_hash))))
        self._remote = _Remote(self._client.open(self._tokenizer_hash))
        self._down(on_the_link(open_response_bytes()))
        return self._clock.now() - began

    def _check(self, history: tuple[int, ...], draft: tuple[int, ...]) -> Verdict | Lost:
        if refusal := self._refusal():
            return Lost(refusal)
        began, self._uplink_bytes, self._downlink_bytes = self._clock.now(), 0, 0
        try:
            response = self._heal(history, draft)
        except CloudUnavailableError as gone:
            self._remote = None
            self._back_off(gone)
            return Lost(gone, self._uplink_bytes, self._downlink_bytes)
        except CloudError as lost:
            self._release()  # whatever state the session is in, the next check starts from a clean one
            return Lost(lost, self._uplink_bytes, self._downlink_bytes)
        self._backoff_seconds = 0.0
        queue, compute = response.queue_ms / 1e3, response.compute_ms / 1e3
        return Verdict(
            accepted=response.accepted,
            next_token=response.next_token,
            queue_seconds=queue,
            compute_seconds=compute,
            cloud_seconds=response.compute_share_ms / 1e3,
            network_seconds=max(0.0, self._clock.now() - began - queue - compute),
            cloud_tokens=response.processed_tokens,
            uplink_bytes=self._uplink_bytes,
            downlink_bytes=self._downlink_bytes,
            load=float(response.load),
        )

    def _heal(self, history: tuple[int, ...], draft: tuple[int, ...]) -> pb.VerifyResponse:
        if self._remote is None:
            self._connect()
        try:
            return self._send(history, draft)
        except SessionLostError:
            self._connect()
            return self._send(history, draft)

    def _send(self, history: tuple[int, ...], draft: tuple[int, ...]) -> pb.VerifyResponse:
        remote = self._remote
        assert remote is not None  # _heal connects first
        check = remote.held.request(history, draft)
        self._up(check.link_bytes)
        request = pb.VerifyRequest(
            session_id=remote.session_id,
            seq=check.seq,
            prefix_length=check.prefix_length,
            context=check.context,
            draft=check.draft,
        )
        r = self._client.verify(request)
        self._down(on_the_link(verify_response_bytes(r.accepted, r.next_token, r.processed_tokens, r.load)))
        remote.held.settled(history, draft, r.accepted, r.next_token)
        return r

    def _up(self, link_bytes: int) -> None:
        self._uplink_bytes += link_bytes
        if self._emulator:
            self._emulator.uplink(link_bytes)

    def _down(self, link_bytes: int) -> None:
        self._downlink_bytes += link_bytes
        if self._emulator:
            self._emulator.downlink(link_bytes)

    def _back_off(self, gone: CloudUnavailableError) -> None:
        longer = max(self.FIRST_BACKOFF_SECONDS, 2 * self._backoff_seconds)
        self._backoff_seconds = min(longer, self.LONGEST_BACKOFF_SECONDS)
        self._why, self._retry_at = str(gone), self._clock.now() + self._backoff_seconds

    def _refusal(self) -> CloudUnavailableError | None:
        """Why the cloud is not even asked now, if it is not."""
        remaining = self._retry_at - self._clock.now()
        if self._why and remaining > 0:
            return CloudUnavailableError(f"{self._why} (next try in {remaining:.1f} s)")
        return None
