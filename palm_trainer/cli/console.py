"""Printing of tables and lines on standard output."""

import sys
from typing import Any

from rich.console import Console


def show(renderable: Any) -> None:
    """Print on standard output, without markup for brackets and colons in labels and paths."""
    Console(soft_wrap=not sys.stdout.isatty(), markup=False, emoji=False).print(renderable)
