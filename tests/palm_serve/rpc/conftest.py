"""All gRPC services on a real port, with fake models whose answers are simple functions of the text."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from palm_serve.bundle.manifest import Decode, EncoderInfo, GraphVariant, Manifest, TaskInfo, TaskThresholds, TensorInfo
from palm_serve.config import MIB, ServeOptions
from palm_serve.errors import BundleError, NotFound, Overloaded, PalmServeError
from palm_serve.registry import LoadFailure
from palm_serve.registry.statistics import ModelStatistics
from palm_serve.rpc.access.tokens import Tokens
from palm_serve.rpc.grpc_server import make_server, make_services
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.types import (
    Answer,
    CallRecord,
    Classification,
    EngineInfo,
    Label,
    Match,
    Prediction,
    Span,
    Spans,
    TaskAnswer,
    TextRequest,
    Timings,
)

INTENTS = ("flight", "weather", "music")


def fake_manifest(name: str = "fake") -> Manifest:
    """Create a manifest with a task of every kind and a threshold of the intent."""
    tasks = {
        "intent": TaskInfo(
            kind="classify",
            role="intent",
            outputs=("i",),
            labels=INTENTS,
            thresholds=TaskThresholds(intent_confidence=0.4),
        ),
        "slots": TaskInfo(
            kind="sequence_label", role="slots", outputs=("s",), labels=("O", "B-name", "I-name", "B-hour", "I-hour")
        ),
        "topics": TaskInfo(kind="multi_label", outputs=("t",), labels=("short", "long")),
        "same": TaskInfo(kind="match", outputs=("m",), labels=("no", "yes"), decode=Decode(match_label="yes")),
        "answer": TaskInfo(kind="mrc", outputs=("a", "b")),
    }
    encoder = EncoderInfo(family="bert", name="e", layers=1, hidden_size=1, vocab_size=1, parameters=1, pad_token_id=0)
    return Manifest(
        name=name,
        version="f" * 64,
        created="now",
        encoder=encoder,
        max_length=16,
        inputs=(TensorInfo(name="input_ids"),),
        tasks=tasks,
        variants={"plain": GraphVariant(file="model.onnx", size=1)},
        files={"model.onnx": "0"},
    )


def rank(text: str, top_k: int) -> Classification:
    """Rank the intents by the number of times that the text names them, plus one."""
    counts = [1 + text.lower().count(label) for label in INTENTS]
    labels = [Label(label, count / sum(counts)) for label, count in zip(INTENTS, counts, strict=True)]
    ranking = tuple(sorted(labels, key=lambda label: -label.confidence))[:top_k]
    return Classification(ranking[0], ranking, out_of_scope_score=1 - ranking[0].confidence)


def compute(task: str, request: TextRequest) -> TaskAnswer:
    """Compute the answer of one task from the texts."""
    text, pair = request.text, request.pair or ""
    match task:
        case "intent":
            return rank(text, request.top_k)
        case "slots":
            return Spans(tuple(Span("name", m[0], *m.span(), 0.9) for m in re.finditer(r"[A-Z]\w+", text)))
        case "topics":
            label = Label("long" if len(text) > 20 else "short", 0.8)
            return Classification(label, (label,), labels=(label,))
        case "same":
            a, b = set(text.split()), set(pair.split())
            score = len(a & b) / len(a | b)
            return Match(Label("yes" if score > 0.5 else "no", max(score, 1 - score)), score)
        case _:
            start = pair.find(text)
            if start < 0:
                return Answer("", 0, 0, 0.6, no_answer=True)
            first = Answer(text[:1], start, start + 1, 0.2)
            return Answer(text, start, start + len(text), 0.7, alternatives=(first,))


@dataclass(eq=False)
class FakeModel:
    """Fake of `registry.LoadedModel`. The texts `sleep 0.2`, `crash` and `overloaded` control it."""

    manifest: Manifest = field(default_factory=fake_manifest)
    labels: tuple[str, ...] = ("stable",)
    ready: bool = True
    info: EngineInfo = field(default_factory=lambda: EngineInfo("CPU", "fp32", "plain"))
    requests: list[TextRequest] = field(default_factory=list)
    refusals: list[PalmServeError] = field(default_factory=list)
    cancelled: int = 0
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    holders: int = 0

    def __enter__(self) -> "FakeModel":
        self.holders += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.holders -= 1

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    async def predict(self, request: TextRequest) -> Prediction:
        self.requests.append(request)
        if request.text == "crash":
            raise RuntimeError("secret at /home/secret/model.onnx")
        if request.text == "overloaded":
            raise Overloaded("2,048 requests wait", 0.25)
        if request.text.startswith("sleep"):
            try:
                await asyncio.sleep(float(request.text.split()[1]))
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        seen = min(len(request.text), 40)
        answers = {task: compute(task, request) for task in request.tasks}
        return Prediction(answers, seen < len(request.text), seen, Timings(1, 2, 3, 4, 5))

    async def wait_for_room(self, request: TextRequest) -> PalmServeError | None:
        return Overloaded("2,048 requests wait", 0.25) if request.text == "full" else None

    def record_refusal(self, error: PalmServeError) -> None:
        self.refusals.append(error)

    async def predict_many(self, requests: list[TextRequest]) -> list[Prediction | PalmServeError]:
        outcomes = await asyncio.gather(*map(self.predict, requests), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, PalmServeError):
                raise outcome
        return outcomes  # type: ignore[return-value]


@dataclass
class FakeRegistry:
    """Fake of `registry.Registry`, without a file system."""

    models: list[FakeModel] = field(default_factory=lambda: [FakeModel()])
    keys: list[str] = field(default_factory=list)
    failures: dict[tuple[str, str], LoadFailure] = field(default_factory=dict)
    overload: PalmServeError | None = None
    """The error of every call, if the registry says so before a message is read."""

    def early_refusal(self, deadline: float | None, client: str) -> PalmServeError | None:
        return self.overload

    def list(self) -> "list[FakeModel]":
        return [*self.models]

    def stable(self) -> dict[str, FakeModel]:
        return {model.name: model for model in reversed(self.models)}

    def get(self, name: str = "", version: str = "") -> FakeModel:
        for model in self.models:
            if name in ("", model.name) and version in ("", "stable", model.version):
                return model
        raise NotFound(f"no model '{name}' {version}; loaded: {', '.join(m.name for m in self.models)}")

    def route(self, name: str, version: str, key: str) -> FakeModel:
        self.keys.append(key)
        return self.get(name, version)

    async def unload(self, name: str, version: str = "") -> None:
        self.models.remove(self.get(name, version))


@dataclass
class FakeFolder:
    """Fake of `registry.Watcher` with three bundles, of which `broken` cannot be loaded."""

    registry: FakeRegistry

    async def load(self, name: str) -> FakeModel:
        if name not in ("other", "next", "broken"):
            raise NotFound(f"no bundle '{name}' in the server's model folder")
        if name == "broken":
            raise BundleError("/home/secret/model.onnx: changed byte")
        model = FakeModel(fake_manifest(name))
        self.registry.models.append(model)
        return model


@dataclass
class RunningServer:
    """A running server: its address, its fakes, and a way to run code on its event loop."""

    target: str
    registry: FakeRegistry
    lifecycle: Lifecycle
    loop: asyncio.AbstractEventLoop
    observed: list[CallRecord]
    channel: grpc.Channel

    @property
    def model(self) -> FakeModel:
        return self.registry.models[0]

    def set_state(self, state: State) -> None:
        async def change() -> None:
            self.lifecycle.state = state
            if state is State.DRAINING:
                self.lifecycle.end_streams()

        asyncio.run_coroutine_threadsafe(change(), self.loop).result(5)


@contextmanager
def run_rpc_server(options: ServeOptions, state: State = State.SERVING) -> Iterator[RunningServer]:
    """Run a server on a free port, on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    registry, observed = FakeRegistry(), []

    async def start() -> tuple[Lifecycle, grpc.aio.Server, int]:
        lifecycle = Lifecycle()
        lifecycle.state = state
        tokens = None if options.tokens is None else Tokens(options.tokens)
        folder = None if options.model_folder is None else FakeFolder(registry)
        services = make_services(
            registry,  # type: ignore[arg-type]
            options,
            lifecycle,
            observed.append,
            tokens,
            folder,  # type: ignore[arg-type]
        )
        server = make_server(services, options)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return lifecycle, server, port

    try:
        lifecycle, server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        target = f"127.0.0.1:{port}"
        with grpc.insecure_channel(target) as channel:
            yield RunningServer(target, registry, lifecycle, loop, observed, channel)
        asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def make_rpc_server() -> Iterator[Callable[..., RunningServer]]:
    """Return `make_rpc_server(state=..., **options)`, which starts a server."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(state: State = State.SERVING, **options: object) -> RunningServer:
            return stack.enter_context(run_rpc_server(ServeOptions(**options), state))  # type: ignore[arg-type]

        yield make


@pytest.fixture(scope="module")
def rpc_server() -> Iterator[RunningServer]:
    """Run a server with small limits for the tests of a module."""
    options = ServeOptions(
        max_text_bytes=100, max_batch_items=4, max_message_mib=4_000 / MIB, max_stream_items=2, channelz=True
    )
    with run_rpc_server(options) as opened:
        yield opened


@pytest.fixture
def manifest() -> Manifest:
    return fake_manifest()
