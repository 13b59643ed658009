"""Console output of the commands: a progress bar on a terminal, else plain lines, and tables."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from palm_trainer.cli.console import show
from palm_trainer.config.loader import Config
from palm_trainer.evaluation.evaluate import Metrics, flatten, is_perplexity
from palm_trainer.runs.directory import REPORT
from palm_trainer.runs.events import Averaged, Evaluated, Event, Finished, Started
from palm_trainer.runs.job import Job
from palm_trainer.training.loop import Step

_RATE_WINDOW = 50


def show_training(events: Iterable[Event], config: Config) -> bool:
    """Show the progress of a run. Returns True when it was stopped before its end."""
    display: _Bar | _Lines | None = None
    interrupted = False
    try:
        for event in events:
            match event:
                case Started():
                    announce(event.job, event.first_step)
                    _show_defects(event.job)
                    kind = _Bar if sys.stdout.isatty() else _Lines
                    display = kind(event.job.loop.total_steps, event.first_step, config.train.log_every_steps)
                case Step():
                    assert display is not None
                    display.step(event)
                case Evaluated():
                    assert display is not None
                    display.line(f"epoch {event.epoch:g}  dev {_inline(event.metrics)}{'  best' if event.best else ''}")
                case Averaged():
                    assert display is not None
                    outcome = "better: best/" if event.best else "no better than the best of them"
                    display.line(
                        f"average of steps {', '.join(map(str, event.steps))}  dev {event.score:.4f}  {outcome}"
                    )
                case Finished():
                    interrupted = event.interrupted
                    if display is not None:
                        display.close()
                    if event.metrics:
                        show(metrics_table(event.metrics, f"{config.train.output} (best checkpoint)"))
                    for task, limit in event.thresholds.items():
                        show(f"threshold of {task}: {limit:.4g} (best on dev)")
                    if not interrupted:
                        show(f"report: {config.train.output / REPORT}")
    finally:
        if display is not None:
            display.close()
    return interrupted


def watch_training(events: Iterable[Event]) -> bool:
    """Run a training whose progress another process shows. Returns True when it was stopped before its end."""
    *_, last = events
    return isinstance(last, Finished) and last.interrupted


def metrics_table(metrics: Mapping[str, Metrics], title: str) -> Table:
    """Return a table of metrics in per cent, with one column per split."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for split in metrics:
        table.add_column(split, justify="right")
    columns = list(map(flatten, metrics.values()))
    names: dict[str, None] = {}
    for column in columns:
        names.update(dict.fromkeys(column))
    for name in names:
        table.add_row(name, *(_figure(name, column.get(name)) for column in columns))
    return table


def announce(job: Job, first_step: int) -> None:
    """Show one line with data, tasks, steps and device."""
    precision = job.loop.precision
    tasks = ", ".join(f"{name} ({info.kind}, {len(info.labels)} labels)" for name, info in job.trained.tasks.items())
    rows = ", ".join(f"{name} {len(source.dataset)} rows" for name, source in job.loop.sources.items())
    kind = str(precision.autocast or "fp32").removeprefix("torch.")
    processes = job.loop.processes.size
    device = f"{processes} x {precision.device.type}" if processes > 1 else str(precision.device)
    resumed = f" from step {first_step}" if first_step else ""
    show(f"{rows}; {tasks}; {job.loop.total_steps} steps{resumed} on {device} in {kind}")


def _show_defects(job: Job) -> None:
    for name, defects in job.defects.items():
        for defect in defects:
            show(f"  {name}: {defect.count} x {defect.kind}, first at {defect.first}")


class _Rate:
    """Examples per second over the last steps."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RATE_WINDOW)

    def add(self, step: Step) -> float:
        self._recent.append((step.examples, step.seconds))
        examples = sum(number for number, _ in self._recent)
        seconds = sum(duration for _, duration in self._recent)
        return examples / max(1e-9, seconds)


class _Bar:
    """A progress bar."""

    def __init__(self, total: int, first: int, every: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
        )
        self._progress = Progress(*columns)
        self._task = self._progress.add_task("train", total=total, completed=first, state="")
        self._rate = _Rate()
        self._progress.start()

    def step(self, event: Step) -> None:
        state = f"{_losses(event)}  lr {event.learning_rate:.1e}  {self._rate.add(event):.0f} examples/s"
        self._progress.update(self._task, completed=event.step, state=state)

    def line(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    """Plain lines, for logs."""

    def __init__(self, total: int, first: int, every: int) -> None:
        self._total, self._first, self._every = total, first, every
        self._rate = _Rate()
        self._begin = time.monotonic()

    def step(self, event: Step) -> None:
        rate = self._rate.add(event)
        if event.step % self._every == 0:
            remaining = (time.monotonic() - self._begin) / (event.step - self._first) * (self._total - event.step)
            state = f"lr {event.learning_rate:.1e}  {rate:.0f} examples/s  {remaining:.0f} s left"
            self.line(f"step {event.step}/{self._total}  {event.data}  {_losses(event)}  {state}")

    def line(self, text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        """Do nothing: no resource is open."""


def _losses(event: Step) -> str:
    return "  ".join(f"{task} {loss:.3f}" for task, loss in event.losses.items())


def _inline(metrics: Metrics) -> str:
    figures = []
    for name, value in flatten(metrics).items():
        metric = name.partition(" (")[0]
        if not metric.endswith((" precision", " recall")):
            figures.append(f"{name} {_figure(name, value)}")
    return "  ".join(figures)


def _figure(name: str, value: float | None) -> str:
    """Format a share in per cent, and a perplexity as a number."""
    if value is None:
        return ""
    return f"{value:.1f}" if is_perplexity(name) else f"{100 * value:.2f}"
