"""One call in flight, and its ids."""

import random
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from palm_serve.errors import InvalidRequest
from palm_serve.rpc.access.admission import RemoteClient
from palm_serve.rpc.call_context import CallContext
from palm_serve.types import AnsweredText, Prediction

if TYPE_CHECKING:
    from palm_serve.registry import LoadedModel

REQUEST_ID_KEY = "x-request-id"
SESSION_ID_KEY = "x-session-id"
"""Id of a dialogue. All its turns are answered by the same version while the traffic shares stay the same."""
MAX_REQUEST_ID_BYTES = 256
_REQUEST_ID_BITS = 128
"""Random bits of an id that the server gives."""
_MAX_METADATA_LENGTHS = {
    REQUEST_ID_KEY: MAX_REQUEST_ID_BYTES,
    SESSION_ID_KEY: MAX_REQUEST_ID_BYTES,
    # W3C Trace Context of the caller.
    "traceparent": 128,
    "tracestate": 512,
}
"""Metadata keys that are read, and the maximum length of their values. Longer values are ignored."""
_MAX_RECORDED_ANSWERS = 32
"""Number of answers of a call that are recorded one by one. A stream may have any number."""


@dataclass(slots=True)
class Call:
    """One call in flight. `deadline` is in seconds on the clock of `time.monotonic()`."""

    request_id: str
    deadline: float | None
    session_id: str = ""
    client: RemoteClient | None = None
    traceparent: str = ""
    tracestate: str = ""
    texts: int = 0
    answered: list[AnsweredText] = field(default_factory=list)
    request_bytes: int = 0
    response_bytes: int = 0

    @property
    def client_name(self) -> str:
        """Name of the client. Empty: unknown."""
        return "" if self.client is None else self.client.name

    @property
    def admitted_client(self) -> RemoteClient:
        """Return the client, which is known once the call is admitted."""
        assert self.client is not None
        return self.client

    def record_answer(self, model: "LoadedModel", prediction: Prediction) -> None:
        """Record the version that answered one text of the call."""
        self.texts += 1
        if len(self.answered) < _MAX_RECORDED_ANSWERS:
            self.answered.append(AnsweredText(model.name, model.version, prediction.timings))

    def charge_requests(self, requests: int) -> None:
        """Charge the number of requests in one message to the client's rate. The first one is already charged."""
        if self.client is not None:
            self.client.spend(requests - 1)

    def routing_key(self, item_id: str = "") -> str:
        """Return the key by which a canary's share of the requests is chosen.

        It is the session id, else the id of a request within the call (`item_id`), else the request id of the call.
        """
        return self.session_id or item_id or self.request_id


def request_id(client_id: str) -> str:
    """Return the client's request id, or a new one if it is empty.

    Raises:
        InvalidRequest: if the id is too long to be returned in a header.
    """
    size = len(client_id.encode())
    if size > MAX_REQUEST_ID_BYTES:
        raise InvalidRequest(
            f"request_id must have at most {MAX_REQUEST_ID_BYTES} bytes, got {size:,}. Use a shorter id.", "request_id"
        )
    return client_id or _new_request_id()


def _new_request_id() -> str:
    """Return a random id. It need not be secret, so it asks nothing of the system, which would cost a thread switch."""
    return f"{random.getrandbits(_REQUEST_ID_BITS):032x}"


def new_call(context: CallContext) -> Call:
    """Return the call of a context."""
    values = dict.fromkeys(_MAX_METADATA_LENGTHS, "")
    for key, value in context.invocation_metadata() or ():
        if key in values and isinstance(value, str) and not values[key] and len(value) <= _MAX_METADATA_LENGTHS[key]:
            values[key] = value
    remaining_s = context.time_remaining()
    return Call(
        values[REQUEST_ID_KEY] or _new_request_id(),
        None if remaining_s is None else time.monotonic() + remaining_s,
        values[SESSION_ID_KEY],
        traceparent=values["traceparent"],
        tracestate=values["tracestate"],
    )


def request_id_metadata(call: Call) -> tuple[tuple[str, str], ...]:
    """Return the request id as metadata. It is percent-encoded unless it is printable ASCII, as headers require."""
    value = call.request_id
    if not (value.isascii() and value.isprintable()):
        value = urllib.parse.quote(value)
    return ((REQUEST_ID_KEY, value),)
