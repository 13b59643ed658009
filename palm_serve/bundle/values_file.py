"""Schema of `values.json`: what values of spans stand for. The exporter writes these models, and the server reads them."""

import unicodedata
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from palm_serve.bundle.manifest import TaskInfo

MAX_TEXT = 1000
"""Characters of a value, a synonym or a pattern."""
MAX_PATTERNS = 1000
"""Patterns of a bundle. A value is compared with all that are for its slot."""
ANY_SLOT = ""
"""Key of what holds for all slots of a task."""
RESOLVERS = ("date", "duration", "money", "number", "ordinal", "time")
"""Names of the resolvers, which read values of any wording."""

Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
ResolverName = Literal["", "date", "duration", "money", "number", "ordinal", "time"]


def value_key(text: str) -> str:
    """Return the form in which values are compared: without case, width of letters and further white space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pattern(_Strict):
    """A regular expression (RE2) for whole values, and its name, which is the kind of the values that it fits."""

    name: Text
    pattern: Text


class SlotValues(_Strict):
    """What the values of one slot stand for, in the order in which they are tried."""

    synonyms: dict[Text, Text] = {}
    """Canonical value by another wording of it."""
    values: tuple[Text, ...] = ()
    """Canonical values."""
    resolver: ResolverName = ""
    """Resolver that reads the values. Empty: none."""
    patterns: tuple[Pattern, ...] = ()


class ValuesFile(_Strict):
    """Contents of `values.json`."""

    format_version: Literal[1] = 1
    tasks: dict[str, dict[str, SlotValues]] = {}
    """By task, and by name of the slot. ANY_SLOT holds what is for all slots, after that of the slot itself."""

    @model_validator(mode="after")
    def _check(self) -> "ValuesFile":
        pattern_count = 0
        for slots in self.tasks.values():
            for slot in slots.values():
                pattern_count += len(slot.patterns)
        if pattern_count > MAX_PATTERNS:
            raise ValueError(f"patterns must be at most {MAX_PATTERNS:,}, got {pattern_count:,}")
        return self

    @property
    def resolvers(self) -> set[str]:
        """Names of the resolvers that it needs."""
        names: set[str] = set()
        for slots in self.tasks.values():
            for slot in slots.values():
                names.add(slot.resolver)
        return names - {""}


def check_tasks(values: ValuesFile, tasks: Mapping[str, TaskInfo]) -> None:
    """Check that values are for spans that the tasks of a bundle answer.

    Args:
        values: the values.
        tasks: tasks of the manifest.

    Raises:
        ValueError: a task or a slot is not among them.
    """
    for task, slots in values.tasks.items():
        if task not in tasks:
            raise ValueError(f"it names the task '{task[:80]}', which the manifest lacks")
        names = {ANY_SLOT}
        for tag in tasks[task].labels:
            if tag.startswith(("B-", "I-")):
                names.add(tasks[task].span_type(tag).name)
        for slot in slots:
            if slot not in names:
                raise ValueError(f"it names the slot '{slot[:80]}', which task '{task}' does not answer")
