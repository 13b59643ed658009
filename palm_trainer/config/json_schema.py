"""JSON schema (draft 2020-12) of a configuration, for editors and the reference."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from palm_trainer.config.schema import (
    DATA_FORMATS,
    ENCODERS,
    TASK_KINDS,
    ConfigSection,
    SectionUnion,
    TaskConfig,
    TrainConfig,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAME = "^[A-Za-z_][A-Za-z0-9_-]*$"


class _WithoutTitles(GenerateJsonSchema):
    """Generator that adds no titles to keys, which would repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file, with descriptions and defaults.

    Kinds that were added to `TASK_KINDS` are part of it. Rules between keys are not: `palm-train plan` checks them.
    """
    unions = (ENCODERS, DATA_FORMATS, TASK_KINDS)
    models: list[type[BaseModel]] = [TrainConfig]
    for union in unions:
        models += union.models()
    inputs = [(model, "validation") for model in models]
    _, schema = models_json_schema(inputs, schema_generator=_WithoutTitles)  # type: ignore[arg-type]
    definitions: dict[str, Any] = schema["$defs"]
    for union in unions:
        for section in union.models():
            _describe_tag(definitions[section.__name__], union)
    for task in TASK_KINDS.models():
        _narrow_roles(definitions[task.__name__], task)
    for definition in definitions.values():
        for key, value in definition["properties"].items():
            definition["properties"][key] = _without_null(value)
    definitions["TrainConfig"]["required"].remove("output")  # --output may give it
    if not definitions["TrainConfig"]["required"]:
        del definitions["TrainConfig"]["required"]
    definitions["PretrainedEncoderConfig"]["properties"]["model"]["not"] = {"const": "scratch"}
    return {
        "$schema": DIALECT,
        "title": "Configuration of palm-train",
        "type": "object",
        "additionalProperties": False,
        "required": ["data", "tasks"],
        "properties": {
            "encoder": _one_of(ENCODERS, "The shared encoder."),
            "data": _named(DATA_FORMATS, "Data sets by name."),
            "tasks": _named(TASK_KINDS, "Tasks by name."),
            "train": {"$ref": "#/$defs/TrainConfig"},
        },
        "$defs": definitions,
    }


def _describe_tag(definition: dict[str, Any], union: SectionUnion[Any]) -> None:
    """Add the description of the base's tag, and the values of a tag that a member does not narrow."""
    tag = definition["properties"][union.tag]
    tag.setdefault("description", union.base.model_fields[union.tag].description)
    if union.otherwise is None and "const" not in tag and "enum" not in tag:
        tag["enum"] = []
        for value, model in union.members.items():
            if model.__name__ == definition["title"]:
                tag["enum"].append(value)


def _without_null(value: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a key without null, which TOML does not have: such a key is left out."""
    alternatives = [item for item in value.get("anyOf", ()) if item != {"type": "null"}]
    schema = dict(value)
    if schema.get("default", ...) is None:
        del schema["default"]
    if len(alternatives) == 1:
        del schema["anyOf"]
        return {**alternatives[0], **schema}
    return schema


def _narrow_roles(definition: dict[str, Any], model: type[TaskConfig]) -> None:
    definition["properties"]["role"]["enum"] = ["", *model.possible_roles]


def _one_of(union: SectionUnion[Any], description: str) -> dict[str, Any]:
    return {"description": description, "oneOf": _references(union.models())}


def _named(union: SectionUnion[Any], description: str) -> dict[str, Any]:
    """Return the schema of a table that holds sections of a union by name."""
    return {
        "type": "object",
        "description": description,
        "minProperties": 1,
        "additionalProperties": {"oneOf": _references(union.models())},
        "propertyNames": {"pattern": _NAME},
    }


def _references(models: Iterable[type[ConfigSection]]) -> list[dict[str, str]]:
    return [{"$ref": f"#/$defs/{model.__name__}"} for model in models]
