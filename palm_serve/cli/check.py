"""`palm-serve check`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_serve.cli.shared import provider_option, report_errors, show, start_log, write_line
from palm_serve.config import LogLevel, Precision, ServeOptions
from palm_serve.errors import PalmServeError

if TYPE_CHECKING:
    from palm_serve.registry import LoadedModel

_LABELS_SHOWN = 8


def check(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE", help="Bundle directory or URL (s3://...). BUNDLE@sha256:DIGEST also checks its digest."
        ),
    ],
    provider: Annotated[
        str, typer.Option(callback=provider_option, help=ServeOptions.model_fields["provider"].description)
    ] = "auto",
    precision: Annotated[
        Precision, typer.Option(help=ServeOptions.model_fields["precision"].description)
    ] = Precision.AUTO,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help=ServeOptions.model_fields["threads"].description)
    ] = None,
    load_timeout: Annotated[
        float, typer.Option(min=0.001, max=1e6, help=ServeOptions.model_fields["load_timeout"].description)
    ] = ServeOptions.model_fields["load_timeout"].default,
    trust: Annotated[
        Path | None, typer.Option(metavar="DIR", help=ServeOptions.model_fields["trust"].description)
    ] = None,
    allow_unproven: Annotated[
        bool, typer.Option("--allow-unproven", help=ServeOptions.model_fields["allow_unproven"].description)
    ] = False,
) -> None:
    """Load and verify a bundle, and print its tasks.

    Its golden examples are run too.
    """
    start_log(LogLevel.WARNING)
    with report_errors():
        from palm_serve.registry.remote_options import fetched_bundle
        from palm_serve.rpc.process_end import END_S, EXIT_REFUSED, end_process_after
        from palm_serve.server import make_registry

        async def load() -> None:
            options = ServeOptions(
                bundles=(bundle,),
                provider=provider,
                precision=precision,
                threads=threads,
                load_timeout=load_timeout,
                trust=trust,
                allow_unproven=allow_unproven,
            )
            registry = make_registry(options)
            try:
                folder = await fetched_bundle(options, bundle, with_all_graphs=True)
                _show_bundle(await registry.load(folder), signed=trust is not None)
            except PalmServeError:
                if registry.hung:
                    # The error is printed in the meantime.
                    end_process_after(END_S, EXIT_REFUSED)
                raise
            finally:
                await registry.close()

        asyncio.run(load())


def _show_bundle(model: "LoadedModel", signed: bool) -> None:
    from rich.table import Table

    from palm_serve.decoding import label_names

    manifest = model.manifest
    facts = Table.grid(padding=(0, 2))
    facts.add_row("model", f"{model.name} {model.version[:12]}")
    facts.add_row("encoder", f"{manifest.encoder.name}, {manifest.encoder.parameters:,} parameters")
    facts.add_row("maximum length", f"{manifest.max_length} tokens")
    facts.add_row("engine", f"{model.info.provider} in {model.info.precision} (variant '{model.info.variant}')")
    tasks = Table(box=None, header_style="bold")
    for column in ("task", "kind", "role", "labels"):
        tasks.add_column(column)
    for name, task in manifest.tasks.items():
        labels = tuple(task.decode.span_types) or label_names(task)
        summary = f"{len(labels)}: {', '.join(labels[:_LABELS_SHOWN])}"
        if len(labels) > _LABELS_SHOWN:
            summary += ", ..."
        tasks.add_row(name, task.kind, task.role, summary)
    proof = "golden examples answered as at export"
    if not model.proven:
        proof = "no golden example, so nothing shows that it answers as at the export"
    write_line(f"digest sha256:{model.version}")  # not in the table, which a narrow terminal cuts
    show(facts, tasks, f"verified{', signed with a trusted key' if signed else ''}, warmed up, {proof}")
