"""Calls of both clients: requests, retries and errors, without I/O.

The methods of `ServerConnection` are generators. They yield the next call and receive its response or error, so the
blocking client only has to make the calls, and the asyncio client to await them.
"""

import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any, TypedDict, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2

from palm_serve.client.balancing import Balance, open_replicas
from palm_serve.client.channel import Connection, ConnectionPool
from palm_serve.client.credentials import Headers, headers
from palm_serve.client.retries import CallAttempts, RetryPolicy, is_from_server, item_error
from palm_serve.errors import InvalidRequest, PalmServeError, check_unicode
from palm_serve.v1 import palm_pb2 as pb

DEFAULT_TIMEOUT_S = 10.0
DEFAULT_RETRIES = 3
REQUEST_ID_KEY, SESSION_ID_KEY = "x-request-id", "x-session-id"
TIMEOUT_KEY = "x-palm-timeout-ms"
"""Milliseconds until the deadline, for doors that do not pass on gRPC's: Ray Serve. The server ignores it."""
_SESSION_ID_BYTES = 256
_QUOTED = 64
_PARSE = attrgetter("dialogue.Parse")
_PARSE_BATCH = attrgetter("dialogue.ParseBatch")
_PREDICT = attrgetter("prediction.Predict")
_LIST_MODELS = attrgetter("models.ListModels")
_CHECK_HEALTH = attrgetter("health.Check")

_AWAY_S = 1.0
"""Time for which a replica that has no connection is avoided, where there are others."""
_SILENT_S = 5.0
"""Time for which a replica that let a deadline pass is avoided, where there are others."""

R = TypeVar("R")
Steps = Generator[Callable[[], Any], Any, R]
Method = Callable[[Connection], Callable[..., Any]]
"""Finds the callable of a method among the stubs of a connection."""
Outcome = pb.ParseResponse | PalmServeError


class ClientOptions(TypedDict, total=False):
    """Connection and retry options of a client, see `Client`."""

    timeout_s: float
    retries: int
    credentials: grpc.ChannelCredentials | None
    token: str | None
    plain_token: bool
    use_proxy: bool
    balance: Balance


class PredictFields(TypedDict, total=False):
    """Optional fields of a PredictRequest."""

    model: str
    version: str
    request_id: str
    top_k: int
    offset_unit: pb.OffsetUnit
    priority: pb.Priority
    context: pb.Context


class ParseFields(PredictFields, total=False):
    """Optional fields of a ParseRequest."""

    tasks: Sequence[str]
    thresholds: pb.Thresholds
    reference_time: datetime | Timestamp
    time_zone: str


