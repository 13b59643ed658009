"""`palm-serve batch`."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_serve.cli.shared import provider_option, report_errors, say, start_log
from palm_serve.config import LogLevel, Precision, ServeOptions
from palm_serve.errors import ConfigError
from palm_serve.system.installation import how_to_install

if TYPE_CHECKING:
    from palm_serve.batch.progress import Progress
    from palm_serve.model import OpenOptions


class BatchEngine(StrEnum):
    """Where rows are answered."""

    LOCAL = "local"
    RAY = "ray"


_REPORT_S = 2.0
"""Seconds between two lines of progress."""
_FIELDS = ServeOptions.model_fields
_Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT...",
        help="Parquet, JSON Lines, CSV (.csv, .tsv) or text files (.txt), and folders, or URLs (s3://...).",
    ),
]
_Pair = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column of the second texts or passages, for tasks that read pairs."),
]
_Engine = Annotated[
    BatchEngine, typer.Option(help="local: this machine. ray: a cluster of Ray whose machines see the same folders.")
]
_Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Head of the cluster. Default: RAY_ADDRESS, or this machine's cluster."),
]
_Bundle = Annotated[
    Path,
    typer.Option(
        metavar="BUNDLE", help="Bundle directory or URL (s3://...). BUNDLE@sha256:DIGEST also checks its digest."
    ),
]
_Tasks = Annotated[str, typer.Option(metavar="NAME,...", help="Tasks to answer. Default: all that the columns allow.")]
_Keep = Annotated[str | None, typer.Option(metavar="NAME,...", help="Columns of the input to keep. Default: all.")]
_Provider = Annotated[str, typer.Option(callback=provider_option, help=_FIELDS["provider"].description)]
_Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        help="Threads of each worker. Default: one per physical core, shared by --workers; with ray one.",
    ),
]
_Output = Annotated[
    Path, typer.Argument(metavar="OUTPUT", help="Folder or URL of the answers, as Parquet files; or a file NAME.jsonl.")
]
_Workers = Annotated[
    int | None,
    typer.Option(
        min=1, max=1024, help="Processes, each with its own copy of the bundle. Default: 1; with ray one per free CPU."
    ),
]


def batch(
    inputs: _Inputs,
    output: _Output,
    bundle: _Bundle,
    text_column: Annotated[str, typer.Option(metavar="NAME", help="Column of the texts.")] = "text",
    pair_column: _Pair = None,
    tasks: _Tasks = "",
    keep: _Keep = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Answer the first rows only.")] = None,
    engine: _Engine = BatchEngine.LOCAL,
    address: _Address = None,
    workers: _Workers = None,
    provider: _Provider = "auto",
    precision: Annotated[Precision, typer.Option(help=_FIELDS["precision"].description)] = Precision.AUTO,
    threads: _Threads = None,
    max_text_bytes: Annotated[
        int, typer.Option(min=1, max=10**9, help=_FIELDS["max_text_bytes"].description)
    ] = _FIELDS["max_text_bytes"].default,
    trust: Annotated[Path | None, typer.Option(metavar="DIR", help=_FIELDS["trust"].description)] = None,
    allow_unproven: Annotated[
        bool, typer.Option("--allow-unproven", help=_FIELDS["allow_unproven"].description)
    ] = False,
) -> None:
    """Answer the rows of files, and write the answers to files.

    A run that was ended at any moment goes on where it was when the same command runs again. Exit code 1: some rows could
    not be answered, and have the reason in the column `error`.
    """
    open_options: OpenOptions = {
        "provider": provider,
        "precision": precision,
        "threads": threads,
        "max_text_bytes": max_text_bytes,
        "trust": trust,
        "allow_unproven": allow_unproven,
    }
    start_log(LogLevel.WARNING)
    with report_errors():
        if address is not None and engine is BatchEngine.LOCAL:
            raise ConfigError(f"--address must go with --engine ray, got {address}. Add --engine ray, or remove it.")
        try:
            from palm_serve.batch.batch_run import BatchOptions, RayCluster
            from palm_serve.batch.json_lines import run_batch_to
        except ImportError as error:
            raise ConfigError(
                f"batch needs {error.name}, which is not installed. To install it, {how_to_install('parquet')}"
            ) from None
        options = BatchOptions(text_column, pair_column, _names(tasks), None if keep is None else _names(keep))
        cluster = RayCluster(address) if engine is BatchEngine.RAY else None
        inputs_and_options = (str(bundle), inputs, output, options, open_options)
        answered = run_batch_to(*inputs_and_options, limit=limit, workers=workers, cluster=cluster, report=_Report())
        say(answered.summary)
        if answered.error_rows:
            raise typer.Exit(1)


class _Report:
    """Prints progress on standard error, not too often."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def __call__(self, progress: "Progress") -> None:
        """Print a line if the last one is old."""
        if time.monotonic() - self._printed >= _REPORT_S:
            self._printed = time.monotonic()
            say(progress.line, err=True)


def _names(listed: str) -> tuple[str, ...]:
    """Return the names of a list with commas."""
    return tuple(filter(None, map(str.strip, listed.split(","))))
