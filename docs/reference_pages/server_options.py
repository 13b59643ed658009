"""The options of the server, from the fields that flags, variables and keys are made of."""

from typing import Any

from palm_serve.cli.settings import flag, variable
from palm_serve.config import GROUPS, ServeOptions
from reference_pages.markdown import code, paragraphs, prose, table
from reference_pages.schema_types import type_in_words


def options() -> str:
    """Return a section for each group of options."""
    schema = ServeOptions.model_json_schema()
    sections = []
    for group in GROUPS:
        rows = [_row(name, schema) for name in group.__annotations__]
        heading = f"## {group.__doc__}"
        sections.append(paragraphs(heading, table(["option, variable, key", "meaning", "type", "default"], rows)))
    return paragraphs(*sections)


def _row(name: str, schema: dict[str, Any]) -> list[str]:
    value = schema["properties"][name]
    option = "BUNDLE..." if name == "bundles" else flag(name)
    names = "<br>".join(map(code, (option, variable(name), name)))
    default = value.get("default")
    shown = "" if default in (None, [], "") else code(str(default).lower() if isinstance(default, bool) else default)
    return [names, prose(value.get("description", "")), type_in_words(value, schema["$defs"]), shown]
