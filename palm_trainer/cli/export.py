"""The command `palm-export`.

Exit codes: 0 success, 2 wrong usage or bad input, 1 failure, including a parity failure.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_serve.system.plain_text import os_message, plain_console, plain_message
from palm_serve.system.program import run_program
from palm_serve.system.usage_errors import ProgramCommand
from palm_trainer.cli.environment import limit_threads
from palm_trainer.config.atomic_files import check_output_file, write_output
from palm_trainer.errors import CheckpointError, ExportError, PalmError, ParityError

if TYPE_CHECKING:  # they load what `--help` does not need
    from rich.table import Table

    from palm_serve.bundle.manifest import Manifest
    from palm_trainer.export.gate import GateResult
    from palm_trainer.export.report import ExportReport

_WITHOUT_DEV = 500
"""Number of training examples for the parity check where there is no dev split."""

_MEAN = "mean of "
_TABLE_WIDTH = 150
"""Characters that fit a row without cutting a cell."""

_Register = Annotated[
    str | None,
    typer.Option(
        metavar="mlflow:NAME",
        help="Register the bundle as the next version of this model at the MLflow server of MLFLOW_TRACKING_URI.",
    ),
]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,  # rich takes longer to load than the rest of `--help`
    context_settings={"max_content_width": 100},
    pretty_exceptions_enable=False,
)


class Precision(StrEnum):
    """Precisions of the weights of exported graphs."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    AUTO = "auto"


@app.command(cls=ProgramCommand, epilog="Example: palm-export runs/atis --output bundles/atis")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory that `palm-train run` wrote.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="BUNDLE", help="Directory to write; must not exist.")
    ],
    precision: Annotated[
        Precision,
        typer.Option(
            help="auto: every precision that answers as the trained model and is faster here. Otherwise fp32 and this one."
        ),
    ] = Precision.AUTO,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: that of the directory.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that BUNDLE holds.")] = False,
    include: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="Export this auxiliary task too; may be repeated.")
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(
            metavar="KEY",
            help="Sign the bundle with this Ed25519 private key (PEM), for `palm-serve run --trust`. "
            "`openssl genpkey -algorithm ed25519 -out KEY` makes one.",
        ),
    ] = None,
    register: _Register = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the table to FILE as JSON too.")
    ] = None,
) -> None:
    """Export the best checkpoint of RUN as a bundle, and check that the bundle answers as the checkpoint does.

    All dev examples and 200 random shapes are run through PyTorch and every execution provider of this machine.
    Nothing is written when the plain graph differs on the CPU in fp32. Another variant is left out when it fails or is not faster.
    `--precision fp32` is the quickest.
    """
    registry = _registry_name(register)
    if json_file is not None:
        check_output_file(json_file)
    stages = _Stages()
    with _step_display() as say:

        def begin(step: str) -> None:
            stages.begin(step)
            say(step)

        begin("loading the run")
        manifest, report = _export(run, output, precision, name, overwrite, include or [], sign, begin)
    report = replace(report, seconds=stages.end())
    show(report)
    console = plain_console(highlight=False, soft_wrap=True)
    console.print(f"{'signed; ' if sign else ''}digest sha256:{manifest.version}")
    console.print(f"{manifest.name} {manifest.version[:12]} -> {output}")
    if json_file is not None:
        _write_json(json_file, manifest, report)
    if registry is not None:
        console.print(_register(output, manifest, registry))


def _registry_name(register: str | None) -> str | None:
    """Return the name for the registry. Raises ExportError before the export where it cannot be registered."""
    if register is None:
        return None
    from palm_trainer.export.register import registry_name

    return registry_name(register)


def _register(bundle: Path, manifest: "Manifest", name: str) -> str:
    """Register a bundle, and return a line on it."""
    from palm_trainer.export.register import register_bundle

    registered = register_bundle(bundle, manifest, name)
    return f"registered as {registered.name} version {registered.version}: {registered.source}"


def show(report: "ExportReport") -> None:
    """Print the table, the notes, and the reason for each variant that is not written."""
    # Not narrower: into a file or a narrow terminal too, no cell may be cut.
    console = plain_console(width=max(plain_console().width, _TABLE_WIDTH))
    console.print(variants_table(report))
    lines = list(report.notes)
    if report.metric.startswith(_MEAN):
        lines.insert(0, f"{_metric_title(report)}: {report.metric}")
    if report.metric_rows:
        lines.append(f"{report.metric} in percent of {report.metric_rows} dev examples, with its 95 % interval")
    for row in report.rows:
        if row.reason:
            lines.append(f"{row.candidate} is not written: {row.reason}")
    for row in report.rows:
        if row.result.reason and not row.reason:
            lines.append(f"{row.candidate} failed: {row.result.reason}")
    if report.size:
        lines.append(f"the bundle has {report.size / 1e6:.1f} MB in all")
    if report.seconds:
        lines.append(_describe_seconds(report.seconds))
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


