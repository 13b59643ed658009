"""The command `palm-serve`. Exit codes: 0; 2 wrong usage or bad input, with one message; 1 failure."""

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_serve.config import MIB, Limits, ServeOptions, TlsFiles
from palm_serve.errors import (
    BindError,
    BundleError,
    EngineError,
    InvalidRequest,
    NotAllowed,
    NotFound,
    PalmServeError,
    TlsError,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from palm_serve.registry import LoadedModel
    from palm_serve.v1 import palm_pb2 as pb

app = typer.Typer(
    name="palm-serve",
    help="Serves PALM bundles over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

_LABELS_SHOWN = 8
_BAD_INPUT = (BindError, BundleError, EngineError, InvalidRequest, NotAllowed, NotFound, TlsError)


class Provider(StrEnum):
    """Execution providers that can be forced."""

    AUTO = "auto"
    CPU = "CPU"
    OPENVINO = "OpenVINO"
    CUDA = "CUDA"
    TENSORRT = "TensorRT"


class Precision(StrEnum):
    """Precisions that can be forced."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class LogLevel(StrEnum):
    """Levels of the log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


ProviderOption = Annotated[
    Provider, typer.Option(help="What runs the model; auto: the fastest that passed the bundle's gate.")
]
PrecisionOption = Annotated[Precision, typer.Option(help="auto: the fastest that passed the bundle's gate.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads of the engine; default: one per core.")]


TlsCertOption = Annotated[
    Path | None, typer.Option(help="Serve over TLS with this certificate (PEM, with its chain); a new one is noticed.")
]
TlsKeyOption = Annotated[Path | None, typer.Option(help="Key of --tls-cert, PEM.")]
TlsClientCaOption = Annotated[
    Path | None, typer.Option(help="Clients must show a certificate that one of these signed, PEM.")
]


@app.command(epilog="Example: palm-serve run bundles/demo --port 50051")
def run(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="Bundle directories; the first is the default model.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port, which is printed.")] = 50051,
    provider: ProviderOption = Provider.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    threads: ThreadsOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_client_ca: TlsClientCaOption = None,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that wait, per model.")] = 2048,
    max_text_bytes: Annotated[int, typer.Option(min=1, help="UTF-8 bytes of a text.")] = 10_000,
    max_batch_items: Annotated[int, typer.Option(min=1, help="Requests in one ParseBatch.")] = 1024,
    max_message_mib: Annotated[float, typer.Option(min=0.01, help="Size of one message from a client, MiB.")] = 4.0,
    max_calls_per_client: Annotated[int, typer.Option(min=1, help="Calls in flight per client address.")] = 1024,
    max_stream_items: Annotated[int, typer.Option(min=1, help="Unanswered requests per ParseStream.")] = 64,
    drain_grace: Annotated[
        float, typer.Option(min=0, help="Seconds from not-serving to no new calls; Kubernetes: 5 or more.")
    ] = 0.2,
    stop_timeout: Annotated[float, typer.Option(min=0, help="Seconds that running calls get to finish.")] = 30.0,
    metrics_port: Annotated[int | None, typer.Option(help="Serve Prometheus metrics over HTTP on this port.")] = None,
    model_folder: Annotated[Path | None, typer.Option(help="Where LoadModel looks names up.")] = None,
    allow_model_control: Annotated[
        bool, typer.Option("--allow-model-control", help="Let clients load and unload models.")
    ] = False,
    log_level: Annotated[LogLevel, typer.Option(help="What goes to standard error.")] = LogLevel.WARNING,
) -> None:
    """Serves one or more bundles until SIGTERM or Ctrl-C; then finishes what runs."""
    limits = Limits(
        max_text_bytes, max_batch_items, round(max_message_mib * MIB), max_calls_per_client, max_stream_items
    )
    options = ServeOptions(
        bundles=tuple(bundles),
        host=host,
        port=port,
        provider=provider.value,
        precision=precision.value,
        threads=threads,
        max_queue=max_queue,
        drain_grace_s=drain_grace,
        stop_timeout_s=stop_timeout,
        metrics_port=metrics_port,
        model_folder=model_folder,
        allow_model_control=allow_model_control,
        tls=_tls_files(tls_cert, tls_key, tls_client_ca),
        limits=limits,
    )
    _log(log_level)
    _warn_where_open(options)
    with _faults():
        import asyncio

        from palm_serve.server import serve

        asyncio.run(serve(options, lambda line: typer.echo(f"palm-serve: {line}")))


@app.command(epilog="Example: palm-serve check bundles/demo")
def check(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle directory.")],
    provider: ProviderOption = Provider.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    threads: ThreadsOption = None,
) -> None:
    """Loads a bundle, verifies it, warms it up, runs its golden examples, and prints what it holds."""
    _log(LogLevel.WARNING)
    with _faults():
        import asyncio

        from palm_serve.server import make_registry

        async def load() -> None:
            registry = make_registry(
                ServeOptions((bundle,), provider=provider.value, precision=precision.value, threads=threads)
            )
            try:
                _show_bundle(await registry.load(bundle))
            finally:
                await registry.close()

        asyncio.run(load())


