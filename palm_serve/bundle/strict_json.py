"""JSON of bundles, and of bodies over HTTP: one meaning for every reader, whatever bytes they hold."""

import json
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

_FAULTS_SHOWN = 5
_MOST_DIGITS = 4000
_NAME_LENGTH = 80
"""Characters of a key in a message."""

M = TypeVar("M", bound=BaseModel)


def parse_json(text: str) -> Any:
    """Parse JSON without duplicate keys and without NaN and Infinity.

    Raises:
        ValueError: the text is not such JSON, or is nested too deeply. The message states the fault.
    """
    try:
        return json.loads(text, object_pairs_hook=_to_dict, parse_constant=_refuse_constant, parse_int=_to_int)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_model(model: type[M], text: str) -> M:
    """Parse JSON and check it against a schema. A number must be a number: "3" and true are none.

    Raises:
        ValueError: the text is not JSON, or does not fit. The message names the fields, without their values.
    """
    try:
        parse_json(text)  # pydantic takes duplicate keys and NaN
    except ValueError as error:
        raise ValueError(f"top level: Invalid JSON: {error}") from None
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(_describe(error)) from None


def _to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys: set[str] = set()
        for key, _ in pairs:
            if key in keys:
                raise ValueError(f"the key '{key[:_NAME_LENGTH]}' stands twice in one object")
            keys.add(key)
    return content


def _to_int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:  # Python takes long for them, and refuses still more
        raise ValueError(f"a number has more than {_MOST_DIGITS:,} digits")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _shorten(key: object) -> str:
    return str(key)[:_NAME_LENGTH]


def _describe(error: ValidationError) -> str:
    """Describe the first faults as `field: fault`, without the values."""
    faults = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        field = ".".join(map(_shorten, fault["loc"])) or "top level"
        faults.append(f"{field}: {fault['msg']}")
        if len(faults) == _FAULTS_SHOWN:
            break
    further_faults = error.error_count() - len(faults)
    suffix = f" (and {further_faults} more)" if further_faults > 0 else ""
    return "; ".join(faults) + suffix
