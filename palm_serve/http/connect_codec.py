"""Bodies of Connect's unary calls and of gRPC-Web: messages as JSON or bytes, and errors."""

import base64
import binascii
import struct
import urllib.parse
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2

from palm_serve.errors import InvalidRequest
from palm_serve.http.decompression import Decompressor
from palm_serve.http.json_body import parse_body
from palm_serve.http.message_fields import check_message
from palm_serve.http.message_json import message_content
from palm_serve.http.plain_json import json_bytes
from palm_serve.http.statuses import HttpFailure
from palm_serve.rpc.messages.wire import decode

JSON, PROTO = "json", "proto"
ENCODINGS = (JSON, PROTO)
GRPC_WEB, GRPC_WEB_TEXT = "application/grpc-web+proto", "application/grpc-web-text+proto"
GRPC_WEB_TYPES = {
    "application/grpc-web": GRPC_WEB,
    GRPC_WEB: GRPC_WEB,
    "application/grpc-web-text": GRPC_WEB_TEXT,
    GRPC_WEB_TEXT: GRPC_WEB_TEXT,
}
"""Content types of requests, and of their responses."""
_DETAILS_KEY = "grpc-status-details-bin"
_FRAME = struct.Struct(">BI")
_COMPRESSED, _TRAILERS = 0x01, 0x80
_NAMES = {"CANCELLED": "canceled"}
"""Connect's names of codes that are not those of gRPC in lower case."""


class ConnectCodec:
    """Reads and writes the messages of one unary method.

    Args:
        encoding: json or proto.
        message_class: class of the request.
        max_fields: largest number of fields of a message.
    """

    def __init__(self, encoding: str, message_class: type[Message], max_fields: int) -> None:
        self._encoding = encoding
        self._class = message_class
        self._max_fields = max_fields

    def read(self, body: bytes) -> Message:
        """Parse a request. Fields that are not known are ignored. Raises InvalidRequest."""
        if self._encoding == PROTO:
            return decode(self._class, body, self._max_fields)
        # An empty body is an empty message.
        content = parse_body(body or b"{}", self._max_fields)
        check_message(content, self._class.DESCRIPTOR)
        message = self._class()
        try:
            json_format.ParseDict(content, message, ignore_unknown_fields=True)
        except (json_format.ParseError, UnicodeError, RecursionError, ValueError):
            name = self._class.DESCRIPTOR.full_name
            raise InvalidRequest(
                f"the body must be a message of type {name} as JSON, got another one. Generate the client from this server's .proto files."
            ) from None
        return message

    def write(self, message: Message) -> bytes:
        """Serialize a response."""
        if self._encoding == PROTO:
            data: bytes = message.SerializeToString()
            return data
        return json_bytes(message_content(message))


class GrpcWebCodec:
    """Reads and writes the messages of one unary method in the frames of gRPC-Web.

    Args:
        media_type: content type of the response.
        message_class: class of the request.
        max_fields: largest number of fields of a message.
        max_bytes: largest message, decompressed.
    """

    def __init__(self, media_type: str, message_class: type[Message], max_fields: int, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._is_text = media_type == GRPC_WEB_TEXT
        self._class = message_class
        self._max_fields = max_fields

    def read(self, body: bytes) -> Message:
        """Parse a request. Raises InvalidRequest."""
        if self._is_text:
            try:
                body = base64.b64decode(body, validate=True)
            except binascii.Error:
                raise _not_a_frame() from None
        if len(body) < _FRAME.size:
            raise _not_a_frame()
        flags, size = _FRAME.unpack_from(body)
        if flags not in (0, _COMPRESSED) or len(body) != _FRAME.size + size:
            raise _not_a_frame()
        data = body[_FRAME.size :]
        if flags:
            decompressor = Decompressor("gzip", self._max_bytes)
            data = decompressor.decompress(data)
            decompressor.finish()
        return decode(self._class, data, self._max_fields)

    def write(self, message: Message) -> bytes:
        """Serialize a response and its trailers."""
        data = message.SerializeToString()
        return self._body(_FRAME.pack(0, len(data)) + data + _trailers(0, "", None))

    def describe_error(self, failed: HttpFailure) -> bytes:
        """Return the body of a response that has trailers only."""
        details = _details(failed)
        return self._body(_trailers(_number(failed.code), failed.message, details))

    def _body(self, data: bytes) -> bytes:
        return base64.b64encode(data) if self._is_text else data


def describe_error(failed: HttpFailure) -> bytes:
    """Describe an error as Connect does."""
    content: dict[str, Any] = {"code": _NAMES.get(failed.code, failed.code.lower()), "message": failed.message}
    details = _details(failed)
    if details is not None:
        content["details"] = []
        for detail in status_pb2.Status.FromString(details).details:
            value = base64.b64encode(detail.value).decode().rstrip("=")
            content["details"].append({"type": detail.type_url.rpartition("/")[2], "value": value})
    return json_bytes(content)


def read_query(query: Mapping[str, str], max_bytes: int) -> bytes:
    """Return the message in the query of a GET.

    Args:
        query: the query.
        max_bytes: largest message.

    Raises:
        InvalidRequest: the message is not encoded as the query says.
    """
    text = query.get("message", "")
    message = text.encode()
    if query.get("base64") == "1":
        try:
            message = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise InvalidRequest("message must be base64url with base64=1, got other characters. Correct it.") from None
    compression = query.get("compression", "identity")
    if compression not in ("", "identity"):
        decompressor = Decompressor(compression, max_bytes)
        message = decompressor.decompress(message)
        decompressor.finish()
    return message


def _number(code: str) -> int:
    return int(code_pb2.Code.Value(code))


def _details(failed: HttpFailure) -> bytes | None:
    for key, value in failed.metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return value
    return None


def _trailers(code: int, message: str, details: bytes | None) -> bytes:
    lines = [f"grpc-status: {code}\r\n"]
    if message:
        lines.append(f"grpc-message: {urllib.parse.quote(message, safe=' ')}\r\n")
    if details is not None:
        lines.append(f"{_DETAILS_KEY}: {base64.b64encode(details).decode().rstrip('=')}\r\n")
    content = "".join(lines).encode()
    return _FRAME.pack(_TRAILERS, len(content)) + content


def _not_a_frame() -> InvalidRequest:
    return InvalidRequest("the body must be one message of gRPC-Web, as it is or in gzip, got other bytes. Correct it.")