@app.command(epilog='Example: palm-serve call "show me flights from boston to denver on monday"')
def call(
    text: Annotated[str, typer.Argument(help="The utterance; with --task, the sentence or question.")],
    target: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")] = "127.0.0.1:50051",
    model: Annotated[str, typer.Option(help="Model name; default: the server's first.")] = "",
    version: Annotated[str, typer.Option(help="Version digest or label; default: stable.")] = "",
    task: Annotated[str, typer.Option(help="One task only (Predict), of any kind.")] = "",
    pair: Annotated[str, typer.Option(help="Second sentence or passage, for tasks on pairs; needs --task.")] = "",
    timeout: Annotated[float, typer.Option(min=0.001, help="Deadline, seconds.")] = 10.0,
    over_tls: Annotated[bool, typer.Option("--tls", help="Over TLS, with the authorities that grpc ships.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="Over TLS, with this authority, PEM.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Over TLS, with this client certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of --tls-cert, PEM.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Asks a running server about one text and prints intent, slots and the other answers."""
    if pair and not task:
        raise typer.BadParameter(
            "a pair of texts needs --task, the name of the task that reads it", param_hint="--pair"
        )
    with _faults():
        from palm_serve.client import Client, tls

        credentials = tls(tls_ca, tls_cert, tls_key) if over_tls or tls_ca or tls_cert or tls_key else None
        with Client(target, timeout_s=timeout, credentials=credentials) as client:
            answer = (
                client.predict(task, text, pair, model=model, version=version)
                if task
                else client.parse(text, model=model, version=version)
            )
    if as_json:
        from google.protobuf.json_format import MessageToJson

        whole = MessageToJson(
            answer,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
            ensure_ascii=False,
        )
        typer.echo(whole)
        return
    _show_answer(answer)


def main() -> None:
    """The entry point `palm-serve`."""
    app()


@contextmanager
def _faults() -> Iterator[None]:
    """Turns errors that are meant for the reader into one line and an exit code."""
    try:
        yield
    except PalmServeError as error:
        typer.echo(f"palm-serve: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, _BAD_INPUT) else 1) from None


def _log(level: LogLevel) -> None:
    from palm_serve.observability import configure_logging

    configure_logging(level.value)
    # grpc's own lines about a port that is taken say less than ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _tls_files(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise typer.BadParameter("TLS needs both the certificate and its key", param_hint="--tls-cert, --tls-key")
    return TlsFiles(certificate, key, client_ca)


def _warn_where_open(options: ServeOptions) -> None:
    if options.tls is None and not _is_loopback(options.host):
        typer.echo(
            f"palm-serve: warning: {options.host} is reached from other machines, and this server has neither TLS nor "
            "tokens: anyone there can read and ask; see --tls-cert",
            err=True,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _show_bundle(model: "LoadedModel") -> None:
    from rich.table import Table

    from palm_serve.rpc.responses import label_names

    manifest = model.manifest
    facts = Table.grid(padding=(0, 2))
    facts.add_row("model", f"{model.name} {model.version[:12]}")
    facts.add_row("encoder", f"{manifest.encoder.name}, {manifest.encoder.parameters:,} parameters")
    facts.add_row("longest text", f"{manifest.max_length} tokens")
    facts.add_row("runs on", f"{model.info.provider} in {model.info.precision} (variant '{model.info.variant}')")
    tasks = Table(box=None, header_style="bold")
    for column in ("task", "kind", "role", "labels"):
        tasks.add_column(column)
    for name, task in manifest.tasks.items():
        names = label_names(task)
        tasks.add_row(
            name,
            task.kind,
            task.role,
            f"{len(names)}: {', '.join(names[:_LABELS_SHOWN])}{', ...' * (len(names) > _LABELS_SHOWN)}",
        )
    _print(facts, tasks, "verified, warmed up, golden examples answered as at export")


def _show_answer(answer: "pb.ParseResponse | pb.PredictResponse") -> None:
    from rich.table import Table
    from rich.text import Text

    from palm_serve.v1 import palm_pb2 as pb

    table = Table(box=None, header_style="bold")
    for column in ("task", "answer", "value", "confidence"):
        table.add_column(column, justify="right" if column == "confidence" else "left")

    def add(task: str, name: str, value: str, confidence: float) -> None:
        # Text, because values may hold what rich takes for markup.
        table.add_row(Text(task), Text(name), Text(value), f"{confidence:.3f}")

    if isinstance(answer, pb.ParseResponse):
        if answer.HasField("intent"):
            fallback = (
                f"(fallback: {pb.Fallback.Reason.Name(answer.fallback.reason).lower()})"
                if answer.fallback.triggered
                else ""
            )
            add("intent", answer.intent.name, fallback, answer.intent.confidence)
        for slot in answer.slots:
            add("slot", slot.name, slot.value, slot.confidence)
        results = list(answer.results)
    else:
        results = [answer.result]
    for result in results:
        kind = result.WhichOneof("result")
        if kind == "classification":
            add(result.task, result.classification.label.name, "", result.classification.label.confidence)
        elif kind == "spans":
            for span in result.spans.spans:
                add(result.task, span.name, span.value, span.confidence)
        elif kind == "match":
            add(result.task, result.match.label.name or "match", "", result.match.score)
        elif kind == "answer":
            found = result.answer
            add(result.task, "no answer" if found.no_answer else "answer", found.text, found.confidence)
    _print(table, *(["the text is longer than the model reads; its end was not seen"] if answer.truncated else []))


def _print(*parts: "RenderableType") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        console.print(part)


if __name__ == "__main__":
    main()
