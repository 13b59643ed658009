"""Parsing of messages whose fields are counted first.

Parsing takes up to 125 times the memory of a message: an empty message in a repeated field is 2 bytes on the wire and about
120 in memory. So a message with more fields than any valid one is refused from its bytes.

Source: protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Mapping
from functools import cache
from typing import TypeAlias, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from palm_serve.config import Limits
from palm_serve.errors import InvalidRequest

M = TypeVar("M", bound=Message)

MIN_MAX_FIELDS = 16_384
_FIELDS_PER_ITEM = 24
"""Fields of one request in a batch: each of ParseRequest once, its thresholds, and some tasks."""
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_CONTINUATION_BYTES = bytes(range(0x80, 0x100))
_MAX_VARINT_BYTES = 10
_ELEMENT_BYTES = {
    **dict.fromkeys((FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64), 8),
    **dict.fromkeys((FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_SFIXED32), 4),
}
"""Size of a packed element. Elements of other types are varints."""
_PACKED_VARINTS = 0

_Inner: TypeAlias = Descriptor | int
"""What a field of wire type 2 holds: a message of this class, or packed elements of this size."""


def max_fields(limits: Limits) -> int:
    """Return the largest number of fields in a message from a client."""
    return max(MIN_MAX_FIELDS, _FIELDS_PER_ITEM * limits.batch_items)


def decode(message_class: type[M], data: bytes, max_fields: int = MIN_MAX_FIELDS) -> M:
    """Parse a message.

    Args:
        message_class: class of the message.
        data: the message.
        max_fields: largest number of fields, counted before the message is parsed.

    Raises:
        InvalidRequest: if the message is not valid, has too many fields, or has a string that is not UTF-8.
    """
    check_fields(message_class.DESCRIPTOR, data, max_fields)
    try:
        message: M = message_class.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        name = message_class.DESCRIPTOR.full_name
        raise InvalidRequest(
            f"the request must be a message of type {name} with UTF-8 strings, got {len(data):,} other bytes. "
            "Generate the client from this server's .proto files."
        ) from None
    return message


def check_fields(descriptor: Descriptor, data: bytes, limit: int) -> None:
    """Check the number of fields of a message before it is parsed.

    Args:
        descriptor: class of the message.
        data: the message.
        limit: largest number of fields.

    Raises:
        InvalidRequest: if it has more. Bytes that are not a message are left to the parser.
    """
    # A field takes at least 2 bytes and a packed element 1, so short messages need no count.
    if len(data) > limit and count_fields(descriptor, data, limit) > limit:
        raise InvalidRequest(
            f"a message must have at most {limit:,} fields, those of inner messages included, got more in {len(data):,} bytes. "
            "Send several smaller messages."
        )


def count_fields(descriptor: Descriptor, data: bytes, limit: int) -> int:
    """Count the fields of a message, those of inner messages and packed elements included.

    Args:
        descriptor: class of the message.
        data: the message.
        limit: number at which the count may stop.

    Returns:
        The number of fields, or a number above `limit`. It stops at the first byte that cannot be parsed.
    """
    count = 0
    messages = [(descriptor, 0, len(data))]
    while messages and count <= limit:
        message, start, end = messages.pop()
        count += _count_own_fields(message, data, start, end, limit - count, messages)
    return count


def _count_own_fields(
    message: Descriptor, data: bytes, position: int, end: int, limit: int, messages: list[tuple[Descriptor, int, int]]
) -> int:
    """Count the fields of one message without those of its inner messages, which are appended to `messages`.

    Lengths and tags of one or two bytes are read in place, because most are, and a call would take as long as all the rest.
    """
    inner_fields = _inner_fields(message)
    count = groups = 0
    while position < end and count <= limit:
        tag = data[position]
        position += 1
        if tag >= 0x80:
            if position < end and data[position] < 0x80:
                tag = tag & 0x7F | data[position] << 7
                position += 1
            else:
                tag, position = _varint(data, position - 1, end)
        kind = tag & 7
        count += 1
        if kind == _BYTES:
            size = data[position] if position < end else 0x80
            position += 1
            if size >= 0x80:
                if position < end and data[position] < 0x80:
                    size = size & 0x7F | data[position] << 7
                    position += 1
                else:
                    size, position = _varint(data, position - 1, end)
            start = position
            position += size
            if not size or position > end:
                continue
            inner = inner_fields.get(tag >> 3)
            # Fields of a group are unknown, whatever their numbers.
            if inner is None or groups:
                continue
            if isinstance(inner, int):
                count += _count_packed(data, start, position, inner, limit)
            else:
                messages.append((inner, start, position))
        elif kind == _VARINT:
            if position < end and data[position] < 0x80:
                position += 1
            else:
                position = _varint(data, position, end)[1]
        elif kind == _FIXED64:
            position += 8
        elif kind == _FIXED32:
            position += 4
        elif kind == _GROUP:
            groups += 1
        elif kind == _GROUP_END and groups:
            groups -= 1
            count -= 1
        else:
            return count
    return count


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Read a varint. Return it and the position after it, which is behind `end` if there is none."""
    value = shift = 0
    for index in range(position, min(position + _MAX_VARINT_BYTES, end)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    return 0, end + 1


def _count_packed(data: bytes, start: int, end: int, element_bytes: int, limit: int) -> int:
    """Count packed elements of `element_bytes`, or of varints. It stops above `limit`."""
    size = end - start
    if element_bytes != _PACKED_VARINTS:
        return size // element_bytes
    if size > limit * _MAX_VARINT_BYTES:
        return limit + 1
    # Each varint has one byte without the continuation bit.
    return len(data[start:end].translate(None, _CONTINUATION_BYTES))


@cache
def _inner_fields(descriptor: Descriptor) -> Mapping[int, _Inner]:
    """Return the fields of a message that hold messages or packed elements, by number."""
    inner: dict[int, _Inner] = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            inner[field.number] = field.message_type
        elif field.is_repeated and field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            inner[field.number] = _ELEMENT_BYTES.get(field.type, _PACKED_VARINTS)
    return inner
