"""Values of the options: choices, limits of a client, TLS files and traffic shares."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

MIB = 1024 * 1024


class Provider(StrEnum):
    """Execution providers that can be asked for."""

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
    """Formats of a log line."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one client. `GetModel` returns the first one, and `docs/reference/server_options.md` lists all."""

    text_bytes: int = 10_000
    """UTF-8 bytes of a text, and of the text paired with it."""
    batch_items: int = 1_024
    """Requests in one ParseBatch."""
    message_bytes: int = 4 * MIB
    """Bytes of one gRPC message from a client."""
    stream_items: int = 64
    """Unanswered requests of one ParseStream. At this limit the server stops reading from the stream."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the server. They are read again when they change."""

    certificate: Path
    """Certificate of the server, followed by its chain."""
    key: Path
    client_ca: Path | None = None
    """Authorities that sign client certificates. None: clients need no certificate."""


def check_providers(value: str) -> str:
    """Return the names of execution providers, such as "auto", "CUDA" or "CUDA,CPU", if all are known.

    Raises:
        ValueError: if a name is unknown or stands twice.
    """
    names = value.split(",")
    if len({*names}) < len(names) or not {*names} <= {*Provider}:
        raise ValueError(f"must be {', '.join(Provider)}, or several with commas between them, as in CUDA,CPU")
    return value


def read_shares(value: str | None) -> dict[str, float]:
    """Parse traffic shares such as "0.1" or "faq=0.1,help=0.05".

    Returns:
        Shares (0 to 1) by model name. The empty name holds the share of all other models.

    Raises:
        ValueError: if a share is not a number from 0 to 1.
    """
    shares = {"": 0.0}
    if not value:
        return shares
    for entry in value.split(","):
        name, separator, number = entry.partition("=")
        if not separator:
            name, number = "", entry
        try:
            fraction = float(number)
        except ValueError:
            fraction = -1.0
        if not 0 <= fraction <= 1:
            raise ValueError("must be a number from 0 to 1, as in 0.1 or faq=0.1,help=0.05")
        shares[name.strip()] = fraction
    return shares
