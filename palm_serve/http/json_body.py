"""Reading of JSON bodies: into models of pydantic, whose parser bounds the depth, or into values of Python."""

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from palm_serve.bundle.strict_json import parse_json
from palm_serve.errors import InvalidRequest
from palm_serve.rpc.messages.wire import MIN_MAX_FIELDS

M = TypeVar("M", bound=BaseModel)

_QUOTED = 64
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""Strings of JSON. One that does not end reaches to the end of the body, so that a search takes one pass."""


def check_json(body: bytes, max_fields: int) -> None:
    """Check the number of values of a JSON body before it is parsed, because parsing takes up to 100 times its memory.

    Args:
        body: the body.
        max_fields: largest number of values.

    Raises:
        InvalidRequest: it has more.
    """
    if len(body) <= max_fields:  # a value takes at least a byte
        return
    structure = _STRINGS.sub(b"", body)
    if structure.count(b",") + structure.count(b"{") + structure.count(b"[") > max_fields:
        raise InvalidRequest(
            f"the body must have at most {max_fields:,} values, got more in {len(body):,} bytes. Send several smaller requests."
        )


def parse_body(body: bytes, max_fields: int) -> Any:
    """Parse a JSON body into values of Python.

    Args:
        body: the body.
        max_fields: largest number of values.

    Raises:
        InvalidRequest: it is not JSON, has too many values, or names a key twice.
    """
    check_json(body, max_fields)
    try:
        return parse_json(body.decode())
    except UnicodeDecodeError:
        raise InvalidRequest("the body must be JSON in UTF-8, got other bytes. Correct it.") from None
    except ValueError as error:
        raise InvalidRequest(f"the body must be JSON, got bytes that are not: {error}. Correct it.") from None


def read_json(model: type[M], body: bytes, max_fields: int = MIN_MAX_FIELDS) -> M:
    """Parse a JSON body.

    Args:
        model: class of the content.
        body: the body.
        max_fields: largest number of values.

    Raises:
        InvalidRequest: it is not JSON, has too many values, or is not of this class. The message names the first fault.
    """
    check_json(body, max_fields)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))[:_QUOTED]
        message = fault["msg"]
        if fault["type"] == "json_invalid":
            raise InvalidRequest(f"the body must be JSON, got bytes that are not: {message}. Correct it.") from None
        raise InvalidRequest(f"{place or 'the body'} is not valid: {message}. Correct it.", place) from None
