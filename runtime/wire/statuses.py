"""Which errors a verifier may raise over the wire, and the gRPC status that each travels as: decided here alone.

What does not live here: who makes a status of an error (cloud/service.py) and who reads it back (runtime/client.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from grpc import StatusCode

from runtime.errors import (
    CloudBusyError,
    CloudError,
    CloudRejectedError,
    CloudUnavailableError,
    SessionLostError,
    SyneraError,
    TokenizerMismatchError,
    UnauthenticatedError,
)

STATUS: Mapping[type[SyneraError], StatusCode] = {
    TokenizerMismatchError: StatusCode.FAILED_PRECONDITION,
    SessionLostError: StatusCode.NOT_FOUND,
    CloudBusyError: StatusCode.RESOURCE_EXHAUSTED,
    CloudRejectedError: StatusCode.INVALID_ARGUMENT,
    UnauthenticatedError: StatusCode.UNAUTHENTICATED,
    CloudUnavailableError: StatusCode.UNAVAILABLE,
    CloudError: StatusCode.INTERNAL,
}
"""By the class of the error. Whatever else a verifier raises is a bug, and becomes INTERNAL without a kind; a device takes no
other name, nor one of these with another status, at its word."""
