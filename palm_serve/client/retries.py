"""Deadlines, retries and errors of a client, without I/O."""

import random
import threading
import time
from typing import Any, TypeVar

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from palm_serve.client.failures import connection_failure
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
from palm_serve.v1 import palm_pb2 as pb

_FIRST_BACKOFF_S = 0.1
_BUDGET = 10.0
"""Initial and largest number of retries in the budget."""
_LOST_BUDGET = 100.0
"""The same for calls whose connection was lost. All calls in flight to a replica that ends are lost at once, and retrying them adds
no load to a server that is overloaded."""
_EARNED_PER_CALL = 0.2
"""Retries that each call adds to the budget."""
_ERRORS: dict[str, type[PalmServeError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "NOT_FOUND": NotFound,
    "RESOURCE_EXHAUSTED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNAVAILABLE": Unavailable,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": NotAllowed,
}

D = TypeVar("D")


class ServerError(PalmServeError):
    """The server failed, or sent a status without an error class. The message starts with the status."""


class RetryBudget:
    """Limits the retries of all calls to a fifth of the calls, after the first ten retries. Threads may share it.

    Without this limit an overloaded server would receive several times its load.

    Args:
        limit: initial and largest number of retries.
    """

    def __init__(self, limit: float = _BUDGET) -> None:
        self._limit = limit
        self._retries_left = limit
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Add the share of a new call to the budget."""
        with self._lock:
            self._retries_left = min(self._limit, self._retries_left + _EARNED_PER_CALL)

    def spend(self) -> bool:
        """Take one retry from the budget. Return false if none is left."""
        with self._lock:
            if self._retries_left < 1:
                return False
            self._retries_left -= 1
            return True


class CallAttempts:
    """The attempts of one call: the remaining time, and the delay before the next attempt.

    Args:
        deadline: of the call, in seconds on the monotonic clock.
        retries: limit of retries.
        budget: of retries after a refusal by the server.
        lost_budget: of retries after a lost connection.
    """

    def __init__(self, deadline: float, retries: int, budget: RetryBudget, lost_budget: RetryBudget) -> None:
        self._deadline = deadline
        self._retries = retries
        self._budget = budget
        self._lost_budget = lost_budget
        self._retried = 0

    @property
    def left_s(self) -> float:
        """Return the seconds until the deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def pause_s(self, error: grpc.RpcError) -> float | None:
        """Return the seconds until the next attempt of a failed call. None: do not retry."""
        delay = self._delay_s(error.code().name, _server_delay_s(error))
        budget = self._budget if is_from_server(error) else self._lost_budget
        return None if delay is None else self._next_s(delay, budget)

    def item_delay_s(self, error: pb.ItemError) -> float | None:
        """Return the seconds after which one request of a batch may be retried. None: do not retry."""
        return self._delay_s(_code(error), error.retry_after_ms / 1000 or None)

    def next_s(self, delay_s: float) -> float | None:
        """Take a retry after `delay_s` from the budget and return the seconds to wait. None: do not retry."""
        return self._next_s(delay_s, self._budget)

    def _next_s(self, delay_s: float, budget: RetryBudget) -> float | None:
        # Random, so that clients that were refused at the same time do not return at the same time.
        pause = delay_s * random.uniform(1.0, 1.25)
        if pause >= self.left_s or not budget.spend():
            return None
        self._retried += 1
        return pause

    def _delay_s(self, code: str, server_delay_s: float | None) -> float | None:
        if self._retried >= self._retries or code not in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
            return None
        delay_s = server_delay_s
        if code == "UNAVAILABLE" and delay_s is None:
            delay_s = _FIRST_BACKOFF_S * 2**self._retried
        if delay_s is None or delay_s >= self.left_s:
            return None
        return delay_s


class RetryPolicy:
    """Default deadline, retries and error messages of all calls of a client.

    Args:
        target: gRPC name of the server.
        timeout_s: default deadline of a call in seconds.
        retries: limit of retries per call.
        over_tls: the connection uses TLS.
    """

    def __init__(self, target: str, timeout_s: float, retries: int, over_tls: bool = False) -> None:
        self._target = target
        self._over_tls = over_tls
        self._timeout_s = timeout_s
        self._retries = retries
        self._budget = RetryBudget()
        self._lost_budget = RetryBudget(_LOST_BUDGET)

    def begin(self, timeout_s: float | None) -> CallAttempts:
        """Start a call with a deadline in seconds. None: the default deadline."""
        self._budget.earn()
        self._lost_budget.earn()
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        return CallAttempts(deadline, self._retries, self._budget, self._lost_budget)

    def error(self, error: grpc.RpcError) -> PalmServeError:
        """Convert an error of gRPC into an error of `palm_serve.errors`."""
        code = error.code().name
        message = error.details() or "no details"
        if code == "UNAVAILABLE":
            reason = connection_failure(message, self._over_tls)
            return Unavailable(f"no answer from a PALM server at {self._target}: {reason}")
        if code == "DEADLINE_EXCEEDED":
            return DeadlineExceeded(f"no answer from {self._target} within the deadline: {message}")
        bad_request = _detail(error, error_details_pb2.BadRequest)
        field = ""
        if bad_request is not None and bad_request.field_violations:
            field = bad_request.field_violations[0].field
        return make_error(code, message, field, _server_delay_s(error))


def is_from_server(error: grpc.RpcError) -> bool:
    """Return true if the server has sent an error. PALM sends trailing metadata with each, and a local error has none."""
    return bool(error.trailing_metadata())


def make_error(code: str, message: str, field: str = "", retry_after_s: float | None = None) -> PalmServeError:
    """Create the error of a status code.

    Args:
        code: name of the status code.
        message: message of the status.
        field: request field at fault, of INVALID_ARGUMENT.
        retry_after_s: delay before a retry in seconds, of RESOURCE_EXHAUSTED. None: the default delay.
    """
    error_class = _ERRORS.get(code)
    if error_class is None:
        return ServerError(f"{code}: {message}")
    if error_class is InvalidRequest:
        return InvalidRequest(message, field)
    if error_class is Overloaded and retry_after_s is not None:
        return Overloaded(message, retry_after_s)
    return error_class(message)


def item_error(error: pb.ItemError) -> PalmServeError:
    """Create the error of one request of a batch."""
    return make_error(_code(error), error.message, retry_after_s=error.retry_after_ms / 1000 or None)


def _code(error: pb.ItemError) -> str:
    return str(code_pb2.Code.Name(error.code))


def _detail(error: grpc.RpcError, detail_class: type[D]) -> D | None:
    """Return the status detail of this class, or None if the server sent none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                detail = detail_class()
                if packed.Unpack(detail):
                    return detail
    return None


def _server_delay_s(error: grpc.RpcError) -> float | None:
    retry: Any = _detail(error, error_details_pb2.RetryInfo)
    return None if retry is None else float(retry.retry_delay.ToMilliseconds()) / 1000
