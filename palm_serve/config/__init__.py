"""Options of the server and their values."""

from palm_serve.config.options import GROUPS, ServeOptions
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

__all__ = [
    "GROUPS",
    "MIB",
    "Limits",
    "LogFormat",
    "LogLevel",
    "Precision",
    "Provider",
    "ServeOptions",
    "TlsFiles",
    "check_providers",
    "read_shares",
]
