"""The blocking and the asyncio client. `ServerConnection` decides on the calls, and a client calls or awaits them."""

import asyncio
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Unpack

import grpc

from palm_serve.client.protocol import ClientOptions, Outcome, ParseFields, PredictFields, R, ServerConnection, Steps
from palm_serve.v1 import palm_pb2 as pb

DEFAULT_TARGET = "127.0.0.1:50051"


class Client:
    """The blocking client.

    Every call accepts `timeout_s`, its deadline in seconds. With a `session_id`, all turns of a dialogue are answered by the
    same model version, also while a canary gets a share of the requests. A `request_id` is echoed and is the same for
    every attempt of a call.

    Args:
        target: host and port, `unix:PATH`, or any gRPC name.
        timeout_s: default deadline of a call including its retries, in seconds. Default: 10.
        retries: limit of retries per call. Default: 3. Of all calls at most a fifth are retried, after the first ten retries.
        credentials: TLS credentials, see `tls`. None (default): plain text.
        token: access token. Without TLS it is sent to this machine only.
        plain_token: allow the token to be sent to another machine without TLS.
        use_proxy: use the proxy of the environment (http_proxy, https_proxy, grpc_proxy) to call another machine. Default: true.
            This machine is always called directly.
        balance: how calls are divided among the addresses of the target (`dns:///HOST:PORT`, `ipv4:A:PORT,B:PORT`).
            `round_robin` (default): each in turn. `weighted`: by the load that the servers report. `least`: the less
            busy one of two, which avoids slow replicas; it looks names up itself, every 30 s.

    Raises:
        InvalidRequest: if there is no such balance, or the target cannot be called with it.
        TlsError: if the token would be sent to another machine in plain text.
        TokenFileError: if the token is not printable ASCII.
    """

    def __init__(self, target: str = DEFAULT_TARGET, **options: Unpack[ClientOptions]) -> None:
        self._connection = ServerConnection(grpc, time.sleep, target, **options)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and cancel the calls in flight."""
        _run(self._connection.close())

    def parse(
        self, text: str, *, timeout_s: float | None = None, session_id: str = "", **fields: Unpack[ParseFields]
    ) -> pb.ParseResponse:
        """Parse one utterance: intent, slots and the other tasks on single texts.

        Args:
            text: the utterance.
            timeout_s: deadline in seconds. None: the client's default.
            session_id: id of the dialogue.
            **fields: optional fields of the ParseRequest.
        """
        return _run(self._connection.parse(text, timeout_s, session_id, fields))

    def parse_batch(
        self,
        texts: Iterable[str],
        *,
        timeout_s: float | None = None,
        session_id: str = "",
        **fields: Unpack[ParseFields],
    ) -> list[Outcome]:
        """Parse several utterances and return a response or an error for each, in order.

        Texts that the server refuses because of overload are retried, without the texts that are already answered.

        Args:
            texts: the utterances.
            timeout_s: deadline of the whole batch in seconds. None: the client's default.
            session_id: id of the dialogue.
            **fields: optional fields of each ParseRequest.
        """
        return _run(self._connection.parse_batch(texts, timeout_s, session_id, fields))

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
        """Run one task of any kind.

        Args:
            task: name of the task.
            text: the text, sentence or question.
            text_pair: second sentence or passage. Required by tasks on pairs.
            timeout_s: deadline in seconds. None: the client's default.
            session_id: id of the dialogue.
            **fields: optional fields of the PredictRequest.
        """
        return _run(self._connection.predict(task, text, text_pair, timeout_s, session_id, fields))

    def models(self, *, timeout_s: float | None = None) -> list[pb.Model]:
        """List every loaded model version."""
        return _run(self._connection.models(timeout_s))

    def health(self, model: str = "", *, timeout_s: float | None = None) -> bool:
        """Return true if the server, or one of its models, is ready.

        Raises:
            NotFound: if the server does not know the model.
        """
        return _run(self._connection.health(model, timeout_s))


class AsyncClient:
    """The asyncio client. It has the arguments and methods of `Client`. Create it on the event loop that runs its calls."""

    def __init__(self, target: str = DEFAULT_TARGET, **options: Unpack[ClientOptions]) -> None:
        self._connection = ServerConnection(grpc.aio, asyncio.sleep, target, **options)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection and cancel the calls in flight."""
        await _run_async(self._connection.close())

    async def parse(
        self, text: str, *, timeout_s: float | None = None, session_id: str = "", **fields: Unpack[ParseFields]
    ) -> pb.ParseResponse:
        """Parse one utterance.

        Args:
            text: the utterance.
            timeout_s: deadline in seconds. None: the client's default.
            session_id: id of the dialogue.
            **fields: optional fields of the ParseRequest.
        """
        return await _run_async(self._connection.parse(text, timeout_s, session_id, fields))

    async def parse_batch(
        self,
        texts: Iterable[str],
        *,
        timeout_s: float | None = None,
        session_id: str = "",
        **fields: Unpack[ParseFields],
    ) -> list[Outcome]:
        """Parse several utterances and return a response or an error for each, in order.

        Args:
            texts: the utterances.
            timeout_s: deadline of the whole batch in seconds. None: the client's default.
            session_id: id of the dialogue.
            **fields: optional fields of each ParseRequest.
        """
        return await _run_async(self._connection.parse_batch(texts, timeout_s, session_id, fields))

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
        """Run one task of any kind.

        Args:
            task: name of the task.
            text: the text, sentence or question.
            text_pair: second sentence or passage. Required by tasks on pairs.
            timeout_s: deadline in seconds. None: the client's default.
            session_id: id of the dialogue.
            **fields: optional fields of the PredictRequest.
        """
        return await _run_async(self._connection.predict(task, text, text_pair, timeout_s, session_id, fields))

    async def models(self, *, timeout_s: float | None = None) -> list[pb.Model]:
        """List every loaded model version."""
        return await _run_async(self._connection.models(timeout_s))

    async def health(self, model: str = "", *, timeout_s: float | None = None) -> bool:
        """Return true if the server, or one of its models, is ready."""
        return await _run_async(self._connection.health(model, timeout_s))


def _run(steps: Steps[R]) -> R:
    """Run the calls of a generator one after the other, and send it each response or error."""
    try:
        step = next(steps)
        while True:
            try:
                response = step()
            except grpc.RpcError as error:
                step = steps.throw(error)
            else:
                step = steps.send(response)
    except StopIteration as end:
        result: R = end.value
        return result


async def _run_async(steps: Steps[R]) -> R:
    """Await the calls of a generator one after the other, and send it each response or error."""
    try:
        step = next(steps)
        while True:
            try:
                response = await step()
            except grpc.RpcError as error:
                step = steps.throw(error)
            else:
                step = steps.send(response)
    except StopIteration as end:
        result: R = end.value
        return result