class ServerConnection:
    """One connection to a server.

    Args:
        api: the module `grpc` or `grpc.aio`.
        sleep: sleeps for a number of seconds, blocking or awaited as `api` is.
        target: gRPC name of the server.
        timeout_s: default deadline of a call in seconds.
        retries: limit of retries per call.
        credentials: TLS credentials. None: plain text.
        token: access token. None: no token.
        plain_token: allow the token to be sent to another machine without TLS.
        use_proxy: use the proxy of the environment, if any, to call another machine.
        balance: how calls are divided among the addresses of the target.
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
        use_proxy: bool = True,
        balance: Balance = "round_robin",
    ) -> None:
        self._headers = headers(target, credentials, token, plain_token)
        self._replicas = open_replicas(api, target, credentials, use_proxy, balance)
        self._sleep = sleep
        self._policy = RetryPolicy(target, timeout_s, retries, credentials is not None)
        self._has_been_answered = False

    def close(self) -> Steps[None]:
        """Close the connection and cancel the calls in flight."""
        for channel in self._replicas.channels():
            yield channel.close

    def parse(
        self, text: str, timeout_s: float | None, session_id: str, fields: ParseFields
    ) -> Steps[pb.ParseResponse]:
        """Parse one utterance, see `Client.parse`.

        Args:
            text: the utterance.
            timeout_s: deadline in seconds. None: the client's default.
            session_id: id of the dialogue.
            fields: optional fields of the request.
        """
        return self._call_once(_PARSE, _parse_request(text, fields), timeout_s, session_id)

    def predict(
        self, task: str, text: str, text_pair: str, timeout_s: float | None, session_id: str, fields: PredictFields
    ) -> Steps[pb.PredictResponse]:
        """Run one task, see `Client.predict`.

        Args:
            task: name of the task.
            text: the text, sentence or question.
            text_pair: second sentence or passage.
            timeout_s: deadline in seconds. None: the client's default.
            session_id: id of the dialogue.
            fields: optional fields of the request.
        """
        request = pb.PredictRequest(
            task=task, text=check_unicode(text, "text"), text_pair=check_unicode(text_pair, "text_pair"), **fields
        )
        return self._call_once(_PREDICT, request, timeout_s, session_id)

    def models(self, timeout_s: float | None) -> Steps[list[pb.Model]]:
        """List every loaded version."""
        response = yield from self._call_once(_LIST_MODELS, pb.ListModelsRequest(), timeout_s)
        return list(response.models)

    def health(self, model: str, timeout_s: float | None) -> Steps[bool]:
        """Return true if the server, or one of its models, is ready."""
        request = health_pb2.HealthCheckRequest(service=check_unicode(model, "model"))
        response = yield from self._call_once(_CHECK_HEALTH, request, timeout_s)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def parse_batch(
        self, texts: Iterable[str], timeout_s: float | None, session_id: str, fields: ParseFields
    ) -> Steps[list[Outcome]]:
        """Parse several utterances, and retry those that are refused, see `Client.parse_batch`.

        Args:
            texts: the utterances.
            timeout_s: deadline of the whole batch in seconds. None: the client's default.
            session_id: id of the dialogue.
            fields: optional fields of each request.
        """
        requests = [_parse_request(text, fields) for text in texts]
        attempts, metadata = self._begin(timeout_s, session_id)
        outcomes: dict[int, Outcome] = {}
        pending: Sequence[int] = range(len(requests))
        while True:
            batch = pb.ParseBatchRequest(requests=[requests[index] for index in pending])
            try:
                response = yield from self._call(_PARSE_BATCH, batch, attempts, metadata)
            except PalmServeError:
                if not outcomes:
                    raise
                break  # the pending texts keep their former errors
            delays: dict[int, float] = {}
            for index, item in zip(pending, response.items, strict=True):
                if item.HasField("response"):
                    outcomes[index] = item.response
                else:
                    outcomes[index] = item_error(item.error)
                if item.HasField("error"):
                    delay = attempts.item_delay_s(item.error)
                    if delay is not None:
                        delays[index] = delay
            pause = attempts.next_s(max(delays.values())) if delays else None
            if pause is None:
                break
            pending = list(delays)
            yield partial(self._sleep, pause)
        return [outcomes[index] for index in range(len(requests))]

    def _call_once(self, method: Method, request: Any, timeout_s: float | None, session_id: str = "") -> Steps[Any]:
        attempts, metadata = self._begin(timeout_s, session_id)
        return (yield from self._call(method, request, attempts, metadata))

    def _begin(self, timeout_s: float | None, session_id: str) -> tuple[CallAttempts, Headers]:
        """Return the deadline and the metadata of all attempts of one call. Raises InvalidRequest."""
        metadata = (*self._headers, *_id_headers(session_id))
        return self._policy.begin(timeout_s), metadata

    def _call(self, method: Method, request: Any, attempts: CallAttempts, metadata: Headers) -> Steps[Any]:
        """Make the attempts of one call.

        A client that was answered before knows that the server exists. So its retries wait for a server that is away until the
        deadline, while the first call to a wrong address fails at once.
        """
        no_connection: grpc.RpcError | None = None
        tried: set[ConnectionPool] = set()
        while True:
            pool = self._replicas.choose(tried)
            for channel in (*self._replicas.channels_to_close(), *pool.replace_silent()):
                yield channel.close
            wait = no_connection is not None and pool in tried and self._has_been_answered
            tried.add(pool)
            try:
                with pool.call() as connection:
                    left_s = attempts.left_s
                    headers_of_attempt = (*metadata, (TIMEOUT_KEY, str(round(left_s * 1000))))
                    response = yield partial(
                        method(connection), request, timeout=left_s, metadata=headers_of_attempt, wait_for_ready=wait
                    )
            except grpc.RpcError as error:
                if is_from_server(error):
                    connection.answered()
                    self._has_been_answered = True
                elif error.code() is grpc.StatusCode.UNAVAILABLE:
                    no_connection = error
                    pool.avoid(_AWAY_S)
                elif error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    connection.passed_deadline()
                    pool.avoid(_SILENT_S)
                    if wait and no_connection is not None:
                        raise self._policy.error(no_connection) from None
                pause = attempts.pause_s(error)
                if pause is None:
                    raise self._policy.error(error) from None
            else:
                connection.answered()
                self._has_been_answered = True
                return response
            yield partial(self._sleep, pause)


def _id_headers(session_id: str) -> Headers:
    """Return a new request id, and the id of the dialogue if there is one. Raises InvalidRequest."""
    request_header = (REQUEST_ID_KEY, uuid.uuid4().hex)
    if len(session_id) > _SESSION_ID_BYTES or not (session_id.isascii() and session_id.isprintable()):
        raise InvalidRequest(
            f"session_id must be printable ASCII of at most {_SESSION_ID_BYTES} characters, got {session_id[:_QUOTED]!r} of "
            f"{len(session_id):,} characters. Use a shorter id.",
            "session_id",
        )
    if not session_id:
        return (request_header,)
    return (request_header, (SESSION_ID_KEY, session_id))


def _parse_request(text: str, fields: ParseFields) -> pb.ParseRequest:
    return pb.ParseRequest(text=check_unicode(text, "text"), **fields)
