"""Strict reading of JSON: every fault of a text ends in one message with its place."""

import json
from json import scanner
from operator import itemgetter
from pathlib import Path
from typing import Any

from palm_trainer.config.mappings import first_repeated
from palm_trainer.data.formats.text_files import Defects, read_text
from palm_trainer.errors import DataError


class _RepeatedKeyError(ValueError):
    """A key stands twice in an object."""

    def __init__(self, key: str, position: int | None = None) -> None:
        super().__init__(key)
        self.key = key
        self.position = position


def load_json(path: Path, defects: Defects | None = None) -> Any:
    """Read the value of a JSON file. Defects are counted as in `read_text`.

    Raises:
        DataError: as `read_text`, or the file is not JSON (with line and column).
    """
    return parse_json(read_text(path, defects), str(path), "correct it")


def parse_json(text: str, source: str, fix: str, *, is_line: bool = False, subject: str = "") -> Any:
    """Parse a JSON value.

    Args:
        text: the JSON text.
        source: file, or `file:line` of a text that is one line.
        fix: end of the message about a text that is not JSON.
        is_line: True names only the column in messages, since `source` names the line.
        subject: what the text is, if it is a part of a line. Messages then name no column.

    Raises:
        DataError: the text is not JSON, a key stands twice, it is nested too deeply, or a number is
            too long.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if subject:
            raise DataError(f"{source}: {subject} is not JSON: {error.msg}; {fix}") from None
        place = f"{source}:{error.colno}" if is_line else f"{source}:{error.lineno}:{error.colno}"
        raise DataError(f"{place}: not JSON: {error.msg}; {fix}") from None
    except _RepeatedKeyError as error:
        place = source if is_line or subject else _locate_repeated_key(text, source)
        raise DataError(f"{place}: key '{error.key}' stands twice in an object; keep one of them") from None
    except RecursionError:
        raise DataError(f"{source}: JSON nested too deeply to be read; use fewer brackets") from None
    except ValueError:  # the only other one: the limit on digits of an integer
        raise DataError(f"{source}: a number has too many digits; write it as a string") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object. Raises _RepeatedKeyError if a key stands twice."""
    values = dict(pairs)
    if len(values) != len(pairs):
        repeated = first_repeated(map(itemgetter(0), pairs))
        assert repeated is not None
        raise _RepeatedKeyError(repeated)
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


def _locate_repeated_key(text: str, source: str) -> str:
    """Return `file:line` of the first object that repeats a key.

    The slower scanner tells where objects begin.
    """
    decoder: Any = json.JSONDecoder()
    parse_object = decoder.parse_object

    def parse_at(start: tuple[str, int], *arguments: Any) -> Any:
        strict, scan_once, _, _, memo = arguments
        try:
            return parse_object(start, strict, scan_once, None, _unique_keys, memo)
        except _RepeatedKeyError as error:
            raise _RepeatedKeyError(error.key, error.position or start[1]) from None

    decoder.parse_object = parse_at
    decoder.scan_once = scanner.py_make_scanner(decoder)  # type: ignore[attr-defined]
    try:
        decoder.decode(text)
    except _RepeatedKeyError as error:
        return f"{source}:{text.count(chr(10), 0, error.position) + 1}"
    except (ValueError, RecursionError):
        return source
    return source
