"""Values that files hold beside their examples: synonyms, lists and patterns, for the answers of a server.

A list has a name: that of a slot, that of a type which slots use, or ALL_SLOTS.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from palm_serve.bundle.values_file import ANY_SLOT, MAX_PATTERNS, MAX_TEXT, Pattern, SlotValues, value_key
from palm_serve.values import compile_pattern
from palm_trainer.errors import DataError

ALL_SLOTS = ANY_SLOT
"""Name of the list for all slots."""
_TYPE = "type: "
"""Begin of the names of lists that are types, so that no slot is taken for one."""
TOO_LONG = f"value, synonym or pattern of over {MAX_TEXT:,} characters (passed over)"
NOT_READ = "regular expression that RE2 cannot read (passed over)"
FURTHER_PATTERNS = f"regular expression after the first {MAX_PATTERNS:,} (passed over)"
BLANK = "value, synonym or pattern without a character (passed over)"

Note: TypeAlias = Callable[[str, str], None]
"""Counts a defect, by its kind and its `file:line`."""


@dataclass(frozen=True, slots=True)
class _Synonym:
    """A wording, the value that it stands for, and the `file:line` that says so."""

    text: str
    canonical: str
    source: str


@dataclass(slots=True)
class _ValueList:
    """Values of one list by their keys."""

    values: dict[str, str] = field(default_factory=dict)
    synonyms: dict[str, _Synonym] = field(default_factory=dict)
    wordings: dict[str, None] = field(default_factory=dict)
    """What users say, in order. A canonical value may be something else, such as a code."""

    def add_value(self, text: str) -> None:
        self.values.setdefault(value_key(text), text)

    def add_synonym(self, synonym: _Synonym) -> None:
        """Add a synonym. Raises DataError if it stands for another value already."""
        self.check(synonym)
        self.add_value(synonym.canonical)
        if synonym.text != synonym.canonical:
            self.synonyms.setdefault(value_key(synonym.text), synonym)

    def check(self, synonym: _Synonym) -> None:
        """Raise DataError if the text of a synonym stands for another value here."""
        earlier = self.synonyms.get(value_key(synonym.text))
        if earlier is not None and value_key(earlier.canonical) != value_key(synonym.canonical):
            raise DataError(
                f"{synonym.source}: a synonym must stand for one value, got '{synonym.text}' for '{synonym.canonical}' here "
                f"and for '{earlier.canonical}' at {earlier.source}. Remove one of them."
            )


@dataclass(slots=True)
class FoundValues:
    """Values found by a reader.

    Args:
        note: counts a defect.
    """

    note: Note
    texts_read: int = 0
    """Values, wordings and patterns so far, repeated ones included."""
    _lists: dict[str, _ValueList] = field(default_factory=dict)
    _patterns: dict[str, dict[str, None]] = field(default_factory=dict)
    _types: dict[str, dict[str, None]] = field(default_factory=dict)
    """Lists that a slot uses beside that of its own name."""
    _annotated: dict[str, _Synonym | None] = field(default_factory=dict)
    """Synonyms of annotations by key; None for a text that stands for several values."""
    _open_lists: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self._lists or self._patterns)

    def add_values(self, name: str, texts: Iterable[str], source: str, *, is_open: bool = False) -> None:
        """Add canonical values to a list.

        Args:
            name: name of the list.
            texts: the values.
            source: `file:line`, for messages.
            is_open: the list is for all slots where no slot has its name.
        """
        if is_open:
            self._open_lists.add(name)
        for text in texts:
            if self._is_usable(text, source):
                self._list(name).add_value(text.strip())
                self._list(name).wordings[text.strip()] = None

    def add_synonyms(
        self, name: str, canonical: str, texts: Iterable[str], source: str, *, is_said: bool = False
    ) -> None:
        """Add a canonical value and wordings of it to a list. It is a wording itself where there is no other.

        Args:
            name: name of the list.
            canonical: the value.
            texts: the wordings. The canonical value may be one of them.
            source: `file:line`, for messages.
            is_said: the canonical value is a wording, whatever the others are.

        Raises:
            DataError: a wording stands for another value already.
        """
        if not self._is_usable(canonical, source):
            return
        self._list(name).add_value(canonical.strip())
        wordings = [canonical.strip()] if is_said else []
        for text in texts:
            if self._is_usable(text, source):
                if text.strip() != canonical.strip():
                    self._add(name, _Synonym(text.strip(), canonical.strip(), source))
                wordings.append(text.strip())
        self._list(name).wordings.update(dict.fromkeys(wordings or [canonical.strip()]))

    def add_annotated(self, slot: str, text: str, canonical: str, source: str) -> None:
        """Add the value that an annotation gives for its text. As in Rasa, it holds for other slots too, where it is the only one.

        Args:
            slot: name of the slot.
            text: the annotated text.
            canonical: the value.
            source: `file:line`, for messages.

        Raises:
            DataError: the text stands for another value of the slot already.
        """
        if not (self._is_usable(text, source) and self._is_usable(canonical, source)):
            return
        synonym = _Synonym(text.strip(), canonical.strip(), source)
        self._list(ALL_SLOTS).check(synonym)
        self._list(slot).add_synonym(synonym)
        key = value_key(text)
        earlier = self._annotated.setdefault(key, synonym)
        if earlier is not None and value_key(earlier.canonical) != value_key(canonical):
            self._annotated[key] = None

    def add_pattern(self, name: str, pattern: str, source: str) -> None:
        """Add a regular expression for whole values. One that RE2 cannot read is counted.

        Args:
            name: its name. Where a slot has it, the pattern is for this slot only.
            pattern: the expression.
            source: `file:line`, for messages.
        """
        if not self._is_usable(pattern, source):
            return
        if sum(map(len, self._patterns.values())) >= MAX_PATTERNS:
            self.note(FURTHER_PATTERNS, source)
            return
        try:
            compile_pattern(pattern)
        except ValueError:
            self.note(NOT_READ, source)
        else:
            self._patterns.setdefault(name, {})[pattern] = None

    def add_type_value(
        self, type_name: str, canonical: str, texts: Iterable[str], source: str, *, is_said: bool = True
    ) -> None:
        """Add a value of a type of slots, and other wordings of it.

        Args:
            type_name: name of the type.
            canonical: the value.
            texts: the other wordings.
            source: place of the value, for messages.
            is_said: the value is a wording too. False: it may be a code.

        Raises:
            DataError: a wording stands for another value of the type already.
        """
        self.add_synonyms(_TYPE + type_name, canonical, filter(str.strip, texts), source, is_said=is_said)

    def add_type_pattern(self, type_name: str, pattern: str, source: str) -> None:
        """Add a regular expression for whole values of the slots with a type. One that RE2 cannot read is counted.

        Args:
            type_name: name of the type.
            pattern: the expression.
            source: place of the expression, for messages.
        """
        self.add_pattern(_TYPE + type_name, pattern, source)

    def use_type(self, slot: str, type_name: str) -> None:
        """Say that the values of a slot are those of a type."""
        self._types.setdefault(slot, {})[_TYPE + type_name] = None

    def merge(self, reader_values: "FoundValues") -> None:
        """Add the values of another reader.

        Raises:
            DataError: a wording stands for two values.
        """
        for name, values in reader_values._lists.items():
            for text in values.values.values():
                self._list(name).add_value(text)
            for synonym in values.synonyms.values():
                self._add(name, synonym)
            self._list(name).wordings.update(values.wordings)
        for key, annotated in reader_values._annotated.items():
            earlier = self._annotated.setdefault(key, annotated)
            if earlier is None or annotated is None or value_key(earlier.canonical) != value_key(annotated.canonical):
                self._annotated[key] = None
        for name, patterns in reader_values._patterns.items():
            self._patterns.setdefault(name, {}).update(patterns)
        for slot, types in reader_values._types.items():
            self._types.setdefault(slot, {}).update(types)
        self._open_lists |= reader_values._open_lists

    def by_slot(self, slots: Collection[str]) -> dict[str, SlotValues]:
        """Return the values of some slots, and those of all slots under ALL_SLOTS.

        Args:
            slots: names of the slots.

        Raises:
            DataError: two lists of a slot give a wording different values.
        """
        tables = {}
        for slot in slots:
            names = [slot, *self._types.get(slot, ())]
            tables[slot] = self._table(names, names)
        open_lists = [ALL_SLOTS]
        for name in self._lists:
            if name in self._open_lists and name not in slots:
                open_lists.append(name)
        open_patterns = [name for name in self._patterns if name not in slots and not name.startswith(_TYPE)]
        common = self._table(open_lists, open_patterns)
        for key, annotated in self._annotated.items():
            if annotated is not None and key not in map(value_key, common.synonyms):
                common.synonyms[annotated.text] = annotated.canonical
        tables[ALL_SLOTS] = common
        return {slot: table for slot, table in tables.items() if table != SlotValues()}

    def wordings(self, slot: str) -> list[str]:
        """Return what users say for the values of a slot, by the lists of its name and of its types, each text once.

        Lists for all slots do not count, nor do annotations, whose texts the examples hold.
        """
        wordings: dict[str, None] = {}
        for name in (slot, *self._types.get(slot, ())):
            if name in self._lists:
                wordings.update(self._lists[name].wordings)
        return list(wordings)

    def _table(self, names: Iterable[str], pattern_names: Iterable[str]) -> SlotValues:
        joined = _ValueList()
        for name in names:
            values = self._lists.get(name, _ValueList())
            for text in values.values.values():
                joined.add_value(text)
            for synonym in values.synonyms.values():
                joined.add_synonym(synonym)
        patterns = []
        for name in pattern_names:
            for expression in self._patterns.get(name, ()):
                patterns.append(Pattern(name=name.removeprefix(_TYPE), pattern=expression))
        synonyms = {synonym.text: synonym.canonical for synonym in joined.synonyms.values()}
        return SlotValues(synonyms=synonyms, values=tuple(joined.values.values()), patterns=tuple(patterns))

    def _list(self, name: str) -> _ValueList:
        return self._lists.setdefault(name, _ValueList())

    def _add(self, name: str, synonym: _Synonym) -> None:
        if name == ALL_SLOTS:
            annotated = self._annotated.get(value_key(synonym.text))
            if annotated is not None:
                _ValueList(synonyms={value_key(annotated.text): annotated}).check(synonym)
        self._list(name).add_synonym(synonym)

    def _is_usable(self, text: str, source: str) -> bool:
        """Return True for a text that a bundle can hold. Count any other."""
        if len(text) > MAX_TEXT:
            self.note(TOO_LONG, source)
            return False
        if not text.strip():
            self.note(BLANK, source)
            return False
        self.texts_read += 1
        return True
