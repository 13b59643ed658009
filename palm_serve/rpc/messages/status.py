"""Conversion of errors to gRPC status codes and details.

Details are a google.rpc.Status in `grpc-status-details-bin`: BadRequest with INVALID_ARGUMENT, RetryInfo with
RESOURCE_EXHAUSTED. RESOURCE_EXHAUSTED also has `grpc-retry-pushback-ms`, which gRPC's own retries (service config) obey.
"""

import logging
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from palm_serve.errors import (
    DeadlineExceeded,
    EngineTimeout,
    InvalidRequest,
    NotAllowed,
    NotFound,
    Overloaded,
    PalmServeError,
    Unauthenticated,
    Unavailable,
)
from palm_serve.v1 import palm_pb2 as pb

Code = grpc.StatusCode
log = logging.getLogger(__name__)

CODES: dict[type[PalmServeError], grpc.StatusCode] = {
    InvalidRequest: Code.INVALID_ARGUMENT,
    NotFound: Code.NOT_FOUND,
    Overloaded: Code.RESOURCE_EXHAUSTED,
    DeadlineExceeded: Code.DEADLINE_EXCEEDED,
    Unavailable: Code.UNAVAILABLE,
    Unauthenticated: Code.UNAUTHENTICATED,
    NotAllowed: Code.PERMISSION_DENIED,
    EngineTimeout: Code.INTERNAL,
}
"""The status code of each error. Other errors are INTERNAL, and their messages are only logged."""

_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_MESSAGE_BYTES = 1_000
"""Limit of a message. A status is sent in HTTP/2 headers of at most 8 KiB, percent-encoded and repeated in the details."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Status of a failed call or request."""

    code: grpc.StatusCode
    message: str
    details: tuple[error_details_pb2.BadRequest | error_details_pb2.RetryInfo, ...] = ()

    @property
    def number(self) -> int:
        """Return the google.rpc.Code."""
        return int(self.code.value[0])

    @property
    def retry_after_ms(self) -> int:
        """Return the milliseconds after which the request may be retried. 0: unknown."""
        for detail in self.details:
            if isinstance(detail, error_details_pb2.RetryInfo):
                return int(detail.retry_delay.ToMilliseconds())
        return 0

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the details as trailing metadata."""
        if not self.details:
            return ()
        status = status_pb2.Status(code=self.number, message=self.message)
        for detail in self.details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        pushback = ((_PUSHBACK_KEY, str(self.retry_after_ms)),) if self.retry_after_ms else ()
        return (*rpc_status.to_status(status).trailing_metadata, *pushback)


def failure(error: Exception, request_id: str) -> Failure:
    """Convert an error to the status for the client. An unexpected error is logged, and the client gets its request id only."""
    code = _status_code(error)
    if code is None:
        log.error("request %s failed", request_id, exc_info=error, extra={"fields": {"request_id": request_id}})
        return Failure(Code.INTERNAL, f"internal error (request id {request_id})")
    # A value of JSON may hold half of a surrogate pair, which no answer can.
    message = _clip(str(error)).encode(errors="replace").decode()
    details: tuple[error_details_pb2.BadRequest | error_details_pb2.RetryInfo, ...] = ()
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=message)
        details = (error_details_pb2.BadRequest(field_violations=[violation]),)
    elif isinstance(error, Overloaded):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(1, round(error.retry_after_s * 1000)))
        details = (error_details_pb2.RetryInfo(retry_delay=delay),)
    return Failure(code, message, details)


def item_error(error: pb.ItemError) -> PalmServeError:
    """Return the error of one request of a batch, for a protocol in which a batch fails whole."""
    for error_class, code in CODES.items():
        if code.value[0] == error.code:
            if issubclass(error_class, Overloaded):
                return Overloaded(error.message, error.retry_after_ms / 1000)
            return error_class(error.message)
    return PalmServeError(error.message)


def _status_code(error: Exception) -> grpc.StatusCode | None:
    for error_class in type(error).__mro__:
        if error_class in CODES:
            return CODES[error_class]
    return None


def _clip(message: str) -> str:
    raw = message.encode("utf-8", "replace")
    if len(raw) <= _MESSAGE_BYTES:
        return message
    return raw[:_MESSAGE_BYTES].decode("utf-8", "ignore") + " ..."
