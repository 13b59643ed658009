"""Messages as JSON with the names of their fields, and numbers where protobuf's own JSON has strings (64-bit integers)."""

from typing import Any

import pydantic_core
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def plain_json(message: Message) -> bytes:
    """Encode a message, with its defaults."""
    return json_bytes(plain(message))


def json_bytes(value: Any) -> bytes:
    """Encode a value as UTF-8."""
    return pydantic_core.to_json(value)


def plain(message: Message) -> dict[str, Any]:
    """Return a message as a dictionary. Messages that are not set are left out."""
    content: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is None:
            content[field.name] = (
                [_scalar(field, item) for item in value] if field.is_repeated else _scalar(field, value)
            )
        elif field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name["value"]
            mapping = {}
            for key in value:
                mapping[str(key)] = plain(value[key]) if entry.message_type is not None else _scalar(entry, value[key])
            content[field.name] = mapping
        elif field.is_repeated:
            content[field.name] = [plain(item) for item in value]
        elif message.HasField(field.name):
            content[field.name] = plain(value)
    return content


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
