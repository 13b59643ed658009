"""What the answers say."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from google.rpc import code_pb2

from palm_serve.bench.load import Load, Method
from palm_serve.bench.requests import Seconds
from palm_serve.bench.worker import Samples

_LATE_S = 0.01
_LATE_SHARE = 0.01
_BUSY = 0.9
_POINTS = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}
"""In thousandths."""


@dataclass(frozen=True, slots=True)
class Report:
    """One load, measured. Rates are per second; latencies are ms since the call was to be made."""

    calls: int
    """Made in the time that counts."""
    offered: float
    answered: float
    """OK answers that came in that time."""
    goodput: float
    """Of these the ones within the deadline."""
    texts: float
    """Texts of the goodput."""
    codes: dict[str, int]
    answered_ms: dict[str, float]
    """Percentiles of the OK answers; empty when there is none."""
    refused_ms: dict[str, float]
    """Of RESOURCE_EXHAUSTED."""
    late_ms: dict[str, float]
    """How long after its time a call was made, or the generator woke up."""
    busy: float
    """Share of the time that the busiest process of the generator computed."""
    doubts: tuple[str, ...]
    """Why the figures are not to be trusted, if they are not."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def make_report(load: Load, processes: Sequence[Samples]) -> Report:
    """The report of all processes together."""
    due, late, took, code = (
        np.concatenate([getattr(samples, name) for samples in processes]) for name in ("due", "late", "took", "code")
    )
    begin, end = load.warm_up_s, load.warm_up_s + load.duration_s
    counted, ok = (due >= begin) & (due < end), code == code_pb2.OK
    inside = ok & (due + took >= begin) & (due + took < end)
    good = int(np.sum(inside & (took <= load.deadline_s)))
    numbers, counts = np.unique(code[counted], return_counts=True)
    delays = np.concatenate([late[counted], *(samples.lag for samples in processes)])
    busy = max(samples.busy for samples in processes)
    return Report(
        calls=int(np.sum(counted)),
        offered=float(np.sum(counted) / load.duration_s),
        answered=float(np.sum(inside) / load.duration_s),
        goodput=good / load.duration_s,
        texts=good / load.duration_s * (load.batch if load.method is Method.BATCH else 1),
        codes={code_pb2.Code.Name(int(n)): int(count) for n, count in zip(numbers, counts, strict=True)},
        answered_ms=percentiles(took[counted & ok]),
        refused_ms=percentiles(took[counted & (code == code_pb2.RESOURCE_EXHAUSTED)]),
        late_ms=percentiles(delays),
        busy=busy,
        doubts=tuple(_doubts(late[counted], np.concatenate([samples.lag for samples in processes]), busy)),
    )


def percentiles(seconds: Seconds) -> dict[str, float]:
    """In ms, each a value that was seen (the nearest rank)."""
    ranked = np.sort(seconds)
    ranks = {name: -(-point * len(ranked) // 1000) for name, point in _POINTS.items()}
    return {name: round(1000 * float(ranked[rank - 1]), 3) for name, rank in ranks.items()} if len(ranked) else {}


def _doubts(late: Seconds, lag: Seconds, busy: float) -> list[str]:
    found = []
    for what, delays in (("calls were made", late), ("wake-ups of the generator came", lag)):
        share = float(np.mean(delays > _LATE_S)) if delays.size else 0.0
        if share > _LATE_SHARE:
            found.append(f"{100 * share:.1f} % of the {what} more than {1000 * _LATE_S:.0f} ms late")
    if busy > _BUSY:
        found.append(f"a process of the generator computed {100 * busy:.0f} % of the time: try more --processes")
    return found
