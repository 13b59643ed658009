"""Options of the server: the only list of their names, defaults, limits and descriptions.

The flags of `palm-serve run` (`--max-queue`), its environment variables (`PALM_SERVE_MAX_QUEUE`) and the keys of its
configuration file (`max_queue`) are derived from these fields, so they cannot differ.
"""

import re
from functools import cached_property
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from palm_serve.config.connection_options import ConnectionOptions
from palm_serve.config.http_options import HttpOptions
from palm_serve.config.option_group import OptionGroup
from palm_serve.config.values import (
    MIB,
    Limits,
    LogFormat,
    LogLevel,
    Precision,
    Provider,
    TlsFiles,
    check_providers,
    read_shares,
)
from palm_serve.system.addresses import UNIX, UNIX_ABSTRACT, is_unix


class ModelOptions(OptionGroup):
    """Models"""

    bundles: tuple[Path, ...] = Field(
        default=(),
        description="Bundle directories or URLs (s3://...). The first one is the default model. BUNDLE@sha256:DIGEST serves only the bundle with this digest.",
    )
    watch: Path | None = Field(
        default=None,
        description="Serve the bundles in this directory or below this URL, as NAME or NAME/LABEL (stable, canary, shadow, ...), and load its changes.",
    )
    watch_interval: float = Field(
        default=2.0,
        ge=0.01,
        description="Polling interval of --watch in seconds. A change is loaded once it is unchanged for one interval.",
    )
    load_timeout: float = Field(
        default=60.0,
        gt=0,
        description="Time limit for the trial and for the loading of a bundle, in seconds. TensorRT takes minutes for its first engine.",
    )
    canary: str | None = Field(
        default=None,
        description="Share of requests without a version that the canary answers: 0.1, or per model faq=0.1,help=0.05. "
        "The second BUNDLE of a model is its canary.",
    )
    shadow: str | None = Field(
        default=None,
        description="Share of requests mirrored to the shadow model. Its answers are compared, never returned. "
        "The BUNDLE after the canary is the shadow.",
    )
    model_folder: Path | None = Field(
        default=None, description="Directory from which LoadModel loads models by name. Its layout is that of --watch."
    )
    allow_model_control: bool = Field(default=False, description="Allow clients to load and unload models.")
    trust: Path | None = Field(
        default=None,
        description="Folder of public keys (Ed25519, PEM). Only bundles signed with one of them are loaded, whatever loads "
        "them. See `palm-export --sign`.",
    )
    allow_unproven: bool = Field(
        default=False,
        description="Also load bundles without golden examples, of which nothing shows that they answer as at the export.",
    )

    @field_validator("canary", "shadow")
    @classmethod
    def _shares(cls, value: str | None) -> str | None:
        read_shares(value)
        return value

    @model_validator(mode="after")
    def _one_folder(self) -> "ModelOptions":
        if self.watch is not None and self.model_folder is not None:
            raise ValueError(
                "watch and model_folder must not both be set. Remove model_folder: LoadModel also uses the watched directory."
            )
        return self

    def traffic(self, name: str) -> tuple[float, float]:
        """Return the traffic shares of a model's canary and shadow, 0 to 1."""
        canary, shadow = read_shares(self.canary), read_shares(self.shadow)
        return canary.get(name, canary[""]), shadow.get(name, shadow[""])


