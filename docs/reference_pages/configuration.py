"""The keys of a configuration, from its schema."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from palm_trainer.config.json_schema import config_schema
from palm_trainer.config.moved_keys import MOVED_KEYS
from palm_trainer.config.schema import (
    DATA_FORMATS,
    ENCODERS,
    TASK_KINDS,
    ConfigSection,
    SectionUnion,
    TrainConfig,
    inner_section,
)
from reference_pages.markdown import code, paragraphs, prose, table
from reference_pages.schema_types import type_in_words

_HEADS = ["key", "meaning", "type", "default"]


@dataclass(frozen=True)
class _Row:
    key: str
    kind: str
    default: str
    meaning: str

    def cells(self) -> list[str]:
        return [code(self.key), self.meaning, self.kind, self.default]


_schema = cache(config_schema)


def encoder() -> str:
    """Return the keys of `[encoder]`."""
    return _union(ENCODERS, {"scratch": '`model = "scratch"`', "otherwise": "a pretrained encoder"}, "encoders")


def data() -> str:
    """Return the keys of `[data.NAME]`."""
    return _union(DATA_FORMATS, {}, "formats")


def tasks() -> str:
    """Return the keys of `[tasks.NAME]`."""
    return _union(TASK_KINDS, {}, "kinds")


def train() -> str:
    """Return the keys of `[train]` and of the tables in it."""
    return paragraphs(_keys_of(TrainConfig), *_inner_sections(TrainConfig, "train"))


def moved() -> str:
    """Return the keys that have a new place."""
    return table(["old key", "new key"], [[code(old), code(new)] for old, new in MOVED_KEYS.items()])


def _keys_of(section: type[ConfigSection]) -> str:
    """Return the table of a section's own keys."""
    return table(_HEADS, [row.cells() for row in _rows(section) if not inner_section(section, row.key)])


def _inner_sections(section: type[ConfigSection], path: str) -> Iterator[str]:
    """Yield each section within a section, at any depth, with its heading.

    Args:
        section: the outer section.
        path: its dotted name.
    """
    for key in section.model_fields:
        inner = inner_section(section, key)
        if inner is not None:
            yield paragraphs(f"### [{path}.{key}]", prose(inner.__doc__ or ""), _keys_of(inner))
            yield from _inner_sections(inner, f"{path}.{key}")


def _union(union: SectionUnion[Any], words: dict[str, str], what: str) -> str:
    """Return the table of a union: keys that all members share, then those of some.

    Args:
        union: the sections.
        words: what a row says in place of a tag.
        what: the members in the heading of the last column.
    """
    tags = dict(union.members)
    if union.otherwise is not None:
        tags["otherwise"] = union.otherwise
    found: dict[_Row, list[str]] = {}
    for tag, model in tags.items():
        for row in _rows(model):
            if row.key != union.tag:
                found.setdefault(row, []).append(words.get(tag, code(tag)))
    lines = [[*_tag_row(union).cells(), "all"]]
    for everywhere in (True, False):
        for row, members in found.items():
            if (len(members) == len(tags)) == everywhere:
                lines.append([*row.cells(), "all" if everywhere else ", ".join(members)])
    return table([*_HEADS, what], lines)


def _tag_row(union: SectionUnion[Any]) -> _Row:
    field = union.base.model_fields[union.tag]
    kind = "text" if union.otherwise is not None else ", ".join(map(code, union.members))
    default = code(json.dumps(union.default)) if union.default else "required"
    return _Row(union.tag, kind, default, prose(field.description or ""))


def _rows(model: Any) -> Iterator[_Row]:
    schema = _schema()
    definitions = schema["$defs"]
    definition = definitions[model.__name__]
    for key, value in definition["properties"].items():
        default = value.get("default")
        required = key in definition.get("required", ())
        shown = "required" if required else "" if default in (None, [], {}, "") else code(json.dumps(default))
        yield _Row(key, type_in_words(value, definitions), shown, _meaning(value.get("description", "")))


def _meaning(description: str) -> str:
    """Return a description in the words of a file, where a key is unset and not None."""
    return prose(re.sub(r"\bNone: ", "Unset: ", description))
