"""The options of a server, with their defaults: the command line fills them, `server.py` hands them out."""

from dataclasses import dataclass, field
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask for. `GetModel` tells the first; README tells all."""

    text_bytes: int = 10_000
    """UTF-8 bytes of a text, and of its pair."""
    batch_items: int = 1_024
    """Requests in one ParseBatch."""
    message_bytes: int = 4 * MIB
    """One gRPC message from a client."""
    calls_per_client: int = 1_024
    """Calls in flight per client address."""
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


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Everything that `palm-serve run` can be told. None leaves a choice to the engine."""

    bundles: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 50051
    """0: any free port."""
    provider: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    """Of the engine, within one operator."""
    max_queue: int = 2_048
    """Requests that wait, per model."""
    drain_grace_s: float = 0.2
    """Seconds between "not serving" and the refusal of new calls, so that a load balancer can look away first."""
    stop_timeout_s: float = 30.0
    """Seconds that running calls get to finish after that."""
    metrics_port: int | None = None
    """Where Prometheus metrics are served over HTTP, on the same host; None: nowhere."""
    model_folder: Path | None = None
    """Where LoadModel looks names up."""
    allow_model_control: bool = False
    """Whether LoadModel and UnloadModel work."""
    tls: TlsFiles | None = None
    """None: plain text."""
    limits: Limits = field(default_factory=Limits)
