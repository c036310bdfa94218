"""The live verifier: a device's session with the cloud, kept on a thread, healed when it is lost.

What does not live here: calls and their errors (runtime/client.py), which answers make sense (runtime/answers.py), what a
verdict means for the answer (session.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

from runtime.answers import Checked, read_checked
from runtime.client import CloudClient
from runtime.clock import Clock, RealClock
from runtime.errors import (
    BadAnswerError,
    CloudError,
    CloudUnavailableError,
    LinkDownError,
    ModelChangedError,
    SessionLostError,
    TokenizerMismatchError,
)
from runtime.link import LinkEmulator
from runtime.sampling import SampledDraft
from runtime.settings import shown
from runtime.synera.backoff import Backoff
from runtime.synera.chunk import Lost, Verdict
from runtime.synera.held import HeldHistory
from runtime.wire import synera_pb2 as pb
from runtime.wire.sampled import proposals_message, sampling_message
from runtime.wire.sizes import on_the_link, open_request_bytes, open_response_bytes, verify_response_bytes

_LEFT_ALONE = (CloudUnavailableError, BadAnswerError, ModelChangedError)
"""After these the next check would fare no better; the others concern one request or session."""
_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Terms:
    """What device and cloud agreed on when they met; a cloud that departs from it is lost."""

    tokenizer_hash: str
    llm_fingerprint: str
    vocab: int
    """Token ids that both know."""


@dataclass(slots=True)
class _Remote:
    """What the device knows of its session in the cloud."""

    session_id: str
    held: HeldHistory = field(default_factory=HeldHistory)


class CloudVerifier:
    """Implements :class:`runtime.synera.session.Verifier`: one thread talks to the cloud, in order, while the device goes on.

    Whatever the cloud does, a check ends as a verdict that makes sense or as :class:`Lost`. The replay mirrors these rules:

    * Opening. `open` sends an Open unless the cloud is being left alone; the first check waits for its end. Its round trip is
      the probe. An Open that failed or was not sent leaves the probe unknown for the answer.
    * Refusal. While the cloud is left alone a check is lost at once: nothing is sent, no bytes count. That is looked at when the
      check is submitted and again once the Open before it has ended.
    * Loss. A message that does not get through (no cloud, deadline, an outage of the emulated link) ends the check. Bytes sent
      for it count, also those of that message; an answer that never came counts none, nor does one that makes no sense. An
      outage is known `LOST_AFTER_SECONDS` after the message was sent.
    * Back-off. From the moment at which a message, of a check or of an Open, is known not to get through, the cloud is left alone by
      :class:`Backoff`; so it is when it serves another model or talks nonsense. Only a verdict ends the row of failures. What
      outages of the emulated link teach is this answer's alone, as the next one has a link of its own.
    * Healing. What was lost under way takes the session with it: the next check that is sent opens another first, and sends the whole
      history with seq 1; both messages' bytes, up and down, count into that check. A session that the cloud lost is replaced
      within the check, once.
    * Release. Not over the emulated link, and free. While the cloud is left alone it is not tried: the lease ends the session.
    """

    def __init__(
        self,
        client: CloudClient,
        terms: Terms,
        *,
        emulator: LinkEmulator | None = None,
        clock: Clock | None = None,
        backoff: Backoff | None = None,
        worker: ThreadPoolExecutor | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            client: the channel; not closed here.
            terms: what the cloud is held to.
            emulator: slows messages down as a link would.
            clock: measures round trips and backs off.
            backoff: shared with other sessions of the same cloud; None begins afresh.
            worker: one thread, which stays its owner's and has nothing else to do before `retire`; None starts one.
        """
        self._client, self._terms, self._emulator = client, terms, emulator
        self._clock, self._backoff = clock or RealClock(), backoff or Backoff()
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="verifier")
        self._link_backoff = Backoff()
        self._opening: Future[float | None] | None = None
        self._checking: Future[Verdict | Lost] | None = None
        self._known_at = 0.0
        self._released: Future[None] | None = None
        # Below: touched by the worker only.
        self._remote: _Remote | None = None
        self._uplink_bytes = self._downlink_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        released = self.retire()
        self._worker.shutdown()
        released.result()

    def open(self, prompt_tokens: int) -> None:
        """Start a session without waiting for it; an earlier one is released first. Failures show at `result`."""
        self._checking = None
        self._opening = self._run(self._reopen)

    def probe_seconds(self) -> float | None:
        """Round trip of `open`, link included; None until it is known, and when it failed."""
        return self._opening.result() if self._opening is not None and self._opening.done() else None

    def submit(self, history: Sequence[int], draft: Sequence[int], sampled: SampledDraft | None = None) -> None:
        """See :class:`runtime.synera.session.Verifier`; while the cloud is left alone the check is lost at once.

        Raises:
            RuntimeError: the check before has not been asked for its result.
        """
        if self._checking is not None:
            raise RuntimeError("one check at a time: call result() before the next submit()")
        if refused := self._refused():
            self._known_at = self._clock.now()
            self._checking = Future()
            self._checking.set_result(refused)
        else:
            self._checking = self._run(self._timed_check, tuple(history), tuple(draft), sampled)

    def ready(self) -> bool:
        """See :class:`runtime.synera.session.Verifier`."""
        return self._checking is None or self._checking.done()

    def known_at(self) -> float:
        """See :class:`runtime.synera.session.Verifier`."""
        return self._known_at

    def result(self) -> Verdict | Lost:
        """See :class:`runtime.synera.session.Verifier`.

        Raises:
            RuntimeError: nothing was submitted.
        """
        if self._checking is None:
            raise RuntimeError("no check in flight: call submit() first")
        checking, self._checking = self._checking, None
        return checking.result()

    def close(self) -> None:
        """Have the session released, best effort, without waiting for it."""
        self._checking = None
        if self._released is None:
            self._run(self._release)

    def retire(self) -> Future[None]:
        """Have the session released for the last time, without waiting for it; what is returned tells when that is over."""
        self._checking = None
        if self._released is None:
            self._released = self._run(self._release)
        return self._released

    def _run(self, work: Callable[..., _Answer], *arguments: object) -> Future[_Answer]:
        if self._released is not None:
            raise RuntimeError("this verifier has retired; take a new one")
        return self._worker.submit(work, *arguments)

    # ------------------------------------------------------------ on the worker

    def _release(self) -> None:
        remote, self._remote = self._remote, None
        if remote is None or self._refused():
            return
        try:
            self._ask(self._client.close_session, remote.session_id)
        except CloudError:
            return  # its lease releases it

    def _reopen(self) -> float | None:
        """Replace the session; return the round trip in seconds, if there was one."""
        self._release()
        if self._refused():
            return None
        began = self._clock.now()
        try:
            self._connect()
        except CloudError as error:
            self._abandon(error)
            return None
        return self._clock.now() - began

    def _timed_check(self, history: tuple[int, ...], draft: tuple[int, ...], sampled: SampledDraft | None) -> Verdict | Lost:
        reply = self._check(history, draft, sampled)
        self._known_at = self._clock.now()
        return reply

    def _check(self, history: tuple[int, ...], draft: tuple[int, ...], sampled: SampledDraft | None) -> Verdict | Lost:
        if refused := self._refused():
            return refused
        began, self._uplink_bytes, self._downlink_bytes = self._clock.now(), 0, 0
        try:
            checked = self._heal(history, draft, sampled)
        except CloudError as error:
            self._abandon(error)
            return Lost(error, self._uplink_bytes, self._downlink_bytes)
        for backoff in (self._backoff, self._link_backoff):
            backoff.succeeded()
        trip = self._clock.now() - began
        return Verdict(
            accepted=checked.accepted,
            next_token=checked.next_token,
            queue_seconds=checked.queue_seconds,
            compute_seconds=checked.compute_seconds,
            cloud_seconds=checked.share_seconds,
            network_seconds=max(0.0, trip - checked.queue_seconds - checked.compute_seconds),
            cloud_tokens=checked.processed_tokens,
            uplink_bytes=self._uplink_bytes,
            downlink_bytes=self._downlink_bytes,
            load=float(checked.load),
        )

    def _heal(self, history: tuple[int, ...], draft: tuple[int, ...], sampled: SampledDraft | None) -> Checked:
        try:
            return self._send(self._remote or self._connect(), history, draft, sampled)
        except SessionLostError:
            return self._send(self._connect(), history, draft, sampled)

    def _connect(self) -> _Remote:
        """Open a session."""
        terms = self._terms
        self._up(on_the_link(open_request_bytes(len(terms.tokenizer_hash))))
        opened = self._ask(self._client.open, terms.tokenizer_hash)
        self._down(on_the_link(open_response_bytes()))
        self._remote = _Remote(opened.session_id)
        if opened.fingerprint != terms.llm_fingerprint:
            raise ModelChangedError(
                f"the verifier now serves the model {shown(opened.fingerprint)}, it began with {shown(terms.llm_fingerprint)}; connect again to go on with that one"
            )
        return self._remote

    def _send(self, remote: _Remote, history: tuple[int, ...], draft: tuple[int, ...], sampled: SampledDraft | None) -> Checked:
        check = remote.held.request(history, draft, sampled)
        self._up(check.link_bytes)
        request = pb.VerifyRequest(
            session_id=remote.session_id,
            seq=check.seq,
            prefix_length=check.prefix_length,
            context=check.context,
            draft=check.draft,
            sampling=sampling_message(sampled.sampling if sampled else None),
            proposals=proposals_message(sampled),
        )
        said = read_checked(
            self._ask(self._client.verify, request),
            history_tokens=len(history),
            draft=draft,
            vocab=self._terms.vocab,
            longest_seconds=self._client.deadlines.verify_seconds,
        )
        self._down(on_the_link(verify_response_bytes(said.accepted, said.next_token, said.processed_tokens, said.load)))
        remote.held.settled(history, draft, said.accepted, said.next_token)
        return said

    def _ask(self, call: Callable[[_Asked], _Answer], asked: _Asked) -> _Answer:
        """Make a call; once device and cloud have met, another tokenizer is another model."""
        try:
            return call(asked)
        except TokenizerMismatchError as other:
            raise ModelChangedError(str(other)) from None

    def _abandon(self, error: CloudError) -> None:
        """Let go of the session, as its state is not known; the next check starts from a clean one."""
        if isinstance(error, CloudUnavailableError):
            self._remote = None
        self._release()
        if isinstance(error, _LEFT_ALONE):
            backoff = self._link_backoff if isinstance(error, LinkDownError) else self._backoff
            backoff.failed(self._clock.now(), str(error))

    def _up(self, link_bytes: int) -> None:
        self._uplink_bytes += link_bytes
        if self._emulator:
            self._emulator.uplink(link_bytes)

    def _down(self, link_bytes: int) -> None:
        self._downlink_bytes += link_bytes
        if self._emulator:
            self._emulator.downlink(link_bytes)

    def _refused(self) -> Lost | None:
        """How a check is lost now without being sent, if it is."""
        now = self._clock.now()
        refusal = self._link_backoff.refusal(now) or self._backoff.refusal(now)
        return Lost(CloudUnavailableError(refusal)) if refusal else None
