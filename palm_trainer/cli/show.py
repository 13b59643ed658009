"""Console output of the commands: a progress bar on a terminal, else plain lines, and tables."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding import label_names
from palm_serve.system.plain_text import plain, plain_console, plain_message
from palm_serve.system.program import OutputLost
from palm_trainer.cli.console import show
from palm_trainer.config.loader import Config
from palm_trainer.config.mappings import absent
from palm_trainer.config.schema import PretrainedEncoderConfig
from palm_trainer.evaluation.evaluate import Metrics, flatten, is_perplexity
from palm_trainer.runs.data_checks import DataFault, find_job_faults
from palm_trainer.runs.events import Averaged, Evaluated, Event, Finished, Started
from palm_trainer.runs.file_names import REPORT
from palm_trainer.runs.job import Job
from palm_trainer.tasks import task_kind
from palm_trainer.training.loop import Step

_RATE_WINDOW = 50


def show_training(
    events: Iterable[Event], config: Config, on_output_lost: Callable[[OutputLost], None], *, with_faults: bool = True
) -> bool:
    """Show the progress of a run. Returns True when it was stopped before its end.

    Args:
        events: of the run.
        config: its configuration.
        on_output_lost: called when standard output cannot be written. The events are taken to their end without it.
        with_faults: tell what is wrong with the data.
    """
    display = _TrainingDisplay(config, with_faults)
    try:
        for event in events:
            try:
                display.show(event)
            except OutputLost as lost:
                on_output_lost(lost)
    finally:
        display.close()
    return display.interrupted


class _TrainingDisplay:
    """Shows the events of a run."""

    def __init__(self, config: Config, with_faults: bool) -> None:
        self._with_faults = with_faults
        self.interrupted = False
        self._config = config
        self._progress: _Bar | _Lines | None = None

    def show(self, event: Event) -> None:
        match event:
            case Started():
                kind = _Bar if sys.stdout.isatty() else _Lines
                self._progress = kind(event.job.loop.total_steps, event.first_step, self._config.train.log_every_steps)
                announce(event.job, event.first_step)
                if self._with_faults:
                    show_faults(find_job_faults(event.job))
                    _show_missing_dev(event.job)
                self._progress.start()
            case Step():
                self._shown.step(event)
            case Evaluated():
                if event.metrics:  # without dev data, of which a line told at the start
                    self._shown.line(_evaluation_line(event))
            case Averaged():
                outcome = "better: best/" if event.best else "no better than the best of them"
                steps = ", ".join(map(str, event.steps))
                self._shown.line(f"average of steps {steps}  dev {event.score:.4f}  {outcome}")
            case Finished():
                self._show_result(event)

    @property
    def _shown(self) -> "_Bar | _Lines":
        """The progress, which is there from the first event on."""
        assert self._progress is not None
        return self._progress

    def _show_result(self, event: Finished) -> None:
        self.interrupted = event.interrupted
        self.close()
        output = self._config.train.output
        if event.metrics:
            show(metrics_table(event.metrics, f"{output} (best checkpoint)"))
        for task, limit in event.thresholds.items():
            show(f"threshold of {task}: {limit:.4g} (best on dev)")
        if not self.interrupted:
            show(f"report: {output / REPORT}")

    def close(self) -> None:
        """Stop the progress bar."""
        if self._progress is not None:
            self._progress.close()


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
    """Show a line with data, tasks, steps and device, after lines on what else the training starts from."""
    for line in _describe_start(job):
        show(line)
    precision = job.loop.precision
    tasks = ", ".join(_describe_task(name, info) for name, info in job.trained.tasks.items())
    rows = ", ".join(f"{name} {len(source.dataset)} rows" for name, source in job.loop.sources.items())
    kind = str(precision.autocast or "fp32").removeprefix("torch.")
    processes = job.loop.processes.size
    device = f"{processes} x {precision.device.type}" if processes > 1 else str(precision.device)
    resumed = f" from step {first_step}" if first_step else ""
    show(f"{rows}; {tasks}; {job.loop.total_steps} steps{resumed} on {device} in {kind}")


def _describe_task(name: str, info: TaskInfo) -> str:
    """Return name, kind and number of labels of a task, as `palm-serve check` counts them: a span type is one label, not two tags."""
    count = len(label_names(info)) if task_kind(info.kind).is_answered else 0
    return f"{name} ({info.kind}, {count} labels)" if count else f"{name} ({info.kind})"


def _describe_start(job: Job) -> Iterator[str]:
    """Yield lines on the run that a training starts from, and on tasks that are decoded given another."""
    if job.evaluation.config is None:
        return
    encoder = job.config.encoder
    if isinstance(encoder, PretrainedEncoderConfig) and encoder.digest:
        yield f"starts from {encoder.model} (weights with the SHA-256 {encoder.digest[:12]}...)"
    if job.heads is not None:
        untaken = "; ".join(f"{task} ({reason})" for task, reason in job.heads.untaken.items())
        yield f"heads taken over: {', '.join(job.heads.names) or 'none'}; new heads: {untaken or 'none'}"
    for task, tags in job.given_tags.items():
        yield tags.describe(task)


def show_faults(faults: Iterable[DataFault]) -> None:
    """Show what is wrong with the data, warnings on standard error."""
    for fault in faults:
        if fault.is_warning:
            print(plain_message(f"warning: {fault}"), file=sys.stderr)
        else:
            show(f"  {fault}")


def _show_missing_dev(job: Job) -> None:
    """Tell which tasks have no dev data, and what is not done for them."""
    dev = job.evaluation.data("dev")
    scored: set[str] = set(dev.masked)
    for evaluation_set in dev.sets:
        scored.update(evaluation_set.fields)
    missing = absent(job.evaluation.kinds, scored)
    if not missing:
        return
    effect = "the last checkpoint counts as the best" if not scored else "they do not choose the best checkpoint"
    show(
        f"no dev data of {', '.join(missing)}: {effect}, no confidence is calibrated and no threshold is chosen. "
        "Add `dev`, or `dev_share = 0.1` to set a part of train apart, to [data.NAME]."
    )


def _evaluation_line(event: Evaluated) -> str:
    best = "  best" if event.best else ""
    return f"epoch {event.epoch:g}  dev {_inline(event.metrics)}{best}"


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
            TextColumn("{task.fields[state]}", markup=False),
        )
        self._progress = Progress(*columns, console=plain_console())
        self._task = self._progress.add_task("train", total=total, completed=first, state="")
        self._rate = _Rate()

    def start(self) -> None:
        self._progress.start()

    def step(self, event: Step) -> None:
        state = f"{plain(_losses(event))}  lr {event.learning_rate:.1e}  {self._rate.add(event):.0f} examples/s"
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

    def start(self) -> None:
        """Count the time from here."""
        self._begin = time.monotonic()

    def step(self, event: Step) -> None:
        rate = self._rate.add(event)
        if event.step % self._every == 0:
            remaining = (time.monotonic() - self._begin) / (event.step - self._first) * (self._total - event.step)
            state = f"lr {event.learning_rate:.1e}  {rate:.0f} examples/s  {remaining:.0f} s left"
            self.line(f"step {event.step}/{self._total}  {event.data}  {_losses(event)}  {state}")

    def line(self, text: str) -> None:
        print(plain(text), flush=True)

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
