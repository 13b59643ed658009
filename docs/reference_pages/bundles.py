"""The manifest of a bundle, from the models that write and read it."""

from pydantic import BaseModel

from palm_serve.bundle.manifest import Manifest
from reference_pages.markdown import paragraphs
from reference_pages.schema_tables import keys_of


def manifest() -> str:
    """Return a table of keys for the manifest and each table in it."""
    schema = Manifest.model_json_schema()
    classes = _classes()
    sections = [keys_of("manifest.json", Manifest, schema, schema["$defs"])]
    for name, definition in schema["$defs"].items():
        if name in classes:
            sections.append(keys_of(name, classes[name], definition, schema["$defs"]))
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