class _Stages:
    """Seconds that each step of an export takes. A step that comes twice counts once, with both times."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._step = ""
        self._began = time.perf_counter()

    def begin(self, step: str) -> None:
        """Begin a step, and end the one before."""
        self.end()
        self._step = step
        self._seconds.setdefault(step, 0.0)

    def end(self) -> dict[str, float]:
        """End the last step. Return the seconds by step."""
        now = time.perf_counter()
        if self._step:
            self._seconds[self._step] += now - self._began
        self._began = now
        return self._seconds


def _describe_seconds(seconds: Mapping[str, float]) -> str:
    steps = [f"{step} {value:.1f} s" for step, value in seconds.items()]
    return f"{sum(seconds.values()):.1f} s in all: {', '.join(steps)}"


def _export(
    run: Path,
    output: Path,
    precision: str,
    name: str | None,
    overwrite: bool,
    include: list[str],
    sign: Path | None,
    say: Callable[[str], None],
) -> "tuple[Manifest, ExportReport]":
    # Imported here: `--help` and wrong usage need no torch.
    from palm_trainer.config.loader import load_config
    from palm_trainer.model.checkpoint_files import checkpoint_directory

    checkpoint_directory(run)
    if not (run / "config.toml").is_file():
        raise CheckpointError(
            f"{run} must be a run directory of `palm-train run`, got a directory without config.toml."
        )
    config = load_config(run / "config.toml")
    from palm_trainer.export.exporter import export_bundle
    from palm_trainer.model.checkpoint import load_trained, read_json
    from palm_trainer.runs.job_from_config import evaluation_sets
    from palm_trainer.runs.run_values import read_values

    sets = evaluation_sets(config, "dev")
    if not sets:
        say(f"the data has no dev split: comparing on the first {_WITHOUT_DEV} training examples")
        sets = []
        for training_set in evaluation_sets(config, "train"):
            sets.append(replace(training_set, examples=training_set.examples[:_WITHOUT_DEV]))
    metrics = read_json(run / "metrics.json") if (run / "metrics.json").is_file() else {}
    trained = load_trained(run)
    return export_bundle(
        trained,
        sets,
        output,
        precision=precision,
        name=name,
        overwrite=overwrite,
        metrics=metrics,
        include=include,
        train=lambda: evaluation_sets(config, "train"),
        sign=sign,
        values=read_values(run, trained.tasks),
        say=say,
    )


def _write_json(path: Path, manifest: "Manifest", report: "ExportReport") -> None:
    content = {
        "name": manifest.name,
        "version": manifest.version,
        "written": sorted(manifest.variants),
        "metric": report.metric,
        "metric_examples": report.metric_rows,
        "size": report.size,
        "rows": [row.as_json() for row in report.rows],
        "notes": list(report.notes),
        "seconds": {step: round(value, 3) for step, value in report.seconds.items()},
    }
    try:
        write_output(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ExportError(
            f"--json {path} could not be written: {error.strerror}. The bundle is complete. Choose another file."
        ) from error


def variants_table(report: "ExportReport") -> "Table":
    """Return a table of each variant on each provider that it was measured on."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (
        "variant",
        "provider",
        "precision",
        "size",
        "max diff",
        "equal",
        _metric_title(report),
        "1 text",
        "batch 32",
        "gate",
        "written",
    ):
        words = title in ("variant", "provider", "precision", "gate", "written")
        table.add_column(title, justify="left" if words else "right", no_wrap=True)
    for row in report.rows:
        figures = row.result.gate.figures
        timed = math.isfinite(row.times[0])
        is_compared = row.result.is_compared
        table.add_row(
            row.candidate.variant,
            row.candidate.provider,
            row.result.gate.computed_in,
            f"{row.size / 1e6:.1f} MB",
            f"{figures['max_logit_difference']:.1e}" if "max_logit_difference" in figures else _absent(is_compared),
            f"{100 * figures.get('answers_equal', 0):.2f} %" if is_compared else "-",
            _metric_cell(figures, report.metric_rows),
            f"{row.latency_ms:.2f} ms" if timed else "-",
            f"{row.texts_per_second:.0f}/s" if timed else "-",
            _gate_cell(row.result),
            "no" if row.reason else "yes",
        )
    return table


def _metric_cell(figures: Mapping[str, float], count: int) -> str:
    """Return the metric in percent, with its interval where it is a share of `count` examples."""
    if "metric" not in figures:
        return "-"
    if not count:
        return f"{100 * figures['metric']:.2f}"
    from palm_trainer.export.report import share_interval

    low, high = share_interval(figures["metric"], count)
    return f"{100 * figures['metric']:.2f} ({100 * low:.1f} to {100 * high:.1f})"


def _absent(is_compared: bool) -> str:
    return "not finite" if is_compared else "-"


def _gate_cell(result: "GateResult") -> str:
    if not result.is_compared:
        return "not run"
    return "passed" if result.gate.passed else "failed"


def _metric_title(report: "ExportReport") -> str:
    """Return the name of the metric. A mean of several is explained below the table."""
    return "mean of tasks" if report.metric.startswith(_MEAN) else report.metric or "metric"


@contextmanager
def _step_display() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current step on standard error, as a spinner on a terminal, else as lines."""
    console = plain_console(stderr=True)
    if not console.is_terminal:
        yield lambda step: console.print(f"palm-export: {step}", highlight=False, soft_wrap=True)
        return
    with console.status("") as status:
        yield lambda step: status.update(step)


def main() -> None:
    """Run `palm-export`."""
    run_program("palm-export", _command)


def _command() -> int:
    limit_threads()
    try:
        app()
    except PalmError as error:
        print(plain_message(f"palm-export: {error}", keep="\n"), file=sys.stderr)
        return 1 if isinstance(error, ParityError) else 2
    except OSError as error:
        print(f"palm-export: {os_message(error)}", file=sys.stderr)
        return 2
    return 0
