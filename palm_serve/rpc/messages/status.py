"""The one table from errors to gRPC status codes, and the details that travel with a status.

Details are a google.rpc.Status in `grpc-status-details-bin`: BadRequest with INVALID_ARGUMENT, RetryInfo with
RESOURCE_EXHAUSTED, which has `grpc-retry-pushback-ms` too: what gRPC's own retries (a service config) go by.
"""

import logging
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from palm_serve.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotAllowed,
    NotFound,
    Overloaded,
    PalmServeError,
    Unauthenticated,
    Unavailable,
)

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
}
"""Every other error is INTERNAL, and its text stays in the log."""

_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_MESSAGE_BYTES = 1_000
"""A status travels in HTTP/2 headers, capped at 8 KiB by peers; percent-encoding triples it, the details repeat it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a client sees it."""

    code: grpc.StatusCode
    message: str
    details: tuple[error_details_pb2.BadRequest | error_details_pb2.RetryInfo, ...] = ()

    @property
    def number(self) -> int:
        """The google.rpc.Code."""
        return int(self.code.value[0])

    @property
    def retry_after_ms(self) -> int:
        """Milliseconds after which the request may be sent again; 0: nothing is known."""
        delays = (detail.retry_delay for detail in self.details if isinstance(detail, error_details_pb2.RetryInfo))
        return next((delay.ToMilliseconds() for delay in delays), 0)

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The details as trailing metadata; nothing when there are none."""
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
    """What a client is told of `error`. One not meant for clients is logged, and only the request id goes out."""
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), None)
    if code is None:
        log.error("request %s failed", request_id, exc_info=error, extra={"fields": {"request_id": request_id}})
        return Failure(Code.INTERNAL, f"internal error (request id {request_id})")
    message = _clip(str(error))
    details: tuple[error_details_pb2.BadRequest | error_details_pb2.RetryInfo, ...] = ()
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=message)
        details = (error_details_pb2.BadRequest(field_violations=[violation]),)
    elif isinstance(error, Overloaded):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(1, round(error.retry_after_s * 1000)))
        details = (error_details_pb2.RetryInfo(retry_delay=delay),)
    return Failure(code, message, details)


def _clip(message: str) -> str:
    raw = message.encode("utf-8", "replace")
    if len(raw) <= _MESSAGE_BYTES:
        return message
    return raw[:_MESSAGE_BYTES].decode("utf-8", "ignore") + " ..."
