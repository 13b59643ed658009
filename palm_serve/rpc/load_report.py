"""Load reports of the server in the trailers of its answers, by which clients weigh replicas (ORCA).

The message is `xds.data.orca.v3.OrcaLoadReport` of the xDS protocols: calls and errors a second, and the share of its capacity that
the server uses. gRPC's policy `weighted_round_robin` gives a replica calls in proportion to calls / share.
"""

import struct
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

LOAD_REPORT_KEY = "endpoint-load-metrics-bin"
_RPS, _EPS, _UTILIZATION = 6, 7, 9
"""Fields `rps_fractional`, `eps` and `application_utilization` of the message."""
_DOUBLE = 1
"""Wire type of a double."""
_WINDOW_S = 10.0
"""Time that a report is about."""
_RENEWAL_S = 0.5
"""Time for which a report is sent again unchanged."""


class _Sample(NamedTuple):
    """Totals at a moment."""

    time: float
    calls: int
    errors: int
    busy_s: float
    cpu_s: float


class LoadReporter:
    """Counts calls, and reports the load of the last seconds. It belongs to the event loop.

    Args:
        engine_busy_s: seconds that the engine has run so far.
        cores: that the process may use.
        clock: seconds on any clock.
        cpu_clock: seconds of processor time that the process has used.
    """

    def __init__(
        self,
        engine_busy_s: Callable[[], float],
        cores: int,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._engine_busy_s = engine_busy_s
        self._cores = cores
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._calls = 0
        self._errors = 0
        self._samples = deque([self._sample()])
        self._trailer: tuple[tuple[str, bytes], ...] = ()

    def count(self, *, failed: bool) -> None:
        """Count a finished call. `failed`: the server is to blame, or has refused it for its load."""
        self._calls += 1
        self._errors += failed

    def trailer(self) -> tuple[tuple[str, bytes], ...]:
        """Return the report as trailing metadata. Empty while there is nothing to report."""
        if self._clock() - self._samples[-1].time >= _RENEWAL_S:
            self._renew()
        return self._trailer

    def _renew(self) -> None:
        now = self._sample()
        self._samples.append(now)
        while len(self._samples) > 2 and now.time - self._samples[1].time >= _WINDOW_S:
            self._samples.popleft()
        before = self._samples[0]
        seconds = now.time - before.time
        calls = (now.calls - before.calls) / seconds
        errors = (now.errors - before.errors) / seconds
        # The engine waits for the processor where other programs use it: then its time tells, not the processor's.
        busy = max(now.busy_s - before.busy_s, (now.cpu_s - before.cpu_s) / self._cores) / seconds
        if calls and busy > 0:
            fields = {_RPS: calls, _EPS: errors, _UTILIZATION: min(1.0, busy)}
            message = b"".join(struct.pack("<Bd", field << 3 | _DOUBLE, value) for field, value in fields.items())
            self._trailer = ((LOAD_REPORT_KEY, message),)

    def _sample(self) -> _Sample:
        return _Sample(self._clock(), self._calls, self._errors, self._engine_busy_s(), self._cpu_clock())
