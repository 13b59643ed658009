"""The names of the Python API, each with the first line of its docstring."""

import importlib
import inspect

from reference_pages.markdown import code, paragraphs, prose, table

_TRAINING = ("palm_trainer", "palm_trainer.reader", "palm_trainer.backbone", "palm_trainer.head")
_MORE_TRAINING = ("palm_trainer.lr_sched", "palm_trainer.optimizer")
_NOT_SHOWN = {"Planned", "Schedule", "SCHEDULES", "constant", "cosine", "linear", "noam", "locate"}
"""Names that other code of the package uses."""


def client() -> str:
    """Return the names of `palm_serve.client`."""
    return _names("palm_serve.client")


def training() -> str:
    """Return the names of `palm_trainer` and of its packages."""
    return paragraphs(*(_names(package) for package in (*_TRAINING, *_MORE_TRAINING)))


def _names(package: str) -> str:
    head, _, tail = package.partition(".")
    module = importlib.import_module(head)
    if tail:
        module = getattr(module, tail) if head == "palm_trainer" else importlib.import_module(package)
    rows = []
    for name in module.__all__:
        value = getattr(module, name)
        if name in _NOT_SHOWN or inspect.ismodule(value) or not callable(value):
            continue
        summary = (inspect.getdoc(value) or "").partition("\n")[0]
        rows.append([code(f"{package}.{name}"), prose(summary)])
    return table(["name", "what it is"], rows)
