"""Conversion of gRPC status codes to HTTP statuses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

HTTP_STATUSES: dict[str, int] = {
    "OK": HTTPStatus.OK,
    "CANCELLED": 499,
    "UNKNOWN": HTTPStatus.INTERNAL_SERVER_ERROR,
    "INVALID_ARGUMENT": HTTPStatus.BAD_REQUEST,
    "DEADLINE_EXCEEDED": HTTPStatus.GATEWAY_TIMEOUT,
    "NOT_FOUND": HTTPStatus.NOT_FOUND,
    "PERMISSION_DENIED": HTTPStatus.FORBIDDEN,
    "RESOURCE_EXHAUSTED": HTTPStatus.TOO_MANY_REQUESTS,
    "INTERNAL": HTTPStatus.INTERNAL_SERVER_ERROR,
    "UNAVAILABLE": HTTPStatus.SERVICE_UNAVAILABLE,
    "UNAUTHENTICATED": HTTPStatus.UNAUTHORIZED,
}
"""The HTTP status of each gRPC code. INVALID_ARGUMENT is also 413 and 415, where the body is the reason."""

_PUSHBACK_KEY = "grpc-retry-pushback-ms"

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class HttpFailure:
    """The end of a call that failed, for a client of HTTP."""

    status: int
    code: str
    """Name of the gRPC code."""
    message: str
    metadata: Metadata = ()
    """Trailing metadata of the call: its id, and details of the error."""

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers of the response, besides its type and its length."""
        headers: list[tuple[str, str]] = []
        for key, value in self.metadata:
            if key == _PUSHBACK_KEY:
                headers.append(("retry-after", str(max(1, math.ceil(int(value) / 1000)))))
            elif isinstance(value, str):
                headers.append((key, value))
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers.append(("www-authenticate", "Bearer"))
        return headers
