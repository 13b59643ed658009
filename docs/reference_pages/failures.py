"""Statuses of calls and the errors behind them."""

import inspect
from collections.abc import Callable

from palm_serve import errors as serving
from palm_serve.cli.shared import _BAD_INPUT
from palm_serve.http.statuses import HTTP_STATUSES
from palm_serve.rpc.messages.status import CODES
from palm_trainer import errors as training
from reference_pages.markdown import code, prose, table

_OTHER_MEANINGS = {
    "CANCELLED": "The client left, or gRPC refused a message by its size.",
    "UNKNOWN": "An error of gRPC itself.",
}


def statuses() -> str:
    """Return the statuses of gRPC and HTTP, each with the error of the Python client."""
    names: dict[str, list[type[Exception]]] = {}
    for error, status in CODES.items():
        names.setdefault(status.name, []).append(error)
    rows = []
    for status, number in HTTP_STATUSES.items():
        if status == "OK":
            continue
        errors = names.get(status, [])
        raised = ", ".join(code(error.__name__) for error in errors)
        meaning = " ".join(prose(inspect.getdoc(error) or "") for error in errors)
        rows.append([code(status), str(int(number)), raised, meaning or _OTHER_MEANINGS[status]])
    return table(["gRPC status", "HTTP status", "error of `palm_serve`", "meaning"], rows)


def serving_errors() -> str:
    """Return the tree of errors of `palm_serve`, with the exit code of each in a command."""
    return _tree(serving.PalmServeError, lambda error: 2 if issubclass(error, _BAD_INPUT) else 1)


def training_errors() -> str:
    """Return the tree of errors of `palm_trainer`, with the exit code of each in a command."""
    return _tree(training.PalmError, lambda error: 1 if issubclass(error, training.ParityError) else 2)


def _tree(root: type[Exception], exit_code: Callable[[type[Exception]], int]) -> str:
    rows: list[list[str]] = []
    _add(root, "", rows, exit_code)
    return table(["error", "kind of", "exit code", "meaning"], rows)


def _add(
    error: type[Exception], parent: str, rows: list[list[str]], exit_code: Callable[[type[Exception]], int]
) -> None:
    meaning = (inspect.getdoc(error) or "").partition("\n\n")[0]
    rows.append([code(error.__name__), code(parent), str(exit_code(error)), prose(meaning)])
    for inner in error.__subclasses__():
        if inner.__module__ == error.__module__:
            _add(inner, error.__name__, rows, exit_code)
