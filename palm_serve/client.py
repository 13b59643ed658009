"""A small typed client, blocking (`Client`) and asyncio (`AsyncClient`).

    with Client("localhost:50051") as palm:
        answer = palm.parse("show me flights from boston to denver")
        print(answer.intent.name, [(slot.name, slot.value) for slot in answer.slots])

Answers are the messages of `palm.proto` (`palm_serve.v1.palm_pb2`, typed), and keywords are the fields of its requests,
so whatever the API grows is there at once. Errors are those of `palm_serve.errors`: InvalidRequest, NotFound,
Overloaded, DeadlineExceeded, Unavailable, NotAllowed; and ServerError for the rest.

One connection is opened on first use and reused by all calls; threads may share a `Client`, tasks an `AsyncClient`.
A call that is refused with RESOURCE_EXHAUSTED or UNAVAILABLE is tried again after the time that the server names, or
else (UNAVAILABLE) after 0.1, 0.2, 0.4 s, as long as its deadline allows.
"""

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, TypeVar, Unpack

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from palm_serve.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotAllowed,
    NotFound,
    Overloaded,
    PalmServeError,
    TlsError,
    Unavailable,
)
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 10.0
DEFAULT_RETRIES = 3
_FIRST_BACKOFF_S = 0.1
# A batch's answer may be larger than grpc's default of 4 MiB; the server bounds what it is asked.
_CHANNEL_OPTIONS = (("grpc.max_receive_message_length", -1),)

