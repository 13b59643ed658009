"""Lists and patterns of one task: the meaning of a value that the data of the bundle tells."""

import json
from collections.abc import Mapping
from typing import Any

from palm_serve.bundle.values_file import ANY_SLOT, Pattern, SlotValues, value_key
from palm_serve.types import ResolvedValue

SYNONYM, VALUE = "synonym", "value"
"""Kinds of values: another wording of a canonical value, and a canonical value itself."""
_PATTERN_MEMORY = 256 << 10
"""Bytes that RE2 may use for one pattern. It refuses to compile patterns that need more."""
_MAX_MATCHED = 200
"""Characters of a value that is compared with patterns."""


class CompiledPattern:
    """A pattern for whole values. RE2 reads a value in linear time, whatever the pattern."""

    def __init__(self, pattern: Pattern) -> None:
        self.name = pattern.name
        self._expression = compile_pattern(pattern.pattern)

    def fits(self, text: str) -> bool:
        """Return True if the pattern describes the whole value."""
        return self._expression.fullmatch(text) is not None


def compile_pattern(pattern: str) -> Any:
    """Compile a pattern that ignores case.

    Raises:
        ValueError: it is no expression of RE2, or needs too much memory.
    """
    import re2  # Imported here: most bundles have no patterns.

    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0]
        raise ValueError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None


class KnownValues:
    """Meaning of the values of one task.

    Args:
        slots: what the bundle knows, by slot.
    """

    def __init__(self, slots: Mapping[str, SlotValues]) -> None:
        self._by_slot: dict[str, dict[str, ResolvedValue]] = {}
        self._patterns: dict[str, list[CompiledPattern]] = {}
        for name, slot in slots.items():
            self._by_slot[name] = _index(name, slot)
            self._patterns[name] = list(map(CompiledPattern, slot.patterns))

    def find(self, slot: str, text: str) -> ResolvedValue | None:
        """Return the meaning by the lists, those of the slot first.

        Args:
            slot: name of the slot.
            text: the value.
        """
        key = value_key(text)
        for name in (slot, ANY_SLOT):
            resolved = self._by_slot.get(name, {}).get(key)
            if resolved is not None:
                return resolved
        return None

    def match(self, slot: str, text: str) -> ResolvedValue | None:
        """Return the meaning by the first pattern that fits.

        Args:
            slot: name of the slot.
            text: the value.
        """
        if len(text) > _MAX_MATCHED:
            return None
        for name in (slot, ANY_SLOT):
            for pattern in self._patterns.get(name, ()):
                if pattern.fits(text):
                    return ResolvedValue(text, pattern.name, _to_json(text))
        return None


def _index(name: str, slot: SlotValues) -> dict[str, ResolvedValue]:
    """Return the meaning of each value of the lists of one slot, by its key.

    Raises:
        ValueError: a wording stands for two values.
    """
    index: dict[str, ResolvedValue] = {}
    for text in slot.values:
        index[value_key(text)] = ResolvedValue(text, VALUE, _to_json(text))
    synonyms: dict[str, str] = {}
    for text, canonical in slot.synonyms.items():
        key = value_key(text)
        if synonyms.setdefault(key, canonical) != canonical:
            raise ValueError(f"slot '{name[:80]}' has two values for '{text[:80]}'")
        index[key] = ResolvedValue(canonical, SYNONYM, _to_json(canonical))
    return index


def _to_json(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
