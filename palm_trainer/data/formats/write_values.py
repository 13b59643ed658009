"""Writers of what values of slots stand for, for the formats that hold it, and the comparison of what was read back."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from palm_serve.bundle.values_file import SlotValues, value_key
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.data.formats.write_nested import yaml_scalar
from palm_trainer.data.found_values import ALL_SLOTS, FoundValues

SYNONYM_LOST = "synonym of a value: left out"
VALUE_LOST = "value of a list: left out"
PATTERN_LOST = "regular expression of values: left out"
_OPEN_LOOKUP = "values"
"""Name of Rasa's lookup with the values of all slots."""

Values: TypeAlias = Mapping[str, SlotValues]
WriteValues: TypeAlias = Callable[[Path, FoundValues, Collection[str]], None]


def _write_jsonl(path: Path, source_values: FoundValues, slots: Collection[str]) -> None:
    """Put lines of values behind the rows of a file.

    Args:
        path: file with the rows.
        source_values: the values.
        slots: names of the slots in the rows.
    """
    lines = []
    for slot, table in source_values.by_slot(slots).items():
        lists = _wordings_by_value(table, set(source_values.wordings(slot)))
        if lists:
            lines.append(json.dumps({"values": {slot: lists}}, ensure_ascii=False))
        for name, patterns in _patterns_by_name(slot, table).items():
            lines.append(json.dumps({"patterns": {name: patterns}}, ensure_ascii=False))
    path.write_bytes(path.read_bytes() + _as_bytes(lines))


def _write_rasa(path: Path, source_values: FoundValues, slots: Collection[str]) -> None:
    """Put the sections `synonym`, `lookup` and `regex` behind the intents of a file. Rasa's synonyms are for all slots.

    Args:
        path: file with the intents.
        source_values: the values.
        slots: names of the slots in the rows.
    """
    synonyms: dict[str, list[str]] = {}
    lookups: dict[str, list[str]] = {}
    patterns: dict[str, list[str]] = {}
    canonical_by_key: dict[str, str] = {}
    for slot, table in source_values.by_slot(slots).items():
        for text, canonical in table.synonyms.items():
            if canonical_by_key.setdefault(value_key(text), canonical) == canonical:
                synonyms.setdefault(canonical, []).append(text)
        canonicals = set(table.synonyms.values())
        wordings = set(source_values.wordings(slot))
        values = [text for text in table.values if text in wordings or text not in canonicals]
        name = slot or (_OPEN_LOOKUP if _OPEN_LOOKUP not in slots else f"{_OPEN_LOOKUP} of all slots")
        lookups.setdefault(name, []).extend(values)
        patterns |= _patterns_by_name(slot, table)
    lines: list[str] = []
    for section, items_by_name in (("synonym", synonyms), ("lookup", lookups), ("regex", patterns)):
        for name, items in items_by_name.items():
            lines += _rasa_section(section, name, items)
    path.write_bytes(path.read_bytes() + _as_bytes(lines))


def _as_bytes(lines: Sequence[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def _rasa_section(section: str, name: str, items: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a section. A block of lines cannot hold every text."""
    texts = [text for text in dict.fromkeys(items) if text.isprintable() and text == text.strip()]
    if texts:
        yield f"- {section}: {yaml_scalar(name)}"
        yield "  examples: |"
        for text in texts:
            yield f"    - {text}"


WRITE_VALUES: Mapping[str, WriteValues] = {"jsonl": _write_jsonl, "rasa": _write_rasa}
"""Formats that hold values. They are added to a file that is written already."""


def _wordings_by_value(table: SlotValues, wordings: Collection[str]) -> dict[str, list[str]]:
    """Return the wordings of each value. A value that users say too is the first of its own, where there are others."""
    lists: dict[str, list[str]] = {value: [] for value in table.values}
    for text, canonical in table.synonyms.items():
        lists.setdefault(canonical, []).append(text)
    for canonical, texts in lists.items():
        if texts and canonical in wordings:
            texts.insert(0, canonical)
    return lists


def _patterns_by_name(slot: str, table: SlotValues) -> dict[str, list[str]]:
    """Return the patterns of a slot under its name, and those of all slots under their own."""
    patterns: dict[str, list[str]] = {}
    for pattern in table.patterns:
        patterns.setdefault(pattern.name if slot == ALL_SLOTS else slot, []).append(pattern.pattern)
    return patterns


def note_lost_values(
    source_values: FoundValues, copy: FoundValues | None, slots: Collection[str], source: str, losses: Defects
) -> None:
    """Count the values that a copy does not hold, or under another meaning.

    Args:
        source_values: values of the source.
        copy: values that were read back. None: the format holds none.
        slots: names of the slots in the rows.
        source: the source, for messages.
        losses: tally of what is lost.
    """
    before = source_values.by_slot(slots)
    after = {} if copy is None else copy.by_slot(slots)
    common = after.get(ALL_SLOTS, SlotValues())
    for slot, table in before.items():
        held_tables = (after.get(slot, SlotValues()), common)
        meanings: dict[str, str] = {}
        patterns = set()
        for held_table in held_tables:
            for text, canonical in held_table.synonyms.items():
                meanings.setdefault(value_key(text), canonical)
            for text in held_table.values:
                meanings.setdefault(value_key(text), text)
            patterns |= {pattern.pattern for pattern in held_table.patterns}
        held_keys = {*meanings, *map(value_key, meanings.values())}
        counts = {
            SYNONYM_LOST: sum(meanings.get(value_key(text)) != value for text, value in table.synonyms.items()),
            VALUE_LOST: sum(value_key(text) not in held_keys for text in table.values),
            PATTERN_LOST: sum(pattern.pattern not in patterns for pattern in table.patterns),
        }
        for kind, count in counts.items():
            if count:
                losses.add(kind, source, count)
