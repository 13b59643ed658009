"""Report of a load: throughput, latency percentiles, and signs of an overloaded generator."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from google.rpc import code_pb2

from palm_serve.bench.load import Load, Method
from palm_serve.bench.requests import Seconds
from palm_serve.bench.worker import Samples

_LATE_S = 0.01
_MAX_LATE_SHARE = 0.01
_MAX_BUSY = 0.9
_POINTS = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}
"""Percentiles in thousandths."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Figures of one load. Rates are per second, latencies are milliseconds from the intended start of a call."""

    calls: int
    """Calls whose intended start lies within the measurement."""
    offered: float
    answered: float
    """OK responses received within the measurement."""
    goodput: float
    """OK responses received within the measurement and the deadline."""
    texts: float
    """Texts of the goodput."""
    codes: dict[str, int]
    answered_ms: dict[str, float]
    """Percentiles of OK responses, empty if there are none."""
    refused_ms: dict[str, float]
    """Percentiles of responses with RESOURCE_EXHAUSTED."""
    late_ms: dict[str, float]
    """Percentiles of the generator's delay: late calls and late timers."""
    busy: float
    """CPU share of the busiest process of the generator, 0 to 1."""
    doubts: tuple[str, ...]
    """Reasons for which the figures are unreliable, if any."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary for JSON."""
        return asdict(self)


def make_report(load: Load, processes: Sequence[Samples]) -> LoadReport:
    """Compute the report of all processes together."""
    due = np.concatenate([samples.due for samples in processes])
    late = np.concatenate([samples.late for samples in processes])
    took = np.concatenate([samples.took for samples in processes])
    code = np.concatenate([samples.code for samples in processes])
    lag = np.concatenate([samples.lag for samples in processes])
    begin = load.warm_up_s
    end = load.warm_up_s + load.duration_s
    counted = (due >= begin) & (due < end)
    ok = code == code_pb2.OK
    answered = ok & (due + took >= begin) & (due + took < end)
    good = int(np.sum(answered & (took <= load.deadline_s)))
    busy = max(samples.busy for samples in processes)
    codes: dict[str, int] = {}
    for number, count in zip(*np.unique(code[counted], return_counts=True), strict=True):
        codes[code_pb2.Code.Name(int(number))] = int(count)
    return LoadReport(
        calls=int(np.sum(counted)),
        offered=float(np.sum(counted) / load.duration_s),
        answered=float(np.sum(answered) / load.duration_s),
        goodput=good / load.duration_s,
        texts=good / load.duration_s * (load.batch if load.method is Method.BATCH else 1),
        codes=codes,
        answered_ms=percentiles(took[counted & ok]),
        refused_ms=percentiles(took[counted & (code == code_pb2.RESOURCE_EXHAUSTED)]),
        late_ms=percentiles(np.concatenate([late[counted], lag])),
        busy=busy,
        doubts=tuple(_doubts(late[counted], lag, busy)),
    )


def percentiles(seconds: Seconds) -> dict[str, float]:
    """Compute percentiles in milliseconds by nearest rank, so each is an observed value. Empty without values."""
    percentiles_ms: dict[str, float] = {}
    if not len(seconds):
        return percentiles_ms
    ranked = np.sort(seconds)
    for name, thousandths in _POINTS.items():
        rank = math.ceil(thousandths * len(ranked) / 1000)
        percentiles_ms[name] = round(1000 * float(ranked[rank - 1]), 3)
    return percentiles_ms


def _doubts(late: Seconds, lag: Seconds, busy: float) -> list[str]:
    doubts: list[str] = []
    for events, delays in (("calls started", late), ("timers of the generator fired", lag)):
        late_share = float(np.mean(delays > _LATE_S)) if delays.size else 0.0
        if late_share > _MAX_LATE_SHARE:
            doubts.append(f"{100 * late_share:.1f} % of the {events} more than {1000 * _LATE_S:.0f} ms late")
    if busy > _MAX_BUSY:
        doubts.append(f"a process of the generator was busy {100 * busy:.0f} % of the time. Use more --processes.")
    return doubts