class ListenOptions(OptionGroup):
    """Listening"""

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on, or a Unix socket: unix:PATH, or unix-abstract:NAME without a file. "
        "--health-port and --metrics-port then listen on 127.0.0.1.",
    )
    socket_mode: str = Field(
        default="600",
        pattern=r"^0?[0-7]{3}$",
        description="Permissions of the Unix socket in octal. Who may write to it may call the server. 660: the group too, 666: every user.",
    )
    port: int = Field(
        default=50051, ge=0, le=65535, description="Port to listen on. 0: any free port, which is printed."
    )
    health_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Also answer health checks on this port, without TLS and without tokens. "
        "For Kubernetes, whose probes do not support TLS.",
    )
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="Serve Prometheus metrics over HTTP on this port."
    )
    metrics_host: str | None = Field(
        default=None, description="Address of --metrics-port. Default: the value of --host."
    )
    channelz: bool = Field(
        default=False,
        description="Serve grpc.channelz.v1, the connection statistics of gRPC. Callers can see the addresses of all clients.",
    )

    @field_validator("host")
    @classmethod
    def _named_socket(cls, value: str) -> str:
        if value in (UNIX, UNIX_ABSTRACT):
            raise ValueError(f"must name a socket, as in {UNIX}/run/palm/palm.sock")
        return value

    @field_validator("metrics_host")
    @classmethod
    def _no_socket(cls, value: str | None) -> str | None:
        if value is not None and is_unix(value):
            raise ValueError("must be a host name or an IP address, because Prometheus reads no Unix socket")
        return value

    @property
    def tcp_host(self) -> str:
        """Return the address of the health port and, unless it has its own, of the metrics port."""
        return "127.0.0.1" if is_unix(self.host) else self.host


class EngineOptions(OptionGroup):
    """Engine"""

    provider: str = Field(
        default=Provider.AUTO.value,
        description="Execution provider: auto, CPU, OpenVINO, CUDA or TensorRT. auto: the fastest one that passes the bundle's "
        "proof here. CUDA,CPU: CUDA, or else CPU. One that cannot be used ends the server.",
    )
    precision: Precision = Field(
        default=Precision.AUTO,
        description="Precision of the model. auto: the fastest one that passes the bundle's proof here.",
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="Threads of the engine. Default: one per physical core."
    )
    engine_timeout: float = Field(
        default=60.0,
        gt=0,
        description="Time limit for one run of the engine, in seconds. Meanwhile the server reports NOT_SERVING. A run that "
        "cannot be stopped ends the process with exit code 3.",
    )
    engine_nice: int = Field(
        default=5,
        ge=0,
        le=19,
        description="Linux niceness of the engine's threads, which lowers their priority below the server's other threads, and "
        "below other processes of the same session or control group. 0: same priority.",
    )
    cache_dir: Path | None = Field(
        default=None,
        description="Directory for compiled engines, measured timings and outcomes of proofs. Default: the user's cache directory.",
    )

    @field_validator("provider")
    @classmethod
    def _known_providers(cls, value: str) -> str:
        return check_providers(value)


class AnswerOptions(OptionGroup):
    """Answers"""

    keep_answers: int = Field(
        default=0, ge=0, description="Size of the answer cache of each model version, in answers. 0: no cache."
    )
    share_runs: bool = Field(
        default=False, description="Run equal requests that are in flight at the same time only once."
    )


class TlsOptions(OptionGroup):
    """TLS"""

    tls_cert: Path | None = Field(
        default=None,
        description="Serve over TLS with this certificate (PEM, followed by its chain). Changes of the file are loaded.",
    )
    tls_key: Path | None = Field(default=None, description="Private key of --tls-cert (PEM, without a password).")
    tls_client_ca: Path | None = Field(
        default=None, description="Require client certificates signed by one of these authorities (PEM)."
    )
    metrics_tls: bool = Field(
        default=False,
        description="Serve metrics over TLS with --tls-cert. Clients need a certificate if --tls-client-ca is set.",
    )

    @model_validator(mode="after")
    def _whole(self) -> "TlsOptions":
        if None in (self.tls_cert, self.tls_key) and (self.tls_cert or self.tls_key or self.tls_client_ca):
            raise ValueError("tls_cert and tls_key must be set together. Set both, or neither.")
        if self.metrics_tls and self.tls_cert is None:
            raise ValueError("metrics_tls requires tls_cert and tls_key. Set both.")
        return self


