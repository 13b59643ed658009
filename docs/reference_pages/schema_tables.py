"""Tables of the keys of pydantic models."""

from typing import Any

from pydantic import BaseModel

from reference_pages.attribute_docs import attribute_docs
from reference_pages.markdown import code, paragraphs, prose, table
from reference_pages.schema_types import type_in_words


def keys_of(title: str, model: type[BaseModel], schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return a heading, the docstring of a model, and a table of its keys.

    Args:
        title: the heading.
        model: the model.
        schema: its JSON schema.
        definitions: the schemas that it refers to, by name. They have headings of their own.
    """
    docs = attribute_docs(model)
    rows = []
    for key, value in schema["properties"].items():
        default = "required" if key in schema.get("required", ()) else _default(value.get("default"))
        rows.append([code(key), prose(docs.get(key, "")), _linked(value, definitions), default])
    return paragraphs(f"### {title}", prose(model.__doc__ or ""), table(["key", "meaning", "type", "default"], rows))


def models_of(package: str) -> dict[str, type[BaseModel]]:
    """Return the models of the modules whose names begin so, by name. The modules must be imported."""
    found: dict[str, type[BaseModel]] = {}
    waiting: list[type[BaseModel]] = [BaseModel]
    while waiting:
        for inner in waiting.pop().__subclasses__():
            waiting.append(inner)
            if inner.__module__.startswith(package):
                found[inner.__name__] = inner
    return found


def _default(value: object) -> str:
    if value is None or value in ("", [], {}) or isinstance(value, dict):
        return ""
    return code(str(value).lower() if isinstance(value, bool) else value)


def _linked(value: dict[str, Any], definitions: dict[str, Any]) -> str:
    words = type_in_words(value, definitions)
    for name in definitions:
        words = words.replace(f"table `{name}`", f"[{name}](#{name.lower()})")
    return words
