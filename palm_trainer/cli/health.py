"""The command `palm-train health`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_trainer.cli.arguments import ConfigArgument, SetOption

if TYPE_CHECKING:  # `--help` loads no library
    from palm_trainer.config.loader import Config

PAGE = "health.html"
REVIEW = "review.jsonl"

health_app = typer.Typer()


@health_app.command("health", epilog="Example: palm-train health examples/snips.toml --output snips-health")
def _health(
    config: ConfigArgument,
    overrides: SetOption = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Directory of health.html and review.jsonl. Default: train.output with -health."),
    ] = None,
) -> None:
    """Find labels that look wrong, with a page to decide.

    Decisions that are saved as review.jsonl are applied by `palm-train run CONFIG --review review.jsonl`.
    """
    from palm_trainer.config.loader import load_config

    settings = load_config(config, overrides or (), default_output=Path(config.stem))
    run = settings.train.output
    show_health(settings, config.stem, output or run.with_name(run.name + "-health"))


def show_health(config: "Config", name: str, folder: Path) -> None:
    """Check the data, write the page and the review, and print what was found.

    Args:
        config: the configuration.
        name: its name, for the page.
        folder: directory of the page and the review. Decisions of a review in it are kept.
    """
    from rich.table import Table

    from palm_trainer.cli.console import show
    from palm_trainer.health.check_data import check_files
    from palm_trainer.health.findings import SIGNALS
    from palm_trainer.health.page import count_signals, write_page
    from palm_trainer.health.review_lines import make_lines, write_lines

    health, tasks = check_files(config)
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
    show(table)
    for note in health.notes:
        show(f"note: {note}")
    decided = sum(line["decision"] is not None for line in review.lines())
    if decided:
        show(f"{decided} earlier decisions kept")
    show(f"page: {folder / PAGE}")
    show(f"review: {folder / REVIEW}")