_ERRORS: dict[str, type[PalmServeError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "NOT_FOUND": NotFound,
    "RESOURCE_EXHAUSTED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNAVAILABLE": Unavailable,
    "PERMISSION_DENIED": NotAllowed,
}

D = TypeVar("D")


class ServerError(PalmServeError):
    """The server failed, or sent a status that has no class of its own; the message starts with the status."""


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


def tls(ca: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> grpc.ChannelCredentials:
    """Credentials for a server with TLS.

    Args:
        ca: authorities that may have signed the server's certificate, PEM; None: those that grpc ships.
        certificate, key: the client's own, PEM, where the server asks for one.

    Raises TlsError.
    """
    if (certificate is None) != (key is None):
        raise TlsError("a client's certificate needs its key, and the key its certificate: give both or none")
    return grpc.ssl_channel_credentials(*(path and _contents(path) for path in (ca, key, certificate)))


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path} cannot be read: {error.strerror}") from None


class Client:
    """The blocking client.

    Args:
        target: host and port, or any gRPC name.
        timeout_s: deadline of a call that names none, retries included.
        retries: at most, per call.
        credentials: what TLS needs, see `tls`; None: plain text.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        self._policy = _Policy(target, timeout_s, retries)
        self._stubs = _Stubs(self._channel)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        self._channel.close()

    def parse(self, text: str, *, timeout_s: float | None = None, **fields: Unpack[ParseFields]) -> pb.ParseResponse:
        """Intent, slots and the other single-text tasks of one utterance; `tasks` selects some."""
        response: pb.ParseResponse = self._call(self._stubs.dialogue.Parse, _parse_request(text, fields), timeout_s)
        return response

    def parse_batch(
        self, texts: Iterable[str], *, timeout_s: float | None = None, **fields: Unpack[ParseFields]
    ) -> list[pb.ParseResponse | PalmServeError]:
        """One answer per text, in order. A text that cannot be answered has its error in its place."""
        request = pb.ParseBatchRequest(requests=[_parse_request(text, fields) for text in texts])
        return _outcomes(self._call(self._stubs.dialogue.ParseBatch, request, timeout_s))

    def predict(
        self,
        task: str,
        text: str,
        text_pair: str = "",
        *,
        timeout_s: float | None = None,
        **fields: Unpack[PredictFields],
    ) -> pb.PredictResponse:
        """One task of any kind; tasks on pairs of texts need `text_pair`."""
        response: pb.PredictResponse = self._call(
            self._stubs.prediction.Predict, _predict_request(task, text, text_pair, fields), timeout_s
        )
        return response

    def models(self, *, timeout_s: float | None = None) -> list[pb.Model]:
        """Every loaded model version."""
        return list(self._call(self._stubs.models.ListModels, pb.ListModelsRequest(), timeout_s).models)

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        deadline, attempt = self._policy.deadline(timeout_s), 0
        while True:
            try:
                return method(request, timeout=max(0.0, deadline - time.monotonic()))
            except grpc.RpcError as error:
                pause = self._policy.pause_s(error, attempt, deadline)
                if pause is None:
                    raise self._policy.error(error) from None
            time.sleep(pause)
            attempt += 1


class AsyncClient:
    """The asyncio client: the same calls, awaited. Make it where its event loop runs. Arguments as of `Client`."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        self._policy = _Policy(target, timeout_s, retries)
        self._stubs = _Stubs(self._channel)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        await self._channel.close()

    async def parse(
        self, text: str, *, timeout_s: float | None = None, **fields: Unpack[ParseFields]
    ) -> pb.ParseResponse:
        """As `Client.parse`."""
        response: pb.ParseResponse = await self._call(
            self._stubs.dialogue.Parse, _parse_request(text, fields), timeout_s
        )
        return response

    async def parse_batch(
        self, texts: Iterable[str], *, timeout_s: float | None = None, **fields: Unpack[ParseFields]
    ) -> list[pb.ParseResponse | PalmServeError]:
        """As `Client.parse_batch`."""
        request = pb.ParseBatchRequest(requests=[_parse_request(text, fields) for text in texts])
        return _outcomes(await self._call(self._stubs.dialogue.ParseBatch, request, timeout_s))

    async def predict(
        self,
        task: str,
        text: str,
        text_pair: str = "",
        *,
        timeout_s: float | None = None,
        **fields: Unpack[PredictFields],
    ) -> pb.PredictResponse:
        """As `Client.predict`."""
        request = _predict_request(task, text, text_pair, fields)
        response: pb.PredictResponse = await self._call(self._stubs.prediction.Predict, request, timeout_s)
        return response

    async def models(self, *, timeout_s: float | None = None) -> list[pb.Model]:
        """As `Client.models`."""
        return list((await self._call(self._stubs.models.ListModels, pb.ListModelsRequest(), timeout_s)).models)

    async def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        deadline, attempt = self._policy.deadline(timeout_s), 0
        while True:
            try:
                return await method(request, timeout=max(0.0, deadline - time.monotonic()))
            except grpc.RpcError as error:
                pause = self._policy.pause_s(error, attempt, deadline)
                if pause is None:
                    raise self._policy.error(error) from None
            await asyncio.sleep(pause)
            attempt += 1


class _Stubs:
    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        self.dialogue = stubs.DialogueUnderstandingStub(channel)  # type: ignore[no-untyped-call]
        self.prediction = stubs.PredictionStub(channel)  # type: ignore[no-untyped-call]
        self.models = stubs.ModelsStub(channel)  # type: ignore[no-untyped-call]


class _Policy:
    """Deadlines, retries and errors; no I/O."""

    def __init__(self, target: str, timeout_s: float, retries: int) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._retries = retries

    def deadline(self, timeout_s: float | None) -> float:
        """On the `time.monotonic()` clock."""
        return time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)

    def pause_s(self, error: grpc.RpcError, attempt: int, deadline: float) -> float | None:
        """Seconds before the next try; None: there is none."""
        code, pause = error.code().name, _named_delay_s(error)
        if code == "UNAVAILABLE" and pause is None:
            pause = _FIRST_BACKOFF_S * 2**attempt
        if attempt >= self._retries or pause is None or code not in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
            return None
        # Clients that were refused together must not come back together.
        pause *= random.uniform(1.0, 1.25)
        return pause if time.monotonic() + pause < deadline else None

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
        return _make_error(code, message, field, _named_delay_s(error))


def _make_error(code: str, message: str, field: str = "", retry_after_s: float | None = None) -> PalmServeError:
    kind = _ERRORS.get(code)
    if kind is None:
        return ServerError(f"{code}: {message}")
    if kind is InvalidRequest:
        return InvalidRequest(message, field)
    if kind is Overloaded and retry_after_s is not None:
        return Overloaded(message, retry_after_s)
    return kind(message)


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


def _parse_request(text: str, fields: ParseFields) -> pb.ParseRequest:
    return pb.ParseRequest(text=_sendable(text, "text"), **fields)


def _predict_request(task: str, text: str, text_pair: str, fields: PredictFields) -> pb.PredictRequest:
    return pb.PredictRequest(
        task=task, text=_sendable(text, "text"), text_pair=_sendable(text_pair, "text_pair"), **fields
    )


def _sendable(text: str, field: str) -> str:
    """The text, unless it holds half of a surrogate pair, which UTF-8 cannot carry. Raises InvalidRequest."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{field} has a lone surrogate at position {error.start}, which is no character: remove it", field
        ) from None
    return text


def _outcomes(response: pb.ParseBatchResponse) -> list[pb.ParseResponse | PalmServeError]:
    return [
        item.response
        if item.HasField("response")
        else _make_error(code_pb2.Code.Name(item.error.code), item.error.message)
        for item in response.items
    ]
