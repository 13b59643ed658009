"""What both clients do: requests, tries, errors. No I/O of its own.

The methods of `Wire` yield what is to be called next and are sent what came of it, so that each client only has to call, or to await the call.
"""

import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any, TypedDict, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from palm_serve.client.credentials import Headers, headers
from palm_serve.client.retries import Policy, Tries, item_error
from palm_serve.errors import InvalidRequest, PalmServeError
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

DEFAULT_TIMEOUT_S = 10.0
DEFAULT_RETRIES = 3
REQUEST_ID_KEY, SESSION_ID_KEY = "x-request-id", "x-session-id"
_SESSION_ID_BYTES = 256
_QUOTED = 64
# A batch's answer may be larger than grpc's default of 4 MiB; the server bounds what it is asked.
_CHANNEL_OPTIONS = (("grpc.max_receive_message_length", -1),)

R = TypeVar("R")
Steps = Generator[Callable[[], Any], Any, R]
Outcome = pb.ParseResponse | PalmServeError


class ClientOptions(TypedDict, total=False):
    """How a client connects, and how long it tries; see `Client`."""

    timeout_s: float
    retries: int
    credentials: grpc.ChannelCredentials | None
    token: str | None
    plain_token: bool


class PredictFields(TypedDict, total=False):
    """Optional fields of a PredictRequest."""

    model: str
    version: str
    request_id: str
    top_k: int
    offset_unit: pb.OffsetUnit
    priority: pb.Priority


class ParseFields(PredictFields, total=False):
    """Optional fields of a ParseRequest."""

    tasks: Sequence[str]
    thresholds: pb.Thresholds


class Wire:
    """One connection.

    Args:
        api: `grpc` or `grpc.aio`.
        sleep: waits so many seconds, as `api` does.
    """

    def __init__(
        self,
        api: Any,
        sleep: Callable[[float], Any],
        target: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        plain_token: bool = False,
    ) -> None:
        self._headers = headers(target, credentials, token, plain_token)
        self.channel: Any = (
            api.insecure_channel(target, options=_CHANNEL_OPTIONS)
            if credentials is None
            else api.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        )
        self._sleep = sleep
        self._policy = Policy(target, timeout_s, retries)
        self._dialogue = stubs.DialogueUnderstandingStub(self.channel)  # type: ignore[no-untyped-call]
        self._prediction = stubs.PredictionStub(self.channel)  # type: ignore[no-untyped-call]
        self._models = stubs.ModelsStub(self.channel)  # type: ignore[no-untyped-call]
        self._health = health_pb2_grpc.HealthStub(self.channel)

    def parse(
        self, text: str, timeout_s: float | None, session_id: str, fields: ParseFields
    ) -> Steps[pb.ParseResponse]:
        """One utterance."""
        return self._once(self._dialogue.Parse, _parse_request(text, fields), timeout_s, session_id)

    def predict(
        self, task: str, text: str, text_pair: str, timeout_s: float | None, session_id: str, fields: PredictFields
    ) -> Steps[pb.PredictResponse]:
        """One task."""
        request = pb.PredictRequest(
            task=task, text=_sendable(text, "text"), text_pair=_sendable(text_pair, "text_pair"), **fields
        )
        return self._once(self._prediction.Predict, request, timeout_s, session_id)

    def models(self, timeout_s: float | None) -> Steps[list[pb.Model]]:
        """Every loaded version."""
        return list((yield from self._once(self._models.ListModels, pb.ListModelsRequest(), timeout_s)).models)

    def health(self, model: str, timeout_s: float | None) -> Steps[bool]:
        """Whether the server, or one of its models, serves."""
        request = health_pb2.HealthCheckRequest(service=_sendable(model, "model"))
        answer = yield from self._once(self._health.Check, request, timeout_s)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def parse_batch(
        self, texts: Iterable[str], timeout_s: float | None, session_id: str, fields: ParseFields
    ) -> Steps[list[Outcome]]:
        """Many utterances. What of them is refused is asked again, without the rest, as often as a call would be."""
        requests = [_parse_request(text, fields) for text in texts]
        tries, sent = self._begin(timeout_s, session_id)
        outcomes: dict[int, Outcome] = {}
        asked: Sequence[int] = range(len(requests))
        while True:
            batch = pb.ParseBatchRequest(requests=[requests[i] for i in asked])
            try:
                items = (yield from self._call(self._dialogue.ParseBatch, batch, tries, sent)).items
            except PalmServeError:
                if not outcomes:
                    raise
                break  # what was refused is still refused
            delays = {}
            for i, item in zip(asked, items, strict=True):
                outcomes[i] = item.response if item.HasField("response") else item_error(item.error)
                if item.HasField("error") and (delay := tries.item_delay_s(item.error)) is not None:
                    delays[i] = delay
            pause = tries.next_s(max(delays.values())) if delays else None
            if pause is None:
                break
            asked = list(delays)
            yield partial(self._sleep, pause)
        return [outcomes[i] for i in range(len(requests))]

    def _once(
        self, method: Callable[..., Any], request: Any, timeout_s: float | None, session_id: str = ""
    ) -> Steps[Any]:
        tries, sent = self._begin(timeout_s, session_id)
        return (yield from self._call(method, request, tries, sent))

    def _begin(self, timeout_s: float | None, session_id: str) -> tuple[Tries, Headers]:
        """Of one call, and of all its tries the same: the deadline, and what goes with them. Raises InvalidRequest."""
        sent = (*self._headers, *_ids(session_id))
        return self._policy.begin(timeout_s), sent

    def _call(self, method: Callable[..., Any], request: Any, tries: Tries, sent: Headers) -> Steps[Any]:
        while True:
            try:
                return (yield partial(method, request, timeout=tries.left_s, metadata=sent))
            except grpc.RpcError as error:
                pause = tries.pause_s(error)
                if pause is None:
                    raise self._policy.error(error) from None
            yield partial(self._sleep, pause)


def _ids(session_id: str) -> Headers:
    """Of the dialogue, and of the call where its request has none: the same for every try. Raises InvalidRequest."""
    call = (REQUEST_ID_KEY, uuid.uuid4().hex)
    if len(session_id) > _SESSION_ID_BYTES or not (session_id.isascii() and session_id.isprintable()):
        raise InvalidRequest(
            f"session_id {session_id[:_QUOTED]!r} of {len(session_id):,} characters: it may be printable ASCII, up to {_SESSION_ID_BYTES}",
            "session_id",
        )
    return (call, (SESSION_ID_KEY, session_id)) if session_id else (call,)


def _parse_request(text: str, fields: ParseFields) -> pb.ParseRequest:
    return pb.ParseRequest(text=_sendable(text, "text"), **fields)


def _sendable(text: str, field: str) -> str:
    """The text, unless it holds half of a surrogate pair, which UTF-8 cannot carry. Raises InvalidRequest."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{field} has a lone surrogate at position {error.start}, which is no character: remove it", field
        ) from None
    return text
