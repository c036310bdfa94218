"""A device's session with the cloud: opened, healed, abandoned, released. Every call here waits; one thread makes them.

What does not live here: how a request is carried there and repeated (runtime/courier.py), which answers make sense
(runtime/answers.py), and the thread (verifier.py, whose docstring states the rules).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from runtime.answers import Checked, ModelInfo, read_checked, read_model_info, read_opened
from runtime.client import CloudClient, new_key
from runtime.courier import Answered, Courier, Message
from runtime.errors import (
    BadAnswerError,
    CloudBusyError,
    CloudError,
    CloudUnavailableError,
    GivenUpError,
    LateError,
    LimitsChangedError,
    ModelChangedError,
    SessionLostError,
    TokenizerMismatchError,
    UnauthenticatedError,
)
from runtime.sampling import SampledDraft
from runtime.settings import shown
from runtime.synera.caution import Caution, CloudState
from runtime.synera.chunk import Lost, Verdict
from runtime.synera.held import HeldHistory
from runtime.wire import synera_pb2 as pb
from runtime.wire.sampled import proposals_message, sampling_message
from runtime.wire.sizes import on_the_link, open_request_bytes, open_response_bytes, verify_response_bytes

_LEFT_ALONE = (CloudUnavailableError, CloudBusyError, UnauthenticatedError, BadAnswerError, ModelChangedError)
"""After these the next check would fare no better; the others concern one request or session."""
_Said = TypeVar("_Said")


@dataclass(frozen=True, slots=True)
class Terms:
    """What device and cloud agreed on when they met; a cloud that departs from it is lost."""

    tokenizer_hash: str
    llm_fingerprint: str
    vocab: int
    """Token ids that both know."""


Meet = Callable[[str, ModelInfo], Terms]
"""Makes the terms of what the cloud at an address says that it serves, where device and cloud have not met yet; raises a CloudError or a
TokenizerMismatchError where they do not fit."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a device wants judged."""

    at: float
    """When it was submitted, on the device's clock."""
    history: tuple[int, ...]
    """All committed tokens."""
    draft: tuple[int, ...]
    sampled: SampledDraft | None
    """How the draft was drawn; None where decoding is greedy."""


@dataclass(slots=True)
class _Remote:
    """What the device knows of its session in the cloud."""

    session_id: str
    held: HeldHistory = field(default_factory=HeldHistory)


