"""File formats and components, from the registries of the trainer."""

import inspect
import sys
from collections.abc import Iterable

from palm_serve.bundle.manifest import KINDS
from palm_trainer.api import backbone, head, lr_sched, optimizer, reader
from palm_trainer.config.schema import FORMAT_OPTIONS
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.writers import WRITERS
from palm_trainer.tokenization.encoder_files import NAMES
from reference_pages.markdown import code, prose, table


def formats() -> str:
    """Return the table of file formats."""
    rows = []
    for name, parse in FORMATS.items():
        summary = (sys.modules[parse.__module__].__doc__ or "").partition("\n")[0].rstrip(".")
        options = _names(sorted(FORMAT_OPTIONS[name]))
        rows.append([code(name), prose(summary), options, "yes" if name in WRITERS else ""])
    return table(["format", "holds", "options", "written"], rows)


def components() -> str:
    """Return the table of components, in a configuration and in Python."""
    encoders = f"{_names(NAMES)}, `scratch`, a directory or Hub id of any Hugging Face encoder"
    rows = [
        [code("reader"), _names(FORMATS) + " (`format`)", _classes(reader)],
        [code("backbone"), encoders + " (`encoder.model`)", _classes(backbone)],
        [code("head"), _names(KINDS) + " (`kind`)", _classes(head, of=head.DeclaredHead)],
        [
            code("lr_sched"),
            _names(lr_sched.SCHEDULES) + " (`schedule`)",
            _classes(lr_sched, without=("Planned", "Schedule")),
        ],
        [code("optimizer"), "AdamW", _classes(optimizer)],
    ]
    return table(["component", "in a configuration", "in Python"], rows)


def _classes(package: object, *, of: type = object, without: tuple[str, ...] = ()) -> str:
    """Return the classes that a package of the Python API exports.

    Args:
        package: the package.
        of: class that they are subclasses of.
        without: names that are left out.
    """
    exported = {name: getattr(package, name) for name in sorted(package.__all__) if name not in without}
    return _names(
        name for name, item in exported.items() if inspect.isclass(item) and issubclass(item, of) and item is not of
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(code, names))
