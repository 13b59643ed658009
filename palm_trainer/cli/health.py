"""The command `palm-train health`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_trainer.cli.arguments import ConfigArgument, SetOption
from palm_trainer.config.atomic_files import check_output_place
from palm_trainer.errors import PalmError

if TYPE_CHECKING:  # `--help` loads no library
    from palm_trainer.config.loader import Config
    from palm_trainer.health.findings import Health
    from palm_trainer.health.rows import TaskRows

PAGE = "health.html"
REVIEW = "review.jsonl"

health_app = typer.Typer()


@health_app.command("health", epilog="Example: palm-train health examples/snips.toml --output snips-health")
def _health(
    config: ConfigArgument,
    overrides: SetOption = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Run whose encoder reads the texts. Default: the encoder that a training begins with."),
    ] = None,
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Check the files only: no confident learning, no neighbours.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Directory of health.html and review.jsonl. Default: train.output with -health."),
    ] = None,
) -> None:
    """Find labels that look wrong, with a page to decide.

    Decisions that are saved as review.jsonl are applied by `palm-train run CONFIG --review review.jsonl`.
    """
    from palm_trainer.config.loader import load_config
    from palm_trainer.health.check_data import check_files, check_with_encoder

    settings = load_config(config, overrides or (), default_output=Path(config.stem))
    folder = output or settings.train.output.with_name(settings.train.output.name + "-health")
    check_output_place(folder)
    health, tasks = check_files(settings)
    if data_only and run is not None:
        raise PalmError("--run has no effect with --data-only, which loads no encoder. Give one of them.")
    if not data_only:
        check_with_encoder(settings, tasks, run, health)
    show_health(settings, health, tasks, config.stem, folder)


def show_health(config: "Config", health: "Health", tasks: "Sequence[TaskRows]", name: str, folder: Path) -> None:
    """Write the page and the review, and print what was found.

    Args:
        config: the configuration.
        health: what the checks found.
        tasks: the rows.
        name: its name, for the page.
        folder: directory of the page and the review. Decisions of a review in it are kept.
    """
    from rich.table import Table

    from palm_trainer.cli.console import show
    from palm_trainer.health.findings import SIGNALS
    from palm_trainer.health.page import count_signals, write_page
    from palm_trainer.health.review_lines import make_lines, write_lines

    review = make_lines(config, health.findings, health.merges, folder / REVIEW)
    write_page(name, health, tasks, review, folder / PAGE)
    write_lines(folder / REVIEW, review.lines())
    table = Table(title="findings", title_justify="left")
    for column in ("signal", "labels"):
        table.add_column(column, justify="right" if column == "labels" else "left")
    counts = count_signals(review.items)
    for signal in SIGNALS:
        if counts[signal]:
            table.add_row(signal, f"{counts[signal]:,}")
    if review.merges:
        table.add_row("class overlap", f"{len(review.merges):,} pairs")
    show(table)
    for note in health.notes:
        show(f"note: {note}")
    decided = sum(line["decision"] is not None for line in review.lines())
    if decided:
        show(f"{decided} earlier decisions kept")
    show(f"page: {folder / PAGE}")
    show(f"review: {folder / REVIEW}")
