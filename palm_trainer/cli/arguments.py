"""Arguments and options that several commands of `palm-train` have."""

from pathlib import Path
from typing import Annotated

import typer

ConfigArgument = Annotated[Path, typer.Argument(help="Configuration, TOML.", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(help="Run directory of `palm-train run`.", show_default=False)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. train.epochs=3. Repeatable."),
]
ReviewOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Decisions from the page of `palm-train health`; also data.NAME.review."),
]
PatienceOption = Annotated[
    int,
    typer.Option(
        min=1,
        max=604_800,
        metavar="SECONDS",
        help="Of several processes: end when one of them has been silent for so long.",
    ),
]
