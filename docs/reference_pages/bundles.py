"""The manifest of a bundle, from the models that write and read it."""

from typing import Any

from pydantic import BaseModel

from palm_serve.bundle.manifest import Manifest
from reference_pages.attribute_docs import attribute_docs
from reference_pages.markdown import code, paragraphs, prose, table
from reference_pages.schema_types import type_in_words


def manifest() -> str:
    """Return a table of keys for the manifest and each table in it."""
    schema = Manifest.model_json_schema()
    classes = _classes()
    sections = [_section("manifest.json", Manifest, schema, schema["$defs"])]
    for name, definition in schema["$defs"].items():
        if name in classes:
            sections.append(_section(name, classes[name], definition, schema["$defs"]))
    return paragraphs(*sections)


def _classes() -> dict[str, type[BaseModel]]:
    """Return the models of the bundle's files, by name."""
    found: dict[str, type[BaseModel]] = {}
    waiting: list[type[BaseModel]] = [BaseModel]
    while waiting:
        for inner in waiting.pop().__subclasses__():
            waiting.append(inner)
            if inner.__module__.startswith("palm_serve.bundle."):
                found[inner.__name__] = inner
    return found


def _section(title: str, model: type[BaseModel], schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    docs = attribute_docs(model)
    rows = []
    for key, value in schema["properties"].items():
        required = key in schema.get("required", ())
        default = "required" if required else _default(value.get("default"))
        rows.append([code(key), _linked(value, definitions), default, prose(docs.get(key, ""))])
    return paragraphs(f"### {title}", prose(model.__doc__ or ""), table(["key", "type", "default", "meaning"], rows))


def _default(value: object) -> str:
    if value is None or value in ("", [], {}) or isinstance(value, dict):
        return ""
    return code(str(value).lower() if isinstance(value, bool) else value)


def _linked(value: dict[str, Any], definitions: dict[str, Any]) -> str:
    words = type_in_words(value, definitions)
    for name in definitions:
        words = words.replace(f"table `{name}`", f"[{name}](#{name.lower()})")
    return words
