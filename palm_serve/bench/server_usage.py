"""What a server uses of its machine under a load, from its Prometheus metrics."""

import re
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

from palm_serve.errors import ConfigError

_TIMEOUT_S = 10.0
_NEEDED = ("process_cpu_seconds_total", "process_resident_memory_bytes", "palm_requests_total")
_CALLS = re.compile(r'palm_requests_total\{[^}]*code="OK"[^}]*\}')
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Totals of a server at a moment."""

    cpu_s: float
    memory_bytes: float
    calls: float
    """Calls that were answered."""


@dataclass(frozen=True, slots=True)
class ServerUsage:
    """What a server used during a load."""

    cpu_ms_per_call: float
    memory_mib: float
    """Resident memory at the end of the load."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary for JSON."""
        return asdict(self)


def read_metrics(url: str) -> Snapshot:
    """Read the metrics of a server.

    Raises:
        ConfigError: if they cannot be read, or are not those of a PALM server on Linux.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--metrics must be a URL, got '{url}'. Give http://HOST:PORT/metrics of --metrics-port.")
    # Without a proxy of the environment: metrics are read inside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT_S) as response:
            text = response.read().decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--metrics must be the metrics of the server, got no answer from {url}: {error}. "
            "Start the server with --metrics-port."
        ) from None
    for name in _NEEDED:
        # Before the first call palm_requests_total has a type and no series.
        if not re.search(rf"^(# TYPE )?{name}[ {{]", text, re.MULTILINE):
            raise ConfigError(
                f"--metrics must be the metrics of a PALM server on Linux, got none named {name} at {url}. Check the port."
            )
    return parse_metrics(text)


def parse_metrics(text: str) -> Snapshot:
    """Return the totals in metrics of Prometheus' text format."""
    values: dict[str, float] = {}
    calls = 0.0
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name in _NEEDED:
            values[name] = float(value)
        elif _CALLS.fullmatch(name):
            calls += float(value)
    return Snapshot(values["process_cpu_seconds_total"], values["process_resident_memory_bytes"], calls)


def usage_between(before: Snapshot, after: Snapshot) -> ServerUsage | None:
    """Return what a server used between two moments. None: it answered no call."""
    calls = after.calls - before.calls
    if calls <= 0:
        return None
    return ServerUsage(1000 * (after.cpu_s - before.cpu_s) / calls, after.memory_bytes / _MIB)
