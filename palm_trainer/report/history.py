"""Log of a run (`events.jsonl`) as curves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_POINTS = 300
"""Points of a curve. A longer log is averaged over ranges of steps."""

CurvePoint = tuple[float, float]
"""Step and value."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation on dev. `metrics` has dotted names such as `slots.f1`."""

    step: int
    epoch: float
    metrics: Mapping[str, float]
    best: bool


@dataclass
class History:
    """Course of a run. `losses` holds the loss curve of each task."""

    losses: dict[str, list[CurvePoint]] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    start: Mapping[str, Any] = field(default_factory=dict)
    """First event of the log, if it is there."""
    seconds: float = 0.0
    """Wall time from the first event to the last, including pauses before a run was resumed."""
    examples_per_second: float = 0.0

    @property
    def best(self) -> Evaluation | None:
        """Return the evaluation whose weights are in `best/`."""
        for evaluation in reversed(self.evaluations):
            if evaluation.best:
                return evaluation
        return None

    @property
    def metric_names(self) -> list[str]:
        """Return the dotted names of all metrics, in the order of their first evaluation."""
        names: dict[str, None] = {}
        for evaluation in self.evaluations:
            names.update(dict.fromkeys(evaluation.metrics))
        return list(names)


def read_history(events: Iterable[Mapping[str, Any]]) -> History:
    """Read the curves from the events of a log. Unknown events are ignored."""
    history = History()
    times = []
    examples = 0.0
    seconds = 0.0
    for event in events:
        times.append(event.get("time", 0.0))
        match event.get("event"):
            case "step":
                examples += event["examples"]
                seconds += event["seconds"]
                for task, loss in event["losses"].items():
                    history.losses.setdefault(task, []).append((event["step"], loss))
            case "evaluation":
                metrics = flatten_metrics(event["metrics"])
                history.evaluations.append(Evaluation(event["step"], event["epoch"], metrics, event["best"]))
            case "start":
                history.start = event
    history.seconds = max(times, default=0.0) - min(times, default=0.0)
    history.examples_per_second = examples / seconds if seconds else 0.0
    for task, points in history.losses.items():
        history.losses[task] = thin_curve(points)
    return history


def flatten_metrics(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten nested metrics to numbers by dotted name. Other values are left out."""
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            numbers.update(flatten_metrics(value, f"{prefix}{name}."))
        elif isinstance(value, int | float):
            numbers[prefix + name] = float(value)
    return numbers


def thin_curve(points: Sequence[CurvePoint], limit: int = MAX_POINTS) -> list[CurvePoint]:
    """Reduce a curve to at most `limit` points, each the mean of consecutive points."""
    size = -(-len(points) // limit) or 1
    means = []
    for begin in range(0, len(points), size):
        means.append(_mean_point(points[begin : begin + size]))
    return means


def smooth_curve(points: Sequence[CurvePoint], fraction: float = 0.1) -> list[CurvePoint]:
    """Compute the centred running mean over a fraction of all points.

    Logged losses are those of single batches.
    """
    reach = max(1, round(len(points) * fraction / 2))
    means = []
    for index, (step, _) in enumerate(points):
        neighbours = points[max(0, index - reach) : index + reach + 1]
        means.append((step, _mean_point(neighbours)[1]))
    return means


def _mean_point(points: Sequence[CurvePoint]) -> CurvePoint:
    step_sum = sum(step for step, _ in points)
    value_sum = sum(value for _, value in points)
    return step_sum / len(points), value_sum / len(points)
