"""The log of a run (`events.jsonl`) as curves."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

POINTS = 300
"""Points of a curve; a longer log is averaged over stretches of steps."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation on dev: metrics by dotted name (`slots.f1`)."""

    step: int
    epoch: float
    metrics: Mapping[str, float]
    best: bool


@dataclass
class History:
    """What happened in a run. Losses are (step, loss) by task; `start` is the log's own first line, where it has one."""

    losses: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    start: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """Wall time from the first logged line to the last; stops between a run and its resumption included."""
    examples_per_second: float = 0.0

    @property
    def best(self) -> Evaluation | None:
        """The evaluation whose weights were kept as `best/`."""
        return next((one for one in reversed(self.evaluations) if one.best), None)


def read_history(events: Iterable[Mapping[str, Any]]) -> History:
    """Curves from the lines of the log; kinds of lines that are not known are passed over."""
    history = History()
    times = []
    examples = seconds = 0.0
    for event in events:
        times.append(event.get("time", 0.0))
        match event.get("event"):
            case "step":
                examples, seconds = examples + event["examples"], seconds + event["seconds"]
                for task, loss in event["losses"].items():
                    history.losses.setdefault(task, []).append((event["step"], loss))
            case "evaluation":
                metrics = dict(flat(event["metrics"]))
                history.evaluations.append(Evaluation(event["step"], event["epoch"], metrics, event["best"]))
            case "start":
                history.start = event
    history.seconds = max(times, default=0.0) - min(times, default=0.0)
    history.examples_per_second = examples / seconds if seconds else 0.0
    history.losses = {task: thinned(points) for task, points in history.losses.items()}
    return history


def flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of nested metrics by dotted name."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            yield prefix + name, float(value)


def thinned(points: Sequence[tuple[float, float]], limit: int = POINTS) -> list[tuple[float, float]]:
    """At most `limit` points, each the mean of its neighbours."""
    size = -(-len(points) // limit) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in own) / len(own), sum(y for _, y in own) / len(own)) for own in groups]


def smoothed(points: Sequence[tuple[float, float]], share: float = 0.1) -> list[tuple[float, float]]:
    """The running mean over a share of all points, centred; logged losses are those of single batches."""
    reach = max(1, round(len(points) * share / 2))
    found = []
    for i, (x, _) in enumerate(points):
        near = points[max(0, i - reach) : i + reach + 1]
        found.append((x, sum(y for _, y in near) / len(near)))
    return found
