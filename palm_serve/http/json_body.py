"""Reading of JSON bodies into models of pydantic, whose parser bounds the depth."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from palm_serve.errors import InvalidRequest

M = TypeVar("M", bound=BaseModel)

_QUOTED = 64


def read_json(model: type[M], body: bytes) -> M:
    """Parse a JSON body.

    Args:
        model: class of the content.
        body: the body.

    Raises:
        InvalidRequest: it is not JSON, or not of this class. The message names the first fault.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))[:_QUOTED]
        message = fault["msg"]
        if fault["type"] == "json_invalid":
            raise InvalidRequest(f"the body must be JSON, got bytes that are not: {message}. Correct it.") from None
        raise InvalidRequest(f"{place or 'the body'} is not valid: {message}. Correct it.", place) from None
