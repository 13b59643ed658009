"""A bundle in this process: the answers of a server, without a socket and without an event loop.

    from palm_serve import Model

    with Model.open("bundles/demo") as model:
        answer = model.parse("wake me at seven")
        print(answer.intent.name, [(slot.name, slot.value) for slot in answer.slots])

Answers are the messages of `palm.proto`, as those of `palm_serve.client`.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice, repeat
from pathlib import Path
from types import TracebackType
from typing import TypedDict, TypeVar, Unpack

from google.protobuf.timestamp_pb2 import Timestamp

from palm_serve.batching import BatchLimits, plan_batches
from palm_serve.bundle.manifest import Manifest
from palm_serve.config import Limits, Precision, Provider, check_providers
from palm_serve.engine.providers import AUTO
from palm_serve.errors import ConfigError, EngineError, InvalidRequest, PalmServeError, Unavailable, check_unicode
from palm_serve.pipeline import Pipeline, PreparedRequest
from palm_serve.registry.bundle_opener import LOAD_LIMIT_S, EngineChoice, LoadRules
from palm_serve.registry.local_bundle import local_bundle
from palm_serve.registry.trial import check_and_warm_up
from palm_serve.rpc.messages.requests import CheckedRequest, check_parse_request, check_predict_request
from palm_serve.rpc.messages.responses import parse_response, predict_response
from palm_serve.types import EngineInfo, Prediction
from palm_serve.v1 import palm_pb2 as pb

_TEXTS_PER_CHUNK = 1024
"""Texts of `parse_many` that are tokenized and planned together, as many as a ParseBatch of the server may have."""

Response = TypeVar("Response", pb.ParseResponse, pb.PredictResponse)


class OpenOptions(TypedDict, total=False):
    """Options of `Model.open`. They have the names, the meaning and the defaults of `palm-serve run`."""

    provider: str
    precision: str
    threads: int | None
    cache_dir: Path | None
    trust: Path | None
    allow_unproven: bool
    max_text_bytes: int
    variant: str


class TaskFields(TypedDict, total=False):
    """Optional fields of a PredictRequest that do not depend on a server."""

    top_k: int
    offset_unit: pb.OffsetUnit
    context: pb.Context


class TextFields(TaskFields, total=False):
    """Optional fields of a ParseRequest that do not depend on a server."""

    tasks: Sequence[str]
    thresholds: pb.Thresholds
    reference_time: datetime | Timestamp
    time_zone: str


class Model:
    """One bundle, open in this process. Threads may share it: the engine runs one batch at a time.

    Errors are those of `palm_serve.errors`. A request that a server would refuse as INVALID_ARGUMENT raises InvalidRequest.

    Args:
        pipeline: the bundle and its engine.
        limits: limits of a request.
    """

    def __init__(self, pipeline: Pipeline, limits: Limits) -> None:
        self.manifest: Manifest = pipeline.bundle.manifest
        self._pipeline: Pipeline | None = pipeline
        self._limits = limits
        self._batch_limits = BatchLimits()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, bundle: Path | str, **options: Unpack[OpenOptions]) -> "Model":
        """Open a bundle with the checks of a server: digests, gates, the golden examples, and a warm-up.

        Args:
            bundle: directory or URL (`s3://...`) of the bundle. `@sha256:DIGEST` behind it also checks its digest.
            **options: `provider` and `precision` ("auto": the fastest that passes the bundle's proof here), `threads`
                of the engine, `cache_dir` for compiled engines and measured timings, `trust` (a folder of public keys),
                `allow_unproven`, `max_text_bytes` (10,000), and `variant` ("auto": the fastest graph of the bundle).

        Raises:
            ConfigError: an option is not valid.
            BundleError: the bundle must not be used.
            StorageError: the bundle cannot be fetched.
            EngineError: no engine can run the bundle.
        """
        limits = Limits(text_bytes=options.get("max_text_bytes", Limits().text_bytes))
        choice = EngineChoice(
            _providers(options.get("provider", Provider.AUTO)),
            _precision(options.get("precision", Precision.AUTO)),
            options.get("threads"),
            options.get("cache_dir"),
            variant=options.get("variant", AUTO),
        )
        if choice.threads is not None and choice.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {choice.threads}. Leave it out for one per core.")
        rules = LoadRules(options.get("trust"), options.get("allow_unproven", False))
        request = choice.request(LOAD_LIMIT_S)
        folder = local_bundle(Path(bundle), request, cache=choice.cache, trust=rules.trust)
        pipeline = choice.open(rules.load(folder))
        check_and_warm_up(pipeline, BatchLimits())
        return cls(pipeline, limits)

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Digest of the bundle."""
        return self.manifest.version

    @property
    def info(self) -> EngineInfo:
        """Execution provider and precision of the engine. Raises Unavailable after `close`."""
        return self._open_pipeline().engine.info

    def close(self) -> None:
        """Give the engine's memory back, once the batch that runs has ended. Later calls raise Unavailable."""
        with self._lock:
            if self._pipeline is not None and self._pipeline.values is not None:
                self._pipeline.values.close()
            self._pipeline = None

    def parse(self, text: str, **fields: Unpack[TextFields]) -> pb.ParseResponse:
        """Answer one text with all tasks that read a single text, or with those that `tasks` names.

        Args:
            text: the text, as the user wrote it.
            **fields: fields of a ParseRequest: `tasks`, `top_k`, `offset_unit`, `thresholds`, `context`, `reference_time`,
                `time_zone`.

        Raises:
            InvalidRequest: the request cannot be answered as sent.
            EngineError: the engine failed.
            Unavailable: the model is closed.
        """
        (outcome,) = self._parse_chunk([text], fields)
        if isinstance(outcome, PalmServeError):
            raise outcome
        return outcome

    def parse_many(self, texts: Iterable[str], **fields: Unpack[TextFields]) -> list[pb.ParseResponse | PalmServeError]:
        """Answer many texts in order, in batches of similar length. A text that cannot be answered becomes its error.

        Args:
            texts: the texts.
            **fields: fields of each request, the same for all texts, as for `parse`.

        Raises:
            EngineError: the engine failed.
            Unavailable: the model is closed.
        """
        outcomes: list[pb.ParseResponse | PalmServeError] = []
        remaining = iter(texts)
        while chunk := list(islice(remaining, _TEXTS_PER_CHUNK)):
            outcomes += self._parse_chunk(chunk, fields)
        return outcomes

    def predict(self, task: str, text: str, text_pair: str = "", **fields: Unpack[TaskFields]) -> pb.PredictResponse:
        """Run one task, also one that reads a pair of texts.

        Args:
            task: name of the task.
            text: the text, sentence or question.
            text_pair: second sentence or passage.
            **fields: `top_k`, `offset_unit` and `context` of a PredictRequest.

        Raises:
            InvalidRequest: the request cannot be answered as sent.
            EngineError: the engine failed.
            Unavailable: the model is closed.
        """
        (outcome,) = self.predict_many(task, [text], [text_pair], **fields)
        if isinstance(outcome, PalmServeError):
            raise outcome
        return outcome

    def predict_many(
        self, task: str, texts: Iterable[str], text_pairs: Iterable[str] | None = None, **fields: Unpack[TaskFields]
    ) -> list[pb.PredictResponse | PalmServeError]:
        """Run one task on many texts, as `parse_many` does.

        Args:
            task: name of the task.
            texts: the texts, sentences or questions.
            text_pairs: second sentence or passage of each text. None: the task reads a single text.
            **fields: fields of each request, as for `predict`.

        Raises:
            EngineError: the engine failed.
            Unavailable: the model is closed.
            ValueError: `text_pairs` are more or fewer than the texts.
        """
        outcomes: list[pb.PredictResponse | PalmServeError] = []
        pairs = repeat("") if text_pairs is None else text_pairs
        remaining = zip(texts, pairs, strict=text_pairs is not None)
        while chunk := list(islice(remaining, _TEXTS_PER_CHUNK)):

            def check(position: int, chunk: Sequence[tuple[str, str]] = chunk) -> CheckedRequest:
                text, pair = chunk[position]
                message = pb.PredictRequest(
                    task=task, text=check_unicode(text, "text"), text_pair=check_unicode(pair, "text_pair"), **fields
                )
                return check_predict_request(message, self.manifest, self._limits, None)

            outcomes += self._answer_chunk(len(chunk), check, predict_response)
        return outcomes

    def _open_pipeline(self) -> Pipeline:
        pipeline = self._pipeline
        if pipeline is None:
            raise Unavailable("the model is closed. Open it again.")
        return pipeline

    def _parse_chunk(self, texts: Sequence[str], fields: TextFields) -> list[pb.ParseResponse | PalmServeError]:
        def check(position: int) -> CheckedRequest:
            message = pb.ParseRequest(text=check_unicode(texts[position], "text"), **fields)
            return check_parse_request(message, self.manifest, self._limits, None)

        return self._answer_chunk(len(texts), check, parse_response)

    def _answer_chunk(
        self,
        count: int,
        check: Callable[[int], CheckedRequest],
        respond: Callable[[str, "Model", CheckedRequest, Prediction], Response],
    ) -> list[Response | PalmServeError]:
        """Answer some requests in batches of similar length.

        Args:
            count: number of requests.
            check: returns the request at a position. Raises InvalidRequest.
            respond: converts the answer of a request.
        """
        pipeline = self._open_pipeline()
        outcomes: dict[int, Response | PalmServeError] = {}
        checked_requests: dict[int, CheckedRequest] = {}
        for position in range(count):
            try:
                checked_requests[position] = check(position)
            except InvalidRequest as error:
                outcomes[position] = error
        prepared: dict[int, PreparedRequest] = {}
        requests = [checked.request for checked in checked_requests.values()]
        for position, preparation in zip(checked_requests, pipeline.prepare_many(requests), strict=True):
            if isinstance(preparation, PreparedRequest):
                prepared[position] = preparation
            else:
                outcomes[position] = preparation
        positions = list(prepared)
        lengths = [request.tokens for request in prepared.values()]
        for batch in plan_batches(lengths, self._batch_limits):
            batch_positions = [positions[index] for index in batch]
            predictions = self._run(pipeline, [prepared[position] for position in batch_positions])
            for position, prediction in zip(batch_positions, predictions, strict=True):
                checked = checked_requests[position]
                if pipeline.values is not None:
                    prediction = pipeline.values.resolve(checked.request, prediction)
                outcomes[position] = respond("", self, checked, prediction)
        return [outcomes[position] for position in range(count)]

    def _run(self, pipeline: Pipeline, requests: Sequence[PreparedRequest]) -> list[Prediction]:
        """Answer one batch, after the batches of other threads. Raises EngineError, Unavailable."""
        with self._lock:
            self._open_pipeline()
            try:
                return pipeline.run(requests)
            except PalmServeError:
                raise
            except Exception as error:  # the exceptions of the runtimes share no base class
                raise EngineError(f"the model failed on this batch: {type(error).__name__}: {error}") from error


def _providers(value: str) -> str:
    """Return the names of execution providers. Raises ConfigError."""
    try:
        return check_providers(value)
    except ValueError as error:
        raise ConfigError(f"provider {error}, got '{value}'. Leave it out for auto.") from None


def _precision(value: str) -> Precision:
    """Return a precision. Raises ConfigError."""
    try:
        return Precision(value)
    except ValueError:
        names = ", ".join(Precision)
        raise ConfigError(f"precision must be one of {names}, got '{value}'. Leave it out for auto.") from None
