"""The options of a server: the only list of their names, defaults, limits and explanations.

`palm-serve run` makes its flags of it (`max_queue` is `--max-queue`), the names of its environment variables
(`PALM_SERVE_MAX_QUEUE`) and the keys of its file (`max_queue`), so the three cannot differ.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MIB = 1024 * 1024


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


class LogFormat(StrEnum):
    """How a line of the log is written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask for. `GetModel` tells the first; README tells all."""

    text_bytes: int = 10_000
    """UTF-8 bytes of a text, and of its pair."""
    batch_items: int = 1_024
    """Requests in one ParseBatch."""
    message_bytes: int = 4 * MIB
    """One gRPC message from a client."""
    stream_items: int = 64
    """Requests of one ParseStream that are read and not answered yet; beyond it the stream is not read."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM; they are read again when they change."""

    certificate: Path
    """The server's, followed by its chain."""
    key: Path
    client_ca: Path | None = None
    """Clients must show a certificate that one of these signed; None: clients need none."""


def read_shares(value: str | None) -> dict[str, float]:
    """Model -> share, 0 to 1; the empty name stands for all others. Raises ValueError."""
    shares = {"": 0.0}
    for part in (value or "").split(",") if value else ():
        name, share = part.split("=", 1) if "=" in part else ("", part)
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            shares[name.strip()] = -1.0
        if not 0 <= shares[name.strip()] <= 1:
            raise ValueError("a share is a number from 0 to 1, as in 0.1 or faq=0.1,help=0.05")
    return shares


class _Group(BaseModel):
    """Options that belong together; the docstring is their heading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelOptions(_Group):
    """Models"""

    bundles: tuple[Path, ...] = Field(default=(), description="Bundle directories; the first is the default model.")
    watch: Path | None = Field(
        default=None,
        description="Serve what this directory holds, as NAME or NAME/LABEL (stable, canary, shadow, ...), and follow its changes.",
    )
    watch_interval: float = Field(
        default=2.0, ge=0.01, description="Seconds between looks at --watch; a change is taken up at the second look."
    )
    canary: str | None = Field(
        default=None,
        description="Share of the requests without a version that the canary answers: 0.1, or for some models faq=0.1,help=0.05. "
        "A second BUNDLE of one name is its canary.",
    )
    shadow: str | None = Field(
        default=None,
        description="Share of them that is asked of the shadow too, unheard, to count how often it agrees. The next BUNDLE of the name is its shadow.",
    )
    model_folder: Path | None = Field(default=None, description="Where LoadModel looks names up; laid out as --watch.")
    allow_model_control: bool = Field(default=False, description="Let clients load and unload models.")

    @field_validator("canary", "shadow")
    @classmethod
    def _shares(cls, value: str | None) -> str | None:
        read_shares(value)
        return value

    @model_validator(mode="after")
    def _one_folder(self) -> "ModelOptions":
        if self.watch is not None and self.model_folder is not None:
            raise ValueError("watch and model_folder are both given: LoadModel looks into the watched directory too")
        return self

    def traffic(self, name: str) -> tuple[float, float]:
        """The shares of a model's canary and shadow."""
        canary, shadow = read_shares(self.canary), read_shares(self.shadow)
        return canary.get(name, canary[""]), shadow.get(name, shadow[""])


class ListenOptions(_Group):
    """Listening"""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=50051, ge=0, le=65535, description="0: any free port, which is printed.")
    health_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Answer health also on this port of the same host, in plain text and without tokens: "
        "for Kubernetes, whose probes speak no TLS.",
    )
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="Serve Prometheus metrics over HTTP on this port."
    )
    metrics_host: str | None = Field(default=None, description="Address for --metrics-port; default: that of --host.")
    channelz: bool = Field(
        default=False,
        description="Answer grpc.channelz.v1: what gRPC counts of every connection. It tells clients each other's addresses.",
    )


