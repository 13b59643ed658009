"""`palm-serve check`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_serve.cli.shared import faults, show, start_log
from palm_serve.config import LogLevel, Precision, Provider, ServeOptions

if TYPE_CHECKING:
    from palm_serve.registry import LoadedModel

_LABELS_SHOWN = 8


def check(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle directory.")],
    provider: Annotated[Provider, typer.Option(help=ServeOptions.model_fields["provider"].description)] = Provider.AUTO,
    precision: Annotated[
        Precision, typer.Option(help=ServeOptions.model_fields["precision"].description)
    ] = Precision.AUTO,
    threads: Annotated[int | None, typer.Option(min=1, help=ServeOptions.model_fields["threads"].description)] = None,
) -> None:
    """Loads a bundle, verifies it, warms it up, runs its golden examples, and prints what it holds."""
    start_log(LogLevel.WARNING)
    with faults():
        from palm_serve.server import make_registry

        async def load() -> None:
            registry = make_registry(
                ServeOptions(bundles=(bundle,), provider=provider, precision=precision, threads=threads)
            )
            try:
                _show_bundle(await registry.load(bundle))
            finally:
                await registry.close()

        asyncio.run(load())


def _show_bundle(model: "LoadedModel") -> None:
    from rich.table import Table

    from palm_serve.decoding import label_names

    manifest = model.manifest
    facts = Table.grid(padding=(0, 2))
    facts.add_row("model", f"{model.name} {model.version[:12]}")
    facts.add_row("encoder", f"{manifest.encoder.name}, {manifest.encoder.parameters:,} parameters")
    facts.add_row("longest text", f"{manifest.max_length} tokens")
    facts.add_row("runs on", f"{model.info.provider} in {model.info.precision} (variant '{model.info.variant}')")
    tasks = Table(box=None, header_style="bold")
    for column in ("task", "kind", "role", "labels"):
        tasks.add_column(column)
    for name, task in manifest.tasks.items():
        names = label_names(task)
        tasks.add_row(
            name,
            task.kind,
            task.role,
            f"{len(names)}: {', '.join(names[:_LABELS_SHOWN])}{', ...' * (len(names) > _LABELS_SHOWN)}",
        )
    show(facts, tasks, "verified, warmed up, golden examples answered as at export")
