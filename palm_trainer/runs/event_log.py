"""The log of a run: events.jsonl, and the experiment trackers of accelerate (TensorBoard, Weights & Biases, ...).

Losses, rates and dev metrics go to the trackers by step, as they are logged. TensorBoard writes to RUN/tensorboard.
Other trackers write to their usual place, and the run has the name of its directory.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from palm_serve.system.installation import how_to_install
from palm_trainer.errors import ConfigError

TENSORBOARD = "tensorboard"
_EXTRAS = (TENSORBOARD, "mlflow")
"""Trackers that an extra of PALM installs."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker whose package is not installed."""
    if not names:
        return
    from accelerate.tracking import get_available_trackers

    available = set(map(str, get_available_trackers()))
    for name in names:
        if name not in available:
            remedy = how_to_install(name) if name in _EXTRAS else f"install the package of {name}"
            raise ConfigError(f"train.trackers: '{name}' is not installed here. Remove it, or {remedy}")


class RunLog:
    """Writes records as JSON lines and passes their figures to the trackers.

    Args:
        stream: of events.jsonl.
        trackers: of accelerate, started.
    """

    def __init__(self, stream: TextIO, trackers: Sequence[Any] = ()) -> None:
        self._stream = stream
        self._trackers = trackers

    def write(self, record: Mapping[str, Any]) -> None:
        """Log one record. `record["step"]` is the step of its figures."""
        self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._stream.flush()
        values = figures(record)
        for tracker in self._trackers if values else ():
            tracker.log(values, step=record["step"])


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures for a tracker: `loss/TASK` and rates of a step, `dev/TASK/METRIC` of an evaluation."""
    match record["event"]:
        case "step":
            losses = {}
            for task, loss in record["losses"].items():
                losses[f"loss/{task}"] = float(loss)
            speed = record["examples"] / max(record["seconds"], 1e-9)
            return {**losses, "learning_rate": record["learning_rate"], "examples_per_second": speed}
        case "evaluation":
            return {**_flat(record["metrics"], "dev/"), "dev/score": record["score"], "epoch": record["epoch"]}
    return {}


@contextmanager
def open_log(path: Path, names: Sequence[str], settings: Mapping[str, Any], first_step: int) -> Iterator[RunLog]:
    """Open the log of a run, and close it with its trackers at the end of the block.

    Args:
        path: events.jsonl in the run directory. New lines are appended.
        names: of the trackers.
        settings: nested settings of the run, which trackers show as hyperparameters.
        first_step: step that the run continues from. Figures of later steps will be logged again.
    """
    with path.open("a", encoding="utf-8") as stream, ExitStack() as stack:
        trackers = [_started(name, path.parent, first_step) for name in names]
        for tracker in trackers:
            stack.callback(tracker.finish)
            if first_step == 0:
                tracker.store_init_configuration({key: _plain(value) for key, value in _flat(settings).items()})
        yield RunLog(stream, trackers)


def _started(name: str, run: Path, first_step: int) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # accelerate's own messages need it; it joins the processes that are there
    kind = LOGGER_TYPE_TO_CLASS[name]
    if name == TENSORBOARD:  # its reader drops what files of an earlier start hold from this step on
        tracker = kind(TENSORBOARD, run, purge_step=first_step + 1 if first_step else None)
    elif kind.requires_logging_directory:
        tracker = kind(run.name, run)
    else:
        tracker = kind(run.name)
    tracker.start()
    return tracker


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            values.update(_flat(value, f"{prefix}{key}/"))
        else:
            values[prefix + key] = value
    return values


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)
