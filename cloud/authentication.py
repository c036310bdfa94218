"""Stands before every handler and lets in only who is known: by a token, by the client's certificate, or by both.

What does not live here: which tokens there are (tokens.py), and the verifying of certificates, which gRPC does when a connection is
made (security.py).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health

from cloud.handlers import surrounded
from cloud.identity import certified_name, named_by_token
from cloud.log import fields
from cloud.renewal import Renewed
from cloud.tokens import Tokens
from runtime.errors import UnauthenticatedError
from runtime.wire import ERROR_KIND_KEY, TOKEN_KEY
from runtime.wire.statuses import STATUS

_SCHEME = "bearer"  # of any case, as HTTP has it
_log = logging.getLogger(__name__)


class Authentication(grpc.aio.ServerInterceptor):
    """Refuses every call of who is not known, but health's: probes have no secrets.

    With tokens and certificates a client needs both, and both must name the same: a token that was stolen is worth nothing
    without its owner's certificate. A refused call's message is not even read.
    """

    def __init__(self, tokens: Renewed[Tokens] | None, *, certificates: bool) -> None:
        """Take what clients are known by.

        Args:
            tokens: theirs; None asks for none.
            certificates: connections are made only with one.
        """
        self._tokens, self._certificates = tokens, certificates

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """See :class:`grpc.aio.ServerInterceptor`."""
        method = handler_call_details.method
        if method.lstrip("/").rpartition("/")[0] == health.SERVICE_NAME:
            return await continuation(handler_call_details)
        try:
            if self._tokens is not None:
                named_by_token.set(self._name(_token(handler_call_details.invocation_metadata or ())))
        except UnauthenticatedError as unknown:
            return _refusing(unknown, method)
        handler = await continuation(handler_call_details)
        if handler is None or not self._certificates:
            return handler
        return surrounded(handler, lambda context: _checked_certificate(context, method))

    def _name(self, token: str) -> str:
        assert self._tokens is not None
        self._tokens.refresh()
        name = self._tokens.value.name_of(token)
        if name is None:
            raise UnauthenticatedError("the verifier does not know this token; ask its operator for one")
        return name


def _token(metadata: Sequence[tuple[str, Any]]) -> str:
    """Read the token of a call.

    Raises:
        UnauthenticatedError: there is none, or not one alone.
    """
    given = [value for key, value in metadata if key == TOKEN_KEY]
    scheme, _, token = str(given[0]).partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != _SCHEME or not token.strip():
        raise UnauthenticatedError(
            f"the verifier wants to know who asks, and the call has no token; give one (metadata {TOKEN_KEY}: Bearer TOKEN)"
        )
    return token.strip()


def _refusing(why: UnauthenticatedError, method: str) -> grpc.RpcMethodHandler:
    """A handler for calls of any kind, as it reads no message."""

    async def refuse(requests: object, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await _refuse(context, why, method)
        yield b""

    return grpc.stream_stream_rpc_method_handler(refuse)


@asynccontextmanager
async def _checked_certificate(context: grpc.aio.ServicerContext, method: str) -> AsyncIterator[None]:
    """Goes on only for whose certificate names somebody, and nobody else than the token."""
    token = named_by_token.get()
    try:
        name = certified_name(context)
        if token is not None and name != token:
            raise UnauthenticatedError("token and certificate are not of the same client; give those that belong together")
    except UnauthenticatedError as unknown:
        await _refuse(context, unknown, method)
    yield


async def _refuse(context: grpc.aio.ServicerContext, why: UnauthenticatedError, method: str) -> None:
    _log.debug("peer refused", extra=fields(method=method, peer=context.peer(), reason=why))
    kind = UnauthenticatedError
    await context.abort(STATUS[kind], str(why), ((ERROR_KIND_KEY, kind.__name__),))