class TokenOptions(OptionGroup):
    """Tokens"""

    tokens: Path | None = Field(
        default=None,
        description="Require a token of this file (TOML, see `palm-serve token new`). Changes of the file are loaded.",
    )
    health_needs_token: bool = Field(
        default=False, description="Require a token with the scope 'health' for health checks."
    )
    metrics_needs_token: bool = Field(
        default=False, description="Require a token with the scope 'metrics' for --metrics-port."
    )

    @model_validator(mode="after")
    def _has_tokens(self) -> "TokenOptions":
        for name in ("health_needs_token", "metrics_needs_token"):
            if getattr(self, name) and self.tokens is None:
                raise ValueError(f"{name} requires tokens. Set it to the file that holds the tokens.")
        return self


class LimitOptions(OptionGroup):
    """Limits"""

    max_queue: int = Field(default=2048, ge=1, description="Limit of requests waiting in the queue of each model.")
    max_text_bytes: int = Field(default=10_000, ge=1, description="Limit of the length of a text in UTF-8 bytes.")
    max_batch_items: int = Field(default=1024, ge=1, description="Limit of requests in one ParseBatch.")
    max_message_mib: float = Field(
        default=4.0, ge=0.001, le=2047, description="Limit of the size of one message from a client in MiB."
    )
    max_calls_per_client: int = Field(
        default=1024,
        ge=1,
        description="Limit of calls in flight per client, identified by its token or else its address.",
    )
    max_watches_per_client: int = Field(
        default=16, ge=1, description="Limit of open health watches (grpc.health.v1 Watch) per client address."
    )
    max_stream_items: int = Field(default=64, ge=1, description="Limit of unanswered requests per ParseStream.")
    max_rate: float | None = Field(
        default=None,
        gt=0,
        description="Limit of requests per second and client. Each request of a batch counts. Default: no limit.",
    )
    max_burst: int = Field(default=1024, ge=1, description="Requests that a client may send at once under --max-rate.")


class StopOptions(OptionGroup):
    """Stopping"""

    drain_grace: float = Field(
        default=0.2,
        ge=0,
        description="Seconds during which a stopping server reports NOT_SERVING but still accepts calls. In Kubernetes use 5 or more.",
    )
    stop_timeout: float = Field(
        default=30.0, ge=0, description="Time limit for running calls to finish when the server stops, in seconds."
    )


class LogOptions(OptionGroup):
    """Log"""

    log_level: LogLevel = Field(
        default=LogLevel.WARNING, description="Minimum level of the lines that are written to standard error."
    )
    log_format: LogFormat = Field(
        default=LogFormat.TEXT, description="Format of the log. json: one JSON object a line."
    )
    log_text: bool = Field(
        default=False, description="Log request texts: requests at level info, and error messages that quote them."
    )
    access_log: bool = Field(
        default=False,
        description="Log every call except health checks. Without it only failures, refusals and slow calls are logged.",
    )
    slow_ms: float | None = Field(
        default=None, gt=0, description="Log unary calls that take at least this many milliseconds. Default: none."
    )


class TraceOptions(OptionGroup):
    """Traces"""

    otel_endpoint: str | None = Field(
        default=None,
        description="Send traces to this OTLP collector over gRPC, as in http://localhost:4317. "
        "Default: the OTEL_* environment variables, if set.",
    )

    @field_validator("otel_endpoint")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/]", value):
            raise ValueError("must begin with http:// or https://, as in http://localhost:4317")
        return value


GROUPS: tuple[type[OptionGroup], ...] = (
    ModelOptions,
    ListenOptions,
    HttpOptions,
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
"""The groups of options in the order of the help text."""


class ServeOptions(
    ModelOptions,
    ListenOptions,
    HttpOptions,
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
    """All options of `palm-serve run`. None: the server chooses."""

    @cached_property
    def limits(self) -> Limits:
        """Return the limits of one client."""
        return Limits(
            text_bytes=self.max_text_bytes,
            batch_items=self.max_batch_items,
            message_bytes=round(self.max_message_mib * MIB),
            stream_items=self.max_stream_items,
        )

    @cached_property
    def tls(self) -> TlsFiles | None:
        """Return the TLS files, or None to serve without TLS."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)
