"""The command `palm-serve`. Exit codes: 0; 2 wrong usage or bad input, with one message; 1 failure."""

from palm_serve.cli.main import app, main

__all__ = ["app", "main"]
