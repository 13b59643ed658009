"""Base of the configuration's sections, and unions of sections that a tag tells apart."""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

Table = Mapping[str, Any]
"""A section as the file has it, before it is checked."""


def as_tuple(value: object) -> object:
    """Return a tuple for a list, any other value as it is."""
    return tuple(value) if isinstance(value, list) else value


def _as_path(value: object) -> object:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("must be a path")
    if "\0" in str(value):
        raise ValueError("must not hold a zero byte")
    return Path(value).expanduser()


def _as_runs(value: object) -> object:
    """Return a tuple of paths for a path or a list of paths."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(map(_as_path, values))


def _as_data_paths(value: object, info: ValidationInfo) -> tuple[Path, ...]:
    """Return absolute paths for a path or a list of paths. Names of a hub (`hf://...`) stay as they are.

    The base directory comes in the validation context.
    """
    values = value if isinstance(value, list | tuple) else [value]
    base: Path = (info.context or {}).get("base", Path())
    paths = []
    for item in values:
        if not isinstance(item, str | Path) or not str(item):
            raise ValueError("must be a path or a list of paths")
        if "\0" in str(item):
            raise ValueError("must not hold a zero byte")
        is_hub_name = str(item).startswith("hf:/")
        paths.append(Path(item if is_hub_name else os.path.normpath(base / Path(item).expanduser())))
    return tuple(paths)


PACKAGED_TEXTS = ("general-en", "general-en-train", "general-en-test")
"""Names of texts that are installed with the package."""


def _as_unlabelled_paths(value: object, info: ValidationInfo) -> object:
    """Return paths as `_as_data_paths` does. Names of packaged texts stay as they are."""
    values = value if isinstance(value, list | tuple) else [value]
    paths: list[Path] = []
    for item in values:
        if str(item) in PACKAGED_TEXTS:
            paths.append(Path(str(item)))
        else:
            paths.extend(_as_data_paths(item, info))
    return tuple(paths)


_ONE_OR_MORE = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}},
    ]
}

DataPaths = Annotated[tuple[Path, ...], BeforeValidator(_as_data_paths), WithJsonSchema(_ONE_OR_MORE)]
"""Data files: a path or a list of paths, relative to the configuration file."""
UnlabelledPaths = Annotated[tuple[Path, ...], BeforeValidator(_as_unlabelled_paths), WithJsonSchema(_ONE_OR_MORE)]
"""Data files without labels, or names of PACKAGED_TEXTS."""
RunPaths = Annotated[tuple[Path, ...], BeforeValidator(_as_runs), WithJsonSchema(_ONE_OR_MORE)]
"""Run directories: a path or a list of paths, relative to the working directory."""
OutputPath = Annotated[Path, BeforeValidator(_as_path), WithJsonSchema({"type": "string", "minLength": 1})]
Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
MAX_LENGTH = 8192
MAX_COUNT = 1_000_000
MAX_EPOCHS = 100_000
MAX_RATE = 10
"""Limits of tokens, of batches and other counts, of epochs and of learning rates. They are far above every sensible
value: a value beyond them is a slip that would end in a crash, a hang or a model of NaN."""
Positive = Annotated[float, Field(gt=0, le=1_000_000)]
LearningRate = Annotated[float, Field(gt=0, le=MAX_RATE)]
Epochs = Annotated[float, Field(gt=0, le=MAX_EPOCHS)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Penalty = Annotated[float, Field(ge=0, le=1000)]


class ConfigSection(BaseModel):
    """Base of the sections: frozen and strict. Unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    @classmethod
    def faults_between_keys(cls, table: Table) -> Iterator[tuple[str, str]]:
        """Yield key and message of each fault between the keys of this section. The message continues the key.

        Args:
            table: the section as the file has it. Values of a wrong type are passed over: the field check names them.
        """
        yield from ()


SectionT = TypeVar("SectionT", bound=ConfigSection)


@dataclass(frozen=True)
class SectionUnion(Generic[SectionT]):
    """Sections of one place that differ by the value of one key, the tag.

    Attributes:
        tag: the key that chooses the section.
        base: what all members have in common.
        members: section by value of the tag. A new member is added here.
        otherwise: section of every other value of the tag. None: other values are refused.
        default: value of a tag that is left out. None: the tag is required.
    """

    tag: str
    base: type[SectionT]
    members: MutableMapping[str, type[SectionT]]
    otherwise: type[SectionT] | None = None
    default: str | None = None

    def tag_value(self, table: Table) -> object:
        """Return the tag of a raw table."""
        return table.get(self.tag, self.default)

    def choose(self, table: Table) -> type[SectionT] | None:
        """Return the section of a raw table, None where its tag is unknown."""
        value = self.tag_value(table)
        if not isinstance(value, str):
            return None
        return self.members.get(value, self.otherwise)

    def models(self) -> list[type[SectionT]]:
        """Return all sections, each once."""
        models = [*self.members.values()]
        if self.otherwise is not None:
            models.append(self.otherwise)
        return list(dict.fromkeys(models))

    def tags_with(self, key: str) -> list[str]:
        """Return the tags of the sections that have a key."""
        tags = []
        for tag, model in self.members.items():
            if key in model.model_fields:
                tags.append(tag)
        return tags

    def all_keys(self) -> dict[str, None]:
        """Return the keys of all sections, in order."""
        keys: dict[str, None] = {}
        for model in [self.base, *self.models()]:
            keys.update(dict.fromkeys(model.model_fields))
        return keys


def inner_section(model: type[ConfigSection], key: str) -> type[ConfigSection] | None:
    """Return the section that a key of another section holds, None where the key holds a value."""
    field = model.model_fields.get(key)
    annotation = None if field is None else field.annotation
    for candidate in (annotation, *get_args(annotation)):  # also a section that may be missing
        if isinstance(candidate, type) and issubclass(candidate, ConfigSection):
            return candidate
    return None


def key_paths(model: type[ConfigSection]) -> dict[str, str]:
    """Return the dotted path of each key of a section, by the key's own name and by its path.

    A key of an inner section is found by its own name where the outer section has no key of that name.
    """
    paths = dict(zip(model.model_fields, model.model_fields, strict=True))
    for name in model.model_fields:
        inner = inner_section(model, name)
        for key in () if inner is None else inner.model_fields:
            paths.setdefault(key, f"{name}.{key}")
            paths[f"{name}.{key}"] = f"{name}.{key}"
    return paths
