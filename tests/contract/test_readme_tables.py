"""README's tables of formats and components say what the registries hold. A failure prints the table as it should be."""

import inspect
import re
import sys
from pathlib import Path

import pytest

from palm_serve.bundle.manifest import KINDS
from palm_trainer.api import backbone, head, lr_sched, optimizer, reader
from palm_trainer.config.schema import FORMAT_OPTIONS
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.writers import WRITERS
from palm_trainer.tokenization.encoder_files import NAMES

README = Path(__file__).parents[2] / "README.md"


def _formats() -> list[str]:
    rows = ["| format | holds | options | written |", "|---|---|---|---|"]
    for name, parse in FORMATS.items():
        said = (sys.modules[parse.__module__].__doc__ or "").partition("\n")[0].rstrip(".")
        options = ", ".join(f"`{option}`" for option in sorted(FORMAT_OPTIONS[name]))
        rows.append(f"| `{name}` | {said} | {options} | {'yes' if name in WRITERS else ''} |")
    return rows


def _classes(package: object, *, of: type = object, without: tuple[str, ...] = ()) -> str:
    """The classes that a package of the Python API exports."""
    exported = {name: getattr(package, name) for name in sorted(package.__all__) if name not in without}
    return _names(
        n for n, item in exported.items() if inspect.isclass(item) and issubclass(item, of) and item is not of
    )


def _names(names: object) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _components() -> list[str]:
    kinds = KINDS
    encoders = f"{_names(NAMES)}, `scratch`, a directory or Hub id of any Hugging Face encoder"
    rows = [
        ("`reader`", _names(FORMATS) + " (`format`)", _classes(reader)),
        ("`backbone`", encoders + " (`encoder.model`)", _classes(backbone)),
        ("`head`", _names(kinds) + " (`kind`)", _classes(head, of=head.DeclaredHead)),
        (
            "`lr_sched`",
            _names(lr_sched.SCHEDULES) + " (`schedule`)",
            _classes(lr_sched, without=("Planned", "Schedule")),
        ),
        ("`optimizer`", "AdamW", _classes(optimizer)),
    ]
    return [
        "| component | in a configuration | in Python |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


@pytest.mark.parametrize(("section", "rows"), [("formats", _formats), ("components", _components)])
def test_table_is_what_the_registry_says(section, rows):
    wanted = "\n".join(rows())
    found = re.search(rf"<!-- {section} -->\n(.*?)\n<!-- /{section} -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"README.md has no section <!-- {section} --> ... <!-- /{section} -->; it should hold:\n{wanted}"
    assert found[1] == wanted, f"README.md's table is stale; put this between <!-- {section} --> and its end:\n{wanted}"
