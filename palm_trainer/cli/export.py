"""The command `palm-export`. Exit codes: 0; 2 wrong usage or bad input, with one message; 1 failure, parity included."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from palm_serve.bundle.manifest import Manifest
from palm_trainer.errors import CheckpointError, PalmError, ParityError

_WITHOUT_DEV = 500
"""Training examples that the gate runs over where there is no dev split."""

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


class Precision(StrEnum):
    """What weights the exported graphs may have."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    AUTO = "auto"


@app.command(epilog="Example: palm-export runs/atis --output bundles/atis")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory that `palm-train run` wrote.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="BUNDLE", help="Directory to write; must not exist.")
    ],
    precision: Annotated[
        Precision, typer.Option(help="auto: every precision that answers as the trained model does.")
    ] = Precision.AUTO,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: that of the directory.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that BUNDLE holds.")] = False,
) -> None:
    """Exports the best checkpoint of RUN as a bundle, and proves that the bundle answers as the checkpoint does.

    All dev examples and 200 random shapes are run through PyTorch and through every execution provider of this machine. When the plain graph
    differs on the CPU in fp32 nothing is written.
    """
    with _step_display() as say:
        say("loading the run")
        manifest, skipped = _export(run, output, precision, name, overwrite, say)
    console = Console()
    console.print(gates_table(manifest))
    for reason in skipped:
        console.print(f"not measured: {reason}", highlight=False, soft_wrap=True)
    console.print(f"{manifest.name} {manifest.version[:12]} -> {output}", highlight=False, soft_wrap=True)


def _export(
    run: Path, output: Path, precision: str, name: str | None, overwrite: bool, say: Callable[[str], None]
) -> tuple[Manifest, tuple[str, ...]]:
    # Imported here: `--help` and wrong usage need no torch.
    from palm_trainer.build import evaluation_sets
    from palm_trainer.checkpoint import checkpoint_directory, load_trained, read_json
    from palm_trainer.config import load_config
    from palm_trainer.export.exporter import export_bundle

    checkpoint_directory(run)
    if not (run / "config.toml").is_file():
        raise CheckpointError(
            f"{run} is no run: config.toml is missing. Give the directory that `palm-train run` wrote."
        )
    config = load_config(run / "config.toml")
    sets = evaluation_sets(config, "dev")
    if not sets:
        say(f"the data has no dev split: comparing on the first {_WITHOUT_DEV} training examples")
        sets = [replace(one, examples=one.examples[:_WITHOUT_DEV]) for one in evaluation_sets(config, "train")]
    metrics = read_json(run / "metrics.json") if (run / "metrics.json").is_file() else {}
    return export_bundle(
        load_trained(run), sets, output, precision=precision, name=name, overwrite=overwrite, metrics=metrics, say=say
    )


def gates_table(manifest: Manifest) -> Table:
    """Each variant on each provider that it was measured on."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("variant", "provider", "precision", "max difference", "equal answers", "size", "passed"):
        table.add_column(
            title, justify="right" if title in ("max difference", "equal answers", "size") else "left", no_wrap=True
        )
    for name, variant in manifest.variants.items():
        for gate in variant.gates:
            difference = gate.figures.get("max_logit_difference")
            table.add_row(
                name,
                gate.provider,
                gate.precision,
                "not finite" if difference is None else f"{difference:.1e}",
                f"{100 * gate.figures.get('answers_equal', 0):.2f} %",
                f"{variant.size / 1e6:.1f} MB",
                "yes" if gate.passed else "no",
            )
    return table


@contextmanager
def _step_display() -> Iterator[Callable[[str], None]]:
    """What is done now, on standard error: a spinner on a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: console.print(f"palm-export: {step}", highlight=False, soft_wrap=True)
        return
    with console.status("") as status:
        yield lambda step: status.update(step)


def main() -> None:
    """Entry point of `palm-export`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that an ended export cleans up as Ctrl-C does
    try:
        app()
    except PalmError as error:
        print(f"palm-export: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, ParityError) else 2)
