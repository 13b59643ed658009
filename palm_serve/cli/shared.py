"""Helpers of all commands: errors as one line and an exit code, logging, printing."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from palm_serve.config import LogFormat, LogLevel, check_providers
from palm_serve.errors import (
    BatchError,
    BindError,
    BundleError,
    ConfigError,
    EngineError,
    InvalidRequest,
    NotAllowed,
    NotFound,
    PalmServeError,
    StorageError,
    TlsError,
    TokenFileError,
    Unauthenticated,
)
from palm_serve.system.plain_text import plain_console, plain_message
from palm_serve.system.program import OutputLost

if TYPE_CHECKING:
    from rich.console import RenderableType

_BAD_INPUT = (
    *(BatchError, BindError, BundleError, ConfigError, EngineError, TlsError, TokenFileError),
    *(StorageError, InvalidRequest, NotAllowed, NotFound, Unauthenticated),
)


@contextmanager
def report_errors() -> Iterator[None]:
    """Print an expected error as one line and exit with code 2 for bad input, else 1."""
    try:
        yield
    except PalmServeError as error:
        write_line(plain_message(f"palm-serve: {error}", keep="\n"), err=True)
        raise typer.Exit(2 if isinstance(error, _BAD_INPUT) else 1) from None
    except UnicodeEncodeError as error:
        write_line(plain_message(f"palm-serve: arguments must be valid UTF-8, got {error.object!r}"), err=True)
        raise typer.Exit(2) from None


def start_log(
    level: LogLevel, line_format: LogFormat = LogFormat.TEXT, texts: bool = False, every_call: bool = False
) -> None:
    """Send the log to standard error.

    Args:
        level: lines below this level are left out.
        line_format: text or JSON lines.
        texts: log request texts, and error messages that quote them.
        every_call: log every call except health checks.
    """
    from palm_serve.observability import configure_logging

    configure_logging(level.value, json_lines=line_format is LogFormat.JSON, texts=texts, every_call=every_call)
    # palm-serve reports a port in use itself, with more detail than grpc.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def provider_option(value: str) -> str:
    """Return the value of `--provider`. A name that is not known is wrong usage.

    Raises:
        typer.BadParameter: if a name is unknown.
    """
    try:
        return check_providers(value)
    except ValueError as error:
        raise typer.BadParameter(f"{error}, got '{value}'") from None


def write_line(line: str, *, err: bool = False) -> None:
    """Write a line to standard output or standard error, which escape what they cannot show."""
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{line}\n")
    stream.flush()


def say(line: str, *, err: bool = False) -> None:
    """Print one line. A failed write (closed pipe, full disk) is logged, because the server must go on."""
    try:
        write_line(plain_message(f"palm-serve: {line}"), err=err)
    except OutputLost as lost:
        logging.getLogger(__name__).error("%s: %s", lost, line)


def show(*renderables: "RenderableType") -> None:
    """Print rich renderables to standard output, with every text as plain text."""
    console = plain_console(highlight=False)
    for renderable in renderables:
        console.print(renderable)