class EngineOptions(_Group):
    """Engine"""

    provider: Provider = Field(
        default=Provider.AUTO, description="What runs the model; auto: the fastest that passed the bundle's gate."
    )
    precision: Precision = Field(default=Precision.AUTO, description="auto: the fastest that passed the bundle's gate.")
    threads: int | None = Field(default=None, ge=1, description="Threads of the engine; default: one per core.")
    engine_nice: int = Field(
        default=10,
        ge=0,
        le=19,
        description="How much the engine gives way to the server's other threads (Linux niceness); 0: not at all.",
    )
    cache_dir: Path | None = Field(
        default=None, description="Where engines keep what they measured and compiled; default: the user's cache."
    )


class AnswerOptions(_Group):
    """Answers"""

    keep_answers: int = Field(
        default=0, ge=0, description="Answers of each model version that are kept for equal requests; 0: none."
    )
    share_runs: bool = Field(default=False, description="Let equal requests that are in flight together share one run.")


class TlsOptions(_Group):
    """TLS"""

    tls_cert: Path | None = Field(
        default=None, description="Serve over TLS with this certificate (PEM, with its chain); a new one is noticed."
    )
    tls_key: Path | None = Field(default=None, description="Key of --tls-cert, PEM.")
    tls_client_ca: Path | None = Field(
        default=None, description="Clients must show a certificate that one of these signed, PEM."
    )

    metrics_tls: bool = Field(
        default=False,
        description="Serve metrics over TLS, too: with --tls-cert, to those whom --tls-client-ca lets in.",
    )

    @model_validator(mode="after")
    def _whole(self) -> "TlsOptions":
        if None in (self.tls_cert, self.tls_key) and (self.tls_cert or self.tls_key or self.tls_client_ca):
            raise ValueError("TLS needs both the certificate and its key: give tls_cert and tls_key")
        if self.metrics_tls and self.tls_cert is None:
            raise ValueError("metrics_tls needs the server's certificate: give tls_cert and tls_key")
        return self


class TokenOptions(_Group):
    """Tokens"""

    tokens: Path | None = Field(
        default=None,
        description="Answer only calls with a token of this file (TOML; see `palm-serve token new`); a change is noticed.",
    )
    health_needs_token: bool = Field(
        default=False, description="Ask for a token with the scope 'health' also where health is asked for."
    )

    metrics_needs_token: bool = Field(
        default=False, description="Ask for a token with the scope 'metrics' where metrics are read."
    )

    @model_validator(mode="after")
    def _has_tokens(self) -> "TokenOptions":
        for name in ("health_needs_token", "metrics_needs_token"):
            if getattr(self, name) and self.tokens is None:
                raise ValueError(f"{name} needs tokens, the file that they are in")
        return self


class LimitOptions(_Group):
    """Limits"""

    max_queue: int = Field(default=2048, ge=1, description="Requests that wait, per model.")
    max_text_bytes: int = Field(default=10_000, ge=1, description="UTF-8 bytes of a text.")
    max_batch_items: int = Field(default=1024, ge=1, description="Requests in one ParseBatch.")
    max_message_mib: float = Field(
        default=4.0, ge=0.001, le=2047, description="Size of one message from a client, MiB."
    )
    max_calls_per_client: int = Field(
        default=1024, ge=1, description="Calls in flight per client (its token, else its address)."
    )
    max_stream_items: int = Field(default=64, ge=1, description="Unanswered requests per ParseStream.")
    max_rate: float | None = Field(
        default=None, gt=0, description="Requests per second and client, those of a batch counted; default: no limit."
    )
    max_burst: int = Field(default=1024, ge=1, description="Requests that a client may save up for; with --max-rate.")


