"""Printing of tables and lines on standard output."""

import sys
from typing import Any

from palm_serve.system.plain_text import plain_console


def show(renderable: Any) -> None:
    """Print on standard output, with labels and paths as plain text."""
    plain_console(soft_wrap=not sys.stdout.isatty()).print(renderable)
