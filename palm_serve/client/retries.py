"""Deadlines, retries and errors of a client; no I/O."""

import random
import threading
import time
from typing import Any, TypeVar

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

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
_EARNED_PER_CALL = 0.2
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
    """The server failed, or sent a status that has no class of its own; the message starts with the status."""


class RetryBudget:
    """Bounds the retries of all calls together: to a fifth of the calls, after the first ten. Threads may share it.

    Else a server that refuses everything would get several times the load that it could not bear.
    """

    def __init__(self) -> None:
        self._left = _BUDGET
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A call begins."""
        with self._lock:
            self._left = min(_BUDGET, self._left + _EARNED_PER_CALL)

    def spend(self) -> bool:
        """Takes one retry out; False: none is left."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True


class Tries:
    """The tries of one call: how much time is left, and when the next one is due."""

    def __init__(self, deadline: float, retries: int, budget: RetryBudget) -> None:
        self._deadline = deadline
        self._retries = retries
        self._budget = budget
        self._made = 0

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def pause_s(self, error: grpc.RpcError) -> float | None:
        """Seconds until the next try of a call that failed; None: there is none."""
        delay = self._delay_s(error.code().name, _named_delay_s(error))
        return None if delay is None else self.next_s(delay)

    def item_delay_s(self, error: pb.ItemError) -> float | None:
        """Seconds after which one request of a batch may be asked again; None: it is not to be."""
        return self._delay_s(_code(error), error.retry_after_ms / 1000 or None)

    def next_s(self, delay: float) -> float | None:
        """Spends a try that has to wait so many seconds: how long to wait; None: there is no time or no budget left."""
        # Clients that were refused together must not come back together.
        pause = delay * random.uniform(1.0, 1.25)
        if pause >= self.left_s or not self._budget.spend():
            return None
        self._made += 1
        return pause

    def _delay_s(self, code: str, named: float | None) -> float | None:
        if code == "UNAVAILABLE" and named is None:
            named = _FIRST_BACKOFF_S * 2**self._made
        if self._made >= self._retries or code not in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
            return None
        return named if named is not None and named < self.left_s else None


class Policy:
    """How long calls may take, how often they are tried again, and what their failures are called."""

    def __init__(self, target: str, timeout_s: float, retries: int) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._retries = retries
        self._budget = RetryBudget()

    def begin(self, timeout_s: float | None) -> Tries:
        """A call begins."""
        self._budget.earn()
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        return Tries(deadline, self._retries, self._budget)

    def error(self, error: grpc.RpcError) -> PalmServeError:
        """What the caller gets to see."""
        code, message = error.code().name, error.details() or "no details"
        if code == "UNAVAILABLE":
            reason = message.rpartition(": ")[2] if message.startswith("failed to connect") else message
            return Unavailable(f"no answer from a PALM server at {self._target}: {reason}")
        if code == "DEADLINE_EXCEEDED":
            return DeadlineExceeded(f"no answer from {self._target} within the deadline: {message}")
        bad = _detail(error, error_details_pb2.BadRequest)
        field = bad.field_violations[0].field if bad is not None and bad.field_violations else ""
        return make_error(code, message, field, _named_delay_s(error))


def make_error(code: str, message: str, field: str = "", retry_after_s: float | None = None) -> PalmServeError:
    """The error that a status code stands for."""
    kind = _ERRORS.get(code)
    if kind is None:
        return ServerError(f"{code}: {message}")
    if kind is InvalidRequest:
        return InvalidRequest(message, field)
    if kind is Overloaded and retry_after_s is not None:
        return Overloaded(message, retry_after_s)
    return kind(message)


def item_error(error: pb.ItemError) -> PalmServeError:
    """The error of one request of a batch."""
    return make_error(_code(error), error.message, retry_after_s=error.retry_after_ms / 1000 or None)


def _code(error: pb.ItemError) -> str:
    return str(code_pb2.Code.Name(error.code))


def _detail(error: grpc.RpcError, kind: type[D]) -> D | None:
    """The detail of this kind that the server sent with its status, if it did."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                detail = kind()
                if packed.Unpack(detail):
                    return detail
    return None


def _named_delay_s(error: grpc.RpcError) -> float | None:
    retry: Any = _detail(error, error_details_pb2.RetryInfo)
    return None if retry is None else float(retry.retry_delay.ToMilliseconds()) / 1000
