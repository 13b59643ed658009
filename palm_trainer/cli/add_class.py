"""The command `palm-train add-class`."""

from pathlib import Path
from typing import Annotated

import typer

add_class_app = typer.Typer()


@add_class_app.command("add-class", epilog="Example: palm-train add-class runs/bank cancel_order --examples cancel.txt")
def add_class(
    run: Annotated[Path, typer.Argument(help="Run directory of `palm-train run`.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Name of the new class.", show_default=False)],
    examples: Annotated[
        Path,
        typer.Option(
            help="File with texts of the class: one a line, or any format that data sets have.", show_default=False
        ),
    ],
    task: Annotated[
        str | None, typer.Option(help="Task that gets the class, where several have a prototype head.")
    ] = None,
) -> None:
    """Add a class to a finished run, without training.

    The task must have head = "prototype". The best checkpoint is replaced, and evaluated again.
    """
    from palm_trainer.config.loader import load_config
    from palm_trainer.model.checkpoint_files import checkpoint_directory
    from palm_trainer.runs.file_names import CONFIG

    checkpoint_directory(run)
    settings = load_config(run / CONFIG, output=run)
    # Imported here: wrong usage is told without torch.
    from palm_trainer.cli.console import show
    from palm_trainer.cli.show import metrics_table
    from palm_trainer.runs.add_class import add_class as add_class_to_run

    added = add_class_to_run(run, settings, name, examples, task)
    texts = f"{added.texts - added.has_name} texts" + (" and its name" if added.has_name else "")
    show(f"{name}: a class of '{added.task}' from {texts}")
    if added.metrics:
        show(metrics_table(added.metrics, f"{run} (with the new class)"))
    show(f"Export it again: palm-export {run} --output BUNDLE --overwrite")