class ConnectionOptions(_Group):
    """Connections"""

    max_connections: int = Field(
        default=10_000,
        ge=1,
        description="Open at once; fewer where the process may not open as many files (ulimit -n).",
    )
    max_streams: int = Field(
        default=2048,
        ge=1,
        description="Calls in flight per connection; further ones wait at the client. Above --max-calls-per-client, refusals are told.",
    )
    max_metadata_kib: int = Field(default=16, ge=1, le=1024, description="Headers of one call, KiB.")
    handshake_timeout: float = Field(
        default=20.0, gt=0, description="Seconds that a new connection gets until it speaks TLS and HTTP/2."
    )
    keepalive_time: float = Field(
        default=60.0,
        gt=0,
        description="Seconds of silence after which the server asks whether a client is still there.",
    )
    keepalive_timeout: float = Field(default=20.0, gt=0, description="Seconds that it gets to answer.")
    min_ping_interval: float = Field(
        default=10.0,
        ge=0,
        description="Seconds between two pings of a client that has nothing to say; else it gets a strike.",
    )
    max_ping_strikes: int = Field(default=2, ge=0, description="Strikes after which a connection is closed; 0: never.")
    max_connection_age: float = Field(
        default=3600.0,
        ge=0,
        description="Seconds after which clients are asked to connect anew, so that new replicas get their share; 0: never.",
    )
    max_connection_age_grace: float = Field(
        default=300.0, ge=0, description="Seconds that calls and streams on it then get to finish."
    )
    max_connection_idle: float = Field(
        default=900.0, ge=0, description="Seconds without a call after which a connection is closed; 0: never."
    )


class StopOptions(_Group):
    """Stopping"""

    drain_grace: float = Field(
        default=0.2, ge=0, description="Seconds from not-serving to no new calls; Kubernetes: 5 or more."
    )
    stop_timeout: float = Field(default=30.0, ge=0, description="Seconds that running calls get to finish.")


class LogOptions(_Group):
    """Log"""

    log_level: LogLevel = Field(default=LogLevel.WARNING, description="What goes to standard error.")
    log_format: LogFormat = Field(default=LogFormat.TEXT, description="json: one object a line.")
    log_text: bool = Field(
        default=False, description="Let the log hold texts: requests at level info, and what errors quote of them."
    )
    access_log: bool = Field(
        default=False,
        description="A line for every call but those about health; else only failures, refusals and slow calls.",
    )
    slow_ms: float | None = Field(
        default=None, gt=0, description="Tell of unary calls that take so many milliseconds; default: of none."
    )


class TraceOptions(_Group):
    """Traces"""

    otel_endpoint: str | None = Field(
        default=None,
        description="Send traces to this OTLP collector over gRPC, as in http://localhost:4317. "
        "Default: what the OTEL_* variables of the environment say, else nowhere.",
    )

    @field_validator("otel_endpoint")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/]", value):
            raise ValueError("must begin with http://, or https:// for TLS, as in http://localhost:4317")
        return value


GROUPS: tuple[type[_Group], ...] = (
    ModelOptions,
    ListenOptions,
    EngineOptions,
    AnswerOptions,
    TlsOptions,
    TokenOptions,
    LimitOptions,
    ConnectionOptions,
    StopOptions,
    LogOptions,
    TraceOptions,
)
"""The groups of options, in the order in which they are shown."""


class ServeOptions(
    ModelOptions,
    ListenOptions,
    EngineOptions,
    AnswerOptions,
    TlsOptions,
    TokenOptions,
    LimitOptions,
    ConnectionOptions,
    StopOptions,
    LogOptions,
    TraceOptions,
):
    """Everything that `palm-serve run` can be told. None leaves a choice to the server."""

    @cached_property
    def limits(self) -> Limits:
        """What one client may ask for."""
        return Limits(
            text_bytes=self.max_text_bytes,
            batch_items=self.max_batch_items,
            message_bytes=round(self.max_message_mib * MIB),
            stream_items=self.max_stream_items,
        )

    @cached_property
    def tls(self) -> TlsFiles | None:
        """None: plain text."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)
