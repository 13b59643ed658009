"""Objects of a JSON document with their place: every value of a wrong type is one message that names place and key."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palm_trainer.config.mappings import absent
from palm_trainer.data.formats.columns import NO_CLASS
from palm_trainer.data.formats.json_values import load_json
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.errors import DataError

_EMPTY: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True, slots=True)
class JsonObject:
    """An object of a JSON document.

    Args:
        values: its values by key.
        place: file and path of the object, for messages.
    """

    values: dict[str, Any]
    place: str

    def string(self, key: str) -> str:
        """Return a string that must be there. Raises DataError."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.fault(key, "a string")
        return value

    def text(self, key: str) -> str:
        """Return a string with at least one character that is no blank. Raises DataError."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.fault(key, "a string with at least one character")
        return value

    def name(self, key: str) -> str:
        """Return a name without outer blanks, empty if it is absent, null or blank. Raises DataError if it is no string."""
        return self.string(key).strip() if self.values.get(key) is not None else ""

    def given_name(self, key: str) -> str:
        """Return a name without outer blanks. Raises DataError if it is no string, or blank."""
        return self.text(key).strip()

    def class_name(self, key: str, defects: Defects) -> str:
        """Return the name of a class; empty and counted if there is none. Raises DataError if it is no string."""
        name = self.name(key)
        if not name:
            defects.add(NO_CLASS, self.place)
        return name

    def whole_number(self, key: str) -> int:
        """Return a whole number that must be there. Raises DataError."""
        value = self.values.get(key)
        if type(value) is not int:
            raise self.fault(key, "a whole number")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false; an absent or null value is false. Raises DataError."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.fault(key, "true or false")
        return bool(value)

    def items(self, key: str) -> list[Any]:
        """Return a list, empty if it is absent or null. Raises DataError."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self.fault(key, "a list")
        return value or []

    def strings(self, key: str) -> list[str]:
        """Return a list of strings, empty if it is absent or null. Raises DataError."""
        items = self.items(key)
        if not all(isinstance(item, str) for item in items):
            raise self.fault(key, "a list of strings")
        return items

    def objects(self, key: str) -> Iterator["JsonObject"]:
        """Yield the objects of a list, none if it is absent or null. Raises DataError for anything else."""
        yield from objects_in(self.items(key), f"{self.place}: {key}")

    def child(self, key: str) -> "JsonObject":
        """Return an object, empty if it is absent or null. Raises DataError."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.fault(key, "an object")
        return JsonObject(value or {}, f"{self.place}: {key}")

    def note_unread(self, read: Collection[str], owner: str, defects: Defects) -> None:
        """Count the keys that hold something and are not read.

        Args:
            read: keys that are read, or that hold no data.
            owner: what the object is, for the description.
            defects: tally of content that is passed over.
        """
        for key in absent(self.values, read):
            value = self.values[key]
            if value not in _EMPTY:
                count = len(value) if isinstance(value, list) else 1
                defects.add(f"'{key}' of {owner} (passed over)", self.place, count)

    def fault(self, key: str, rule: str) -> DataError:
        """Return the error for the value of a key. `rule` is what it must be."""
        written = repr(self.values[key]) if key in self.values else "none"
        return DataError(f'{self.place}: "{key}" must be {rule}, got {written}. Correct it.')


def objects_in(items: list[Any], place: str) -> Iterator[JsonObject]:
    """Yield the objects of a list, with the place of each. Raises DataError for any other item."""
    for number, item in enumerate(items, 1):
        yield as_object(item, f"{place} {number}")


def as_object(value: Any, place: str) -> JsonObject:
    """Return a value as an object. Raises DataError if it is none."""
    if not isinstance(value, dict):
        raise DataError(f"{place}: must be an object, got {value!r}. Correct it.")
    return JsonObject(value, place)


def load_object(path: Path, structure: str, defects: Defects | None = None) -> JsonObject:
    """Read a JSON file that holds an object.

    Args:
        path: file to read.
        structure: what the file holds, for the message.
        defects: tally of repaired defects.

    Raises:
        DataError: as `load_json`, or the file holds anything else.
    """
    value = load_json(path, defects)
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold {structure}, got a JSON {type(value).__name__}. Set the right `format`.")
    return JsonObject(value, str(path))