class RemoteSession:
    """One at a time with one verifier, for answer after answer."""

    def __init__(self, client: CloudClient, terms: Terms | Meet, courier: Courier, state: CloudState, caution: Caution) -> None:
        self._client, self._courier, self._state, self._caution = client, courier, state, caution
        self._clock = courier.clock
        self._terms: Terms | None = terms if isinstance(terms, Terms) else None
        self._meet: Meet | None = None if isinstance(terms, Terms) else terms
        self._remote: _Remote | None = None
        self._key = ""  # of an Open that may have been heard though its answer was not
        self._unfit: LimitsChangedError | None = None  # why the cloud is of no use for answers that begin as these do

    def let_go(self) -> None:
        """End the session, and whatever the cloud may still hold of it."""
        self.release()
        if self._key:
            self._state.leftovers.add(key=self._key)
            self._key = ""
        if self._caution.refused(self._clock.now()) is None:
            self._state.leftovers.release(self._client)

    def release(self) -> None:
        """End the session; the next one is opened after that."""
        remote, self._remote = self._remote, None
        if remote is None:
            return
        if self._caution.refused(self._clock.now()) is None:
            try:
                self._client.close_session(remote.session_id)
            except CloudUnavailableError as error:
                self._caution.failed(self._clock.now(), error)
            except (CloudError, TokenizerMismatchError):
                return  # its lease releases it
            else:
                return
        self._state.leftovers.add(session_id=remote.session_id)

    def begin(self, caution: Caution) -> None:
        """Begin another answer, once the session of the one before was released."""
        self._caution = caution
        if self._unfit is not None:
            caution.go_alone(self._unfit)

    def leave(self) -> None:
        """Have the session released when the cloud next answers, without asking it for that."""
        if self._remote is not None:
            self._state.leftovers.add(session_id=self._remote.session_id)
            self._remote = None

    def open_ahead(self, probes: bool) -> float | None:
        """Open a session before a check needs it, return the round trip in seconds, if any; `probes` where that is the breaker's
        probe.
        """
        self._caution.probes(probes)
        self.leave()
        patience = min(self._caution.patience.open_seconds(), self._client.deadlines.open_seconds)
        try:
            return self._connect(self._clock.now() + patience)
        except CloudError:
            return None
        finally:
            if not probes:
                self._courier.take_bytes()

    def check(self, asked: Submitted) -> Verdict | Lost:
        """Have a draft judged."""
        began = self._clock.now()
        if refused := self._caution.refused(began):
            return refused
        tokens = len(asked.history) + len(asked.draft)
        patience = min(self._caution.patience.check_seconds(tokens), self._client.deadlines.verify_seconds)
        try:
            checked, seconds, repeated = self._heal(asked, asked.at + patience)
        except CloudError as error:
            return Lost(error, *self._courier.take_bytes())
        self._caution.succeeded()
        self._state.leftovers.release(self._client)
        worked = checked.queue_seconds + checked.compute_seconds
        network = None if repeated else max(0.0, seconds - worked)
        self._caution.patience.checked(network, checked.queue_seconds, checked.compute_seconds, checked.processed_tokens)
        uplink_bytes, downlink_bytes = self._courier.take_bytes()
        return Verdict(
            accepted=checked.accepted,
            next_token=checked.next_token,
            queue_seconds=checked.queue_seconds,
            compute_seconds=checked.compute_seconds,
            cloud_seconds=checked.share_seconds,
            network_seconds=max(0.0, self._clock.now() - began - worked),
            cloud_tokens=checked.processed_tokens,
            uplink_bytes=uplink_bytes,
            downlink_bytes=downlink_bytes,
            load=float(checked.load),
        )

    def _heal(self, asked: Submitted, deadline: float) -> Answered[Checked]:
        for _ in range(2):
            if self._remote is None:
                self._connect(deadline)
            try:
                return self._send(asked, deadline)
            except SessionLostError as error:
                lost, self._remote = error, None
            except CloudError as error:
                self._check_failed(error)
                raise
        raise lost

    def _connect(self, deadline: float) -> float:
        """Open a session; return the round trip in seconds."""
        try:
            seconds = self._open_session(deadline)
        except CloudError as error:
            self._open_failed(error)
            raise
        self._caution.answered()
        self._state.leftovers.release(self._client)
        return seconds

    def _open_session(self, deadline: float) -> float:
        terms = self._terms = self._terms or self._ask_for_terms(deadline)
        self._courier.check_wanted()
        self._key = self._key or new_key()
        request = pb.OpenRequest(tokenizer_hash=terms.tokenizer_hash, key=self._key)
        size, answer_size = open_request_bytes(len(terms.tokenizer_hash)), on_the_link(open_response_bytes())
        opened = self._ask(Message("Open", request, on_the_link(size), read_opened, lambda _: answer_size), deadline)
        self._key, self._remote = "", _Remote(opened.said.session_id)
        self._caution.patience.opened(opened.seconds)
        if opened.said.fingerprint != terms.llm_fingerprint:
            raise ModelChangedError(
                f"the verifier now serves the model {shown(opened.said.fingerprint)}, it began with {shown(terms.llm_fingerprint)}; connect again to go on with that one"
            )
        return opened.seconds

    def _ask_for_terms(self, deadline: float) -> Terms:
        """Meet the cloud, which did not answer when the device began."""
        message = Message("ModelInfo", pb.ModelInfoRequest(), 0, read_model_info, lambda _: 0)
        assert self._meet is not None
        info = self._ask(message, deadline, over_link=False).said
        try:
            return self._meet(self._client.target, info)
        except TokenizerMismatchError as other:
            raise ModelChangedError(str(other)) from None

    def _send(self, asked: Submitted, deadline: float) -> Answered[Checked]:
        assert self._remote is not None
        assert self._terms is not None
        held, sampled = self._remote.held, asked.sampled
        check = held.request(asked.history, asked.draft, sampled)
        request = pb.VerifyRequest(
            session_id=self._remote.session_id,
            seq=check.seq,
            prefix_length=check.prefix_length,
            context=check.context,
            draft=check.draft,
            sampling=sampling_message(sampled.sampling if sampled else None),
            proposals=proposals_message(sampled),
        )
        read = partial(
            read_checked,
            history_tokens=len(asked.history),
            draft=asked.draft,
            vocab=self._terms.vocab,
            longest_seconds=self._client.deadlines.verify_seconds,
        )
        answered = self._ask(Message("Verify", request, check.link_bytes, read, _verdict_bytes), deadline)
        held.settled(asked.history, asked.draft, answered.said.accepted, answered.said.next_token)
        return answered

    def _ask(self, message: Message[_Said], deadline: float, *, over_link: bool = True) -> Answered[_Said]:
        """Have a request answered; once device and cloud have met, another tokenizer is another model."""
        try:
            return self._courier.ask(self._client, message, deadline, over_link=over_link)
        except TokenizerMismatchError as other:
            raise ModelChangedError(str(other)) from None

    # ------------------------------------------------------------ what became of it

    def _open_failed(self, error: CloudError) -> None:
        if isinstance(error, LateError):
            self._caution.patience.open_was_late()
        if isinstance(error, BadAnswerError) and self._key:
            self._state.leftovers.add(key=self._key)
        if not isinstance(error, CloudUnavailableError):  # else the next Open repeats this one
            self._key = ""
        self._abandon(error)
        if isinstance(error, LimitsChangedError):
            self._unfit = error
            self._caution.go_alone(error)
        elif isinstance(error, GivenUpError):
            self._caution.withdraw()
        else:
            self._caution.failed(self._clock.now(), error)

    def _check_failed(self, error: CloudError) -> None:
        if isinstance(error, LateError):
            self._caution.patience.check_was_late()
        self._abandon(error)
        if isinstance(error, _LEFT_ALONE) and not isinstance(error, GivenUpError):
            self._caution.failed(self._clock.now(), error)

    def _abandon(self, error: CloudError) -> None:
        """Let go of the session, as its state is not known; the next check starts from a clean one."""
        self.leave()
        if not isinstance(error, CloudUnavailableError):  # the cloud is there
            self._state.leftovers.release(self._client)


def _verdict_bytes(said: Checked) -> int:
    return on_the_link(verify_response_bytes(said.accepted, said.next_token, said.processed_tokens, said.load))
