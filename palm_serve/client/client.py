"""The blocking client and the asyncio client."""

import asyncio
import time
import uuid
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, TypedDict, Unpack

import grpc
from google.rpc import code_pb2

from palm_serve.client.credentials import Headers, headers
from palm_serve.client.policy import Policy, make_error
from palm_serve.errors import InvalidRequest, PalmServeError
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 10.0
DEFAULT_RETRIES = 3
REQUEST_ID_KEY, SESSION_ID_KEY = "x-request-id", "x-session-id"
_SESSION_ID_BYTES = 256
_QUOTED = 64
# A batch's answer may be larger than grpc's default of 4 MiB; the server bounds what it is asked.
_CHANNEL_OPTIONS = (("grpc.max_receive_message_length", -1),)


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


class Client:
    """The blocking client.

    Every call takes `timeout_s`, its deadline. With a `session_id` all turns of a dialogue are answered by one version of the
    model while a new one gets a share of the requests; `request_id` is echoed, and the same for every try of a call.

    Args:
        target: host and port, or any gRPC name.
        timeout_s: deadline of a call that names none, retries included.
        retries: at most, per call; of all calls together no more than a fifth are tried again, after the first ten.
        credentials: what TLS needs, see `tls`; None: plain text.
        token: what the server knows this client by; without TLS it is sent to this machine only.
        plain_token: sends the token over any network, where it can be read.

    Raises TlsError for a token that would leave this machine in plain text, TokenFileError for one that is none.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        plain_token: bool = False,
    ) -> None:
        self._headers = headers(target, credentials, token, plain_token)
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        self._policy = Policy(target, timeout_s, retries)
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

    def parse(
        self, text: str, *, timeout_s: float | None = None, session_id: str = "", **fields: Unpack[ParseFields]
    ) -> pb.ParseResponse:
        """Intent, slots and the other single-text tasks of one utterance; `tasks` selects some."""
        request = _parse_request(text, fields)
        response: pb.ParseResponse = self._call(self._stubs.dialogue.Parse, request, timeout_s, session_id)
        return response

    def parse_batch(
        self,
        texts: Iterable[str],
        *,
        timeout_s: float | None = None,
        session_id: str = "",
        **fields: Unpack[ParseFields],
    ) -> list[pb.ParseResponse | PalmServeError]:
        """One answer per text, in order. A text that cannot be answered has its error in its place."""
        request = pb.ParseBatchRequest(requests=[_parse_request(text, fields) for text in texts])
        return _outcomes(self._call(self._stubs.dialogue.ParseBatch, request, timeout_s, session_id))

    def predict(
        self,
        task: str,
        text: str,
        text_pair: str = "",
        *,
        timeout_s: float | None = None,
        session_id: str = "",
        **fields: Unpack[PredictFields],
    ) -> pb.PredictResponse:
        """One task of any kind; tasks on pairs of texts need `text_pair`."""
        request = _predict_request(task, text, text_pair, fields)
        response: pb.PredictResponse = self._call(self._stubs.prediction.Predict, request, timeout_s, session_id)
        return response

    def models(self, *, timeout_s: float | None = None) -> list[pb.Model]:
        """Every loaded model version."""
        return list(self._call(self._stubs.models.ListModels, pb.ListModelsRequest(), timeout_s).models)

    def _call(self, method: Any, request: Any, timeout_s: float | None, session_id: str = "") -> Any:
        deadline, attempt, sent = self._policy.begin(timeout_s), 0, (*self._headers, *_ids(session_id))
        while True:
            try:
                return method(request, timeout=max(0.0, deadline - time.monotonic()), metadata=sent)
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
        token: str | None = None,
        plain_token: bool = False,
    ) -> None:
        self._headers = headers(target, credentials, token, plain_token)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        self._policy = Policy(target, timeout_s, retries)
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
        self, text: str, *, timeout_s: float | None = None, session_id: str = "", **fields: Unpack[ParseFields]
    ) -> pb.ParseResponse:
        """As `Client.parse`."""
        request = _parse_request(text, fields)
        response: pb.ParseResponse = await self._call(self._stubs.dialogue.Parse, request, timeout_s, session_id)
        return response

    async def parse_batch(
        self,
        texts: Iterable[str],
        *,
        timeout_s: float | None = None,
        session_id: str = "",
        **fields: Unpack[ParseFields],
    ) -> list[pb.ParseResponse | PalmServeError]:
        """As `Client.parse_batch`."""
        request = pb.ParseBatchRequest(requests=[_parse_request(text, fields) for text in texts])
        return _outcomes(await self._call(self._stubs.dialogue.ParseBatch, request, timeout_s, session_id))

    async def predict(
        self,
        task: str,
        text: str,
        text_pair: str = "",
        *,
        timeout_s: float | None = None,
        session_id: str = "",
        **fields: Unpack[PredictFields],
    ) -> pb.PredictResponse:
        """As `Client.predict`."""
        request = _predict_request(task, text, text_pair, fields)
        response: pb.PredictResponse = await self._call(self._stubs.prediction.Predict, request, timeout_s, session_id)
        return response

    async def models(self, *, timeout_s: float | None = None) -> list[pb.Model]:
        """As `Client.models`."""
        return list((await self._call(self._stubs.models.ListModels, pb.ListModelsRequest(), timeout_s)).models)

    async def _call(self, method: Any, request: Any, timeout_s: float | None, session_id: str = "") -> Any:
        deadline, attempt, sent = self._policy.begin(timeout_s), 0, (*self._headers, *_ids(session_id))
        while True:
            try:
                return await method(request, timeout=max(0.0, deadline - time.monotonic()), metadata=sent)
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
        else make_error(code_pb2.Code.Name(item.error.code), item.error.message)
        for item in response.items
    ]
