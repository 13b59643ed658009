"""The manifest of a bundle, from the models that write and read it."""

from palm_serve.bundle.manifest import Manifest
from reference_pages.markdown import paragraphs
from reference_pages.schema_tables import keys_of, models_of


def manifest() -> str:
    """Return a table of keys for the manifest and each table in it."""
    schema = Manifest.model_json_schema()
    classes = models_of("palm_serve.bundle.")
    sections = [keys_of("manifest.json", Manifest, schema, schema["$defs"])]
    for name, definition in schema["$defs"].items():
        if name in classes:
            sections.append(keys_of(name, classes[name], definition, schema["$defs"]))
    return paragraphs(*sections)
