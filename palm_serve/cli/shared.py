"""What the commands share: faults as one line and an exit code, the log, printing."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from palm_serve.config import LogFormat, LogLevel
from palm_serve.errors import (
    BindError,
    BundleError,
    ConfigError,
    EngineError,
    InvalidRequest,
    NotAllowed,
    NotFound,
    PalmServeError,
    TlsError,
    TokenFileError,
    Unauthenticated,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

_BAD_INPUT = (
    *(BindError, BundleError, ConfigError, EngineError, TlsError, TokenFileError),
    *(InvalidRequest, NotAllowed, NotFound, Unauthenticated),
)


@contextmanager
def faults() -> Iterator[None]:
    """Turns errors that are meant for the reader into one line and an exit code."""
    try:
        yield
    except PalmServeError as error:
        typer.echo(f"palm-serve: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, _BAD_INPUT) else 1) from None


def start_log(level: LogLevel, form: LogFormat = LogFormat.TEXT, texts: bool = False, every_call: bool = False) -> None:
    """Sends the log to standard error."""
    from palm_serve.observability import configure_logging

    configure_logging(level.value, json_lines=form is LogFormat.JSON, texts=texts, every_call=every_call)
    # grpc's own lines about a port that is taken say less than ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def say(line: str, *, err: bool = False) -> None:
    """One line for whoever started a server, who may have left or have no room: that is no reason to stop serving."""
    try:
        typer.echo(f"palm-serve: {line}", err=err)
    except OSError as error:
        logging.getLogger(__name__).error("cannot be written: %s: %s", error.strerror, line)


def show(*parts: "RenderableType") -> None:
    """Prints for a person."""
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        console.print(part)
