"""Messages of wrong usage, whose values are the user's and may have any length."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from palm_serve.system.plain_text import plain_message

_UsageError: Any = typer.BadParameter.__base__


@contextmanager
def _shortened() -> Iterator[None]:
    """Shorten the message of an error of usage."""
    try:
        yield
    except _UsageError as error:
        error.message = plain_message(error.message, keep="\n")
        raise


class ProgramCommand(TyperCommand):
    """A program of one command, whose messages of wrong usage are shortened."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the arguments."""
        with _shortened():
            return super().make_context(*arguments, **options)


class ProgramGroup(TyperGroup):
    """A program of several commands, whose messages of wrong usage are shortened."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the arguments before the command."""
        with _shortened():
            return super().make_context(*arguments, **options)

    def invoke(self, context: Any) -> Any:
        """Parse the arguments of the command, and run it."""
        with _shortened():
            return super().invoke(context)
