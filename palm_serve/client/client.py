"""The blocking client and the asyncio client: what `Wire` decides, called or awaited."""

import asyncio
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Unpack

import grpc

from palm_serve.client.protocol import ClientOptions, Outcome, ParseFields, PredictFields, R, Steps, Wire
from palm_serve.v1 import palm_pb2 as pb

DEFAULT_TARGET = "127.0.0.1:50051"


class Client:
    """The blocking client.

    Every call takes `timeout_s`, its deadline. With a `session_id` all turns of a dialogue are answered by one version of the
    model while a new one gets a share of the requests; `request_id` is echoed, and the same for every try of a call.

    Args:
        target: host and port, or any gRPC name.
        timeout_s: deadline of a call that names none, retries included; default: 10.
        retries: at most, per call, default: 3; of all calls together no more than a fifth are tried again, after the first ten.
        credentials: what TLS needs, see `tls`; None, the default: plain text.
        token: what the server knows this client by; without TLS it is sent to this machine only.
        plain_token: sends the token over any network, where it can be read.

    Raises TlsError for a token that would leave this machine in plain text, TokenFileError for one that is none.
    """

    def __init__(self, target: str = DEFAULT_TARGET, **options: Unpack[ClientOptions]) -> None:
        self._wire = Wire(grpc, time.sleep, target, **options)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        self._wire.channel.close()

    def parse(
        self, text: str, *, timeout_s: float | None = None, session_id: str = "", **fields: Unpack[ParseFields]
    ) -> pb.ParseResponse:
        """One utterance: intent, slots and the other tasks that read a single text."""
        return _run(self._wire.parse(text, timeout_s, session_id, fields))

    def parse_batch(
        self,
        texts: Iterable[str],
        *,
        timeout_s: float | None = None,
        session_id: str = "",
        **fields: Unpack[ParseFields],
    ) -> list[Outcome]:
        """One answer per text, in order. A text that cannot be answered has its error in its place.

        Texts that the server refuses (overload) are asked again while the others' answers are kept, as long as a call would be tried again.
        """
        return _run(self._wire.parse_batch(texts, timeout_s, session_id, fields))

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
        return _run(self._wire.predict(task, text, text_pair, timeout_s, session_id, fields))

    def models(self, *, timeout_s: float | None = None) -> list[pb.Model]:
        """Every loaded model version."""
        return _run(self._wire.models(timeout_s))

    def health(self, model: str = "", *, timeout_s: float | None = None) -> bool:
        """Whether the server, or one of its models, is ready to answer. Raises NotFound for a model that it does not know."""
        return _run(self._wire.health(model, timeout_s))


class AsyncClient:
    """The asyncio client: the same calls, awaited. Make it where its event loop runs. Arguments as of `Client`."""

    def __init__(self, target: str = DEFAULT_TARGET, **options: Unpack[ClientOptions]) -> None:
        self._wire = Wire(grpc.aio, asyncio.sleep, target, **options)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        await self._wire.channel.close()

    async def parse(
        self, text: str, *, timeout_s: float | None = None, session_id: str = "", **fields: Unpack[ParseFields]
    ) -> pb.ParseResponse:
        """As `Client.parse`."""
        return await _run_async(self._wire.parse(text, timeout_s, session_id, fields))

    async def parse_batch(
        self,
        texts: Iterable[str],
        *,
        timeout_s: float | None = None,
        session_id: str = "",
        **fields: Unpack[ParseFields],
    ) -> list[Outcome]:
        """As `Client.parse_batch`."""
        return await _run_async(self._wire.parse_batch(texts, timeout_s, session_id, fields))

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
        return await _run_async(self._wire.predict(task, text, text_pair, timeout_s, session_id, fields))

    async def models(self, *, timeout_s: float | None = None) -> list[pb.Model]:
        """As `Client.models`."""
        return await _run_async(self._wire.models(timeout_s))

    async def health(self, model: str = "", *, timeout_s: float | None = None) -> bool:
        """As `Client.health`."""
        return await _run_async(self._wire.health(model, timeout_s))


def _run(steps: Steps[R]) -> R:
    """Makes the calls, one after the other; what comes of each decides on the next."""
    try:
        step = next(steps)
        while True:
            try:
                answer = step()
            except grpc.RpcError as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


async def _run_async(steps: Steps[R]) -> R:
    """As `_run`."""
    try:
        step = next(steps)
        while True:
            try:
                answer = await step()
            except grpc.RpcError as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result
