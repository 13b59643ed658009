"""The command `palm-serve`. Exit codes: 0 success, 1 failure, 2 wrong usage or bad input with one message."""

from palm_serve.cli.main import app, main

__all__ = ["app", "main"]
