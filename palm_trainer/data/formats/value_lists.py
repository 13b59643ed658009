"""Lines of jsonl that say what values of slots stand for."""

from typing import Any

from palm_trainer.data.formats.text_files import Defects
from palm_trainer.errors import DataError

VALUE_KEYS = frozenset(("values", "patterns"))
"""Keys of such a line. It has no text."""
_SHAPE = '{"values": {SLOT: {VALUE: [WORDING, ...]}}, "patterns": {NAME: [REGEX, ...]}}'


def add_values(row: dict[str, Any], source: str, defects: Defects) -> None:
    """Keep the values of a line.

    Args:
        row: its content.
        source: `file:line`, for messages.
        defects: holds the values.

    Raises:
        DataError: it has another structure, or a wording stands for two values.
    """
    for slot, lists in _table(row.get("values", {}), source).items():
        for canonical, wordings in _table(lists, source).items():
            defects.values.add_synonyms(slot, canonical, _strings(wordings, source), source)
    for name, patterns in _table(row.get("patterns", {}), source).items():
        for pattern in _strings(patterns, source):
            defects.values.add_pattern(name, pattern, source)


def _table(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _fault(value, source)
    return value


def _strings(value: Any, source: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _fault(value, source)
    return value


def _fault(value: Any, source: str) -> DataError:
    return DataError(f"{source}: a line of values must be {_SHAPE}, got {value!r}. Correct it.")
