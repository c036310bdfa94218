"""The device's side of the wire: a call with deadline and retries, one map from status to exception.

What does not live here: which answers are believed (answers.py), a request that is repeated and crosses an emulated link
(courier.py), and the session over it with its healing (synera/verifier.py).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import count
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from runtime.answers import (
    GeneratedToken,
    ModelInfo,
    Opened,
    SketchedLine,
    read_generated,
    read_model_info,
    read_opened,
    read_retry_after,
    read_sketched,
)
from runtime.channels import Channels
from runtime.credentials import Credentials
from runtime.deadline import LONGEST_CHECK_SECONDS, LONGEST_OPEN_SECONDS
from runtime.errors import (
    BadAnswerError,
    CloudBusyError,
    CloudError,
    CloudRejectedError,
    CloudUnavailableError,
    LateError,
    SyneraError,
    UnauthenticatedError,
)
from runtime.sampling import Sampling
from runtime.settings import plain, within
from runtime.wire import ERROR_KIND_KEY, RETRY_AFTER_KEY
from runtime.wire import synera_pb2 as pb
from runtime.wire.address import Address, check_plaintext
from runtime.wire.sampled import sampling_message
from runtime.wire.sizes import KEY_CHARACTERS
from runtime.wire.statuses import STATUS

_Read = TypeVar("_Read")
_NAMED = {kind.__name__: (kind, status) for kind, status in STATUS.items()}
RETRIES = 3
"""How often a call is made again that was refused, as no connection could be made or it broke."""
_RETRY_SECONDS = 0.1


@dataclass(frozen=True)
class Deadlines:
    """How long a call may take at most, retries included, in seconds; past it the cloud counts as unavailable.

    A session waits no longer for an Open or a check than what it has measured gives reason to (deadline.py).
    """

    info_seconds: float = 5.0
    open_seconds: float = LONGEST_OPEN_SECONDS
    verify_seconds: float = LONGEST_CHECK_SECONDS
    close_seconds: float = 1.0
    generate_seconds: float = 300.0
    """For the whole stream."""
    forward_seconds: float = 300.0
    """Likewise of states; another one goes on where it ends."""

    def __post_init__(self) -> None:
        for each in fields(self):
            within(each.name, getattr(self, each.name), 0.001, 86_400.0)


def retry_seconds(refusals: int) -> float:
    """How long to wait after a call was refused for the n-th time, from 1, before it is made again."""
    return _RETRY_SECONDS * 2 ** (refusals - 1)


def new_key() -> str:
    """Draw the key of an Open, by which a repeat gets the same session."""
    return secrets.token_hex(KEY_CHARACTERS // 2)


class Asked:
    """A call under way; over once `on_end` was called."""

    def __init__(self, client: CloudClient, future: Any, channel: int) -> None:
        self._client, self._future, self.channel = client, future, channel

    def cancel(self) -> None:
        """Have it end now, if it has not."""
        self._future.cancel()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return bool(self._future.done())

    @property
    def answered(self) -> bool:
        """Whether there is an answer, which need not make sense: once it is over."""
        return self._future.code() is grpc.StatusCode.OK

    @property
    def refused(self) -> bool:
        """Whether no connection could be made, or it broke: once it is over."""
        return self._future.code() is grpc.StatusCode.UNAVAILABLE

    def answer(self) -> Any:
        """What was answered, once it is over, as it came: see answers.py. Its channel is then the first to be used.

        Raises:
            CloudError: no answer, or one that cannot be read.
        """
        if not self.answered:
            raise self._client.error_of(self._future)
        self._client.prefer(self.channel)
        answer = self._future.result()
        if isinstance(answer, BadAnswerError):
            raise answer
        return answer


class Stream(Generic[_Read]):
    """What a verifier streams, read as it comes. One thread iterates; any may close it, which cancels the rest."""

    def __init__(self, client: CloudClient, call: Any, read: Callable[[Any], _Read]) -> None:
        self._client, self._call, self._read = client, call, read

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Read:
        try:
            answer = next(self._call)
            if isinstance(answer, BadAnswerError):
                raise answer
            return self._read(answer)
        except grpc.RpcError as failed:
            raise self._client.error_of(failed) from None
        except BadAnswerError:
            self.close()
            raise

    def close(self) -> None:
        """Cancel what has not come; who iterates is told that it was cancelled, unless all has."""
        self._call.cancel()


class CloudClient:
    """Calls of one verifier; threads may share it."""

    def __init__(
        self,
        target: str,
        *,
        credentials: Credentials | None = None,
        allow_plaintext: bool = False,
        deadlines: Deadlines | None = None,
        certified: str | None = None,
    ) -> None:
        """Prepare the channel; nothing is sent yet.

        Args:
            target: `host:port`, as :meth:`Address.parse` takes it.
            credentials: what this device shows, and knows the cloud by; None is plaintext and no name.
            allow_plaintext: accept plaintext to another machine, also of a token.
            deadlines: for each call.
            certified: the name that the cloud's certificate must be of, where that is not the host of `target`.

        Raises:
            SettingError: `target` is no such address, or a file of the credentials cannot be used.
            PlaintextRefusedError: plaintext to a host that is not loopback.
            OSError: a file of the credentials cannot be read.
        """
        address, self.deadlines, given = Address.parse(target), deadlines or Deadlines(), credentials or Credentials()
        self.target = str(address)
        way_out = "give tls_ca, or set allow_plaintext if the network is trusted"
        check_plaintext(address.host, encrypted=given.tls_ca is not None, allow_plaintext=allow_plaintext, way_out=way_out)
        self._metadata = given.metadata
        self._channels = Channels(address.uri, given.channel(), certified)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the channels; calls in flight and later ones fail as unavailable."""
        self._channels.close()

    def model_info(self) -> ModelInfo:
        """Ask what is served.

        Raises:
            CloudError: no answer, or one that makes no sense.
        """
        return read_model_info(self._call(self._stub.ModelInfo, pb.ModelInfoRequest(), self.deadlines.info_seconds))

    def open(self, tokenizer_hash: str) -> Opened:
        """Start a session; return its id and the fingerprint of the model that serves it.

        Raises:
            TokenizerMismatchError: the cloud's model has another tokenizer.
            CloudError: no session.
        """
        request = pb.OpenRequest(tokenizer_hash=tokenizer_hash, key=new_key())
        return read_opened(self._call(self._stub.Open, request, self.deadlines.open_seconds))

    def verify(self, request: pb.VerifyRequest) -> pb.VerifyResponse:
        """Have a draft checked; safe to repeat by (session_id, seq). The answer is as it came: see :func:`answers.read_checked`.

        Raises:
            CloudError: no verdict; SessionLostError asks for a new session.
        """
        return self._call(self._stub.Verify, request, self.deadlines.verify_seconds)

    def close_session(self, session_id: str) -> None:
        """Release a session.

        Raises:
            CloudError: no answer; its lease will release it.
        """
        self._call(self._stub.Close, pb.CloseRequest(session_id=session_id), self.deadlines.close_seconds, retries=0)

    def ask(
        self, method: str, request: Any, seconds: float, on_end: Callable[[Asked], None], *, elsewhere: bool = False
    ) -> Asked:
        """Make a call and do not wait for it.

        Args:
            method: of the service; one that answers with one message.
            request: its message.
            seconds: how long it may take.
            on_end: called with it once it is over, on a thread of gRPC's, or before this returns.
            elsewhere: over the channel that would not be used first.

        Raises:
            CloudUnavailableError: the client is closed.
        """
        channels = self._channels
        number = channels.preferred ^ elsewhere

        def call() -> Any:
            stub = channels.stub(number)
            return getattr(stub, method).future(request, timeout=max(0.001, seconds), metadata=self._metadata)

        future = self._unless_closed(call)
        asked = Asked(self, future, number)
        future.add_done_callback(lambda _: on_end(asked))
        return asked

    @property
    def preferred(self) -> int:
        """Number of the channel that is used first, 0 or 1."""
        return self._channels.preferred

    def prefer(self, channel: int) -> None:
        """Use that channel first."""
        self._channels.preferred = channel

    def avoid(self, channel: int) -> None:
        """Use the other one first, as nothing came over that."""
        if self._channels.preferred == channel:
            self._channels.preferred = 1 - channel

    def widen(self, longest_answer_bytes: int) -> None:
        """Take answers up to this size from now on: hidden states are longer than what a verifier of tokens has to say.

        Raises:
            CloudUnavailableError: the client is closed.
        """
        self._unless_closed(lambda: self._channels.widen(longest_answer_bytes))

    def late_error(self) -> LateError:
        """What an answer that did not come in time is told as."""
        return LateError(
            f"the verifier at {self.target} did not answer in time; it may be overloaded or stopped, or allow a longer deadline"
        )

    def generate(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | None = None,
        log_probabilities: bool = False,
    ) -> Stream[GeneratedToken]:
        """Begin to have the LLM alone decode, greedily without `sampling`; tokens come as they are iterated over.

        With `log_probabilities` each comes with its own.

        Raises:
            CloudError: the stream could not start; while it is iterated over: it broke, or makes no sense.
        """
        message = sampling_message(sampling)
        request = pb.GenerateRequest(
            prompt=prompt, max_new_tokens=max_new_tokens, sampling=message, log_probabilities=log_probabilities
        )
        longest, counted = self.deadlines.generate_seconds, count(1)

        def read(answer: pb.GenerateResponse) -> GeneratedToken:
            if next(counted) > max_new_tokens:
                raise BadAnswerError(f"the verifier streams more than the {max_new_tokens} tokens that were asked for")
            return read_generated(answer, longest, log_probabilities)

        return Stream(self, self._attempt(self._stub.Generate, request, longest), read)

    def sketch(self, prompt: str, length: int, max_new_tokens: int, sampling: Sampling | None = None) -> Stream[SketchedLine]:
        """Begin a sketch of the answer to a prompt, greedily without `sampling`; lines come as they are iterated over.

        Args:
            prompt: as a user wrote it.
            length: one of :data:`runtime.pice.form.LENGTHS`.
            max_new_tokens: most that are written.
            sampling: how it is drawn.

        Raises:
            CloudError: the stream could not start; while it is iterated over: it broke, or makes no sense.
        """
        message = sampling_message(sampling)
        request = pb.SketchRequest(prompt=prompt, length=length, max_new_tokens=max_new_tokens, sampling=message)
        longest, written = self.deadlines.generate_seconds, 0

        def read(answer: pb.SketchResponse) -> SketchedLine:
            nonlocal written
            line = read_sketched(answer, written, max_new_tokens, longest)
            written = line.tokens
            return line

        return Stream(self, self._attempt(self._stub.Sketch, request, longest), read)

    def forward(self, requests: Iterator[pb.ForwardRequest], channel: int) -> Any:
        """Begin a stream of states over a channel: a gRPC call, whose answers come as they are iterated over, and which its owner cancels.

        An answer that cannot be read is a BadAnswerError in its place; `error_of` tells what a gRPC error stands for.

        Raises:
            CloudUnavailableError: the client is closed.
        """
        return self._unless_closed(
            lambda: self._channels.stub(channel).Forward(
                requests, timeout=self.deadlines.forward_seconds, metadata=self._metadata
            )
        )

    def _call(self, method: Callable[..., Any], request: Any, deadline_seconds: float, retries: int = RETRIES) -> Any:
        """One call: deadline, retries while the cloud is unavailable, status to exception."""
        ends = time.monotonic() + deadline_seconds
        for attempt in range(retries + 1):
            try:
                answer = self._attempt(method, request, max(0.001, ends - time.monotonic()))
            except grpc.RpcError as failed:
                wait = retry_seconds(attempt + 1)
                last = attempt == retries or time.monotonic() + wait >= ends
                if last or failed.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise self.error_of(failed) from None
                time.sleep(wait)
            else:
                if isinstance(answer, BadAnswerError):
                    raise answer
                return answer
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _attempt(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        return self._unless_closed(lambda: method(request, timeout=timeout, metadata=self._metadata))

    def _unless_closed(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except ValueError:  # how gRPC refuses a closed channel
            if not self._channels.closed:
                raise
            raise CloudUnavailableError(f"the channel to {self.target} was closed") from None

    @property
    def _stub(self) -> Any:
        return self._channels.stub(self._channels.preferred)

    def error_of(self, failed: Any) -> SyneraError:
        """The exception that a call's status stands for: by the cloud's own word where that fits, else by the status alone."""
        code, details = failed.code(), plain(failed.details() or "")
        said = dict(failed.trailing_metadata() or ())
        kind, status = _NAMED.get(str(said.get(ERROR_KIND_KEY)), (None, None))
        if code is grpc.StatusCode.UNAUTHENTICATED:  # also by a proxy's word
            return UnauthenticatedError(
                f"the verifier at {self.target} does not take this device ({code.name}: {details}); give the token or the "
                "certificate that it knows (synera deploy: --token-file, or --tls-cert and --tls-key)"
            )
        if kind is CloudBusyError and status is code:
            return CloudBusyError(details, read_retry_after(said.get(RETRY_AFTER_KEY)))
        if kind is not None and status is code:
            return kind(details)
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return CloudUnavailableError(
                f"no verifier answers at {self.target} ({details}); check the address, or start one with: synera serve"
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self.late_error()
        if code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return CloudRejectedError(
                f"{self.target} does not take this request ({code.name}: {details}); is it a verifier of this version?"
            )
        return CloudError(f"the verifier at {self.target} failed ({code.name}: {details}); its log says more")
