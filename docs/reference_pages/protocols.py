"""The gRPC services and messages, from the comments of the protos."""

import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from reference_pages.markdown import code, paragraphs, prose, table

PROTOS = Path(__file__).parents[2] / "protos"
_GOOGLE = Path(grpc_tools.__file__).parent / "_proto"

# Numbers of fields in descriptor.proto, which the places of comments are made of.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _NESTED, _NESTED_ENUMS = 2, 3, 4
_FieldType = descriptor_pb2.FieldDescriptorProto.Type
_REPEATED = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


def palm_services() -> str:
    """Return the services of PALM's own API."""
    return _File("palm_serve/v1/palm.proto").services()


def palm_messages() -> str:
    """Return the messages and enums of PALM's own API."""
    return _File("palm_serve/v1/palm.proto").types()


def inference_services() -> str:
    """Return the service of the Open Inference Protocol."""
    return _File("palm_serve/oip/inference.proto").services()


def inference_messages() -> str:
    """Return the messages of the Open Inference Protocol."""
    return _File("palm_serve/oip/inference.proto").types()


@cache
def _describe(name: str) -> Any:
    """Return the description of a proto with its comments."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "set.bin"
        arguments = ["protoc", f"-I{PROTOS}", f"-I{_GOOGLE}", "--include_source_info"]
        if protoc.main([*arguments, f"--descriptor_set_out={output}", name]):
            raise ValueError(f"{name} cannot be read")
        described = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())
    return described.file[0]


class _File:
    """A proto file and its comments by place."""

    def __init__(self, name: str) -> None:
        self._file = _describe(name)
        self._comments: dict[tuple[int, ...], str] = {}
        for location in self._file.source_code_info.location:
            text = f"{location.leading_comments} {location.trailing_comments}".strip()
            self._comments[tuple(location.path)] = re.sub(r"\s+", " ", text)
        self._prefix = f".{self._file.package}."

    def services(self) -> str:
        """Return a table of methods for each service."""
        sections = []
        for number, service in enumerate(self._file.service):
            place = (_SERVICES, number)
            rows = [self._method(method, (*place, 2, index)) for index, method in enumerate(service.method)]
            heads = ["method", "meaning", "request", "response"]
            sections += [f"### {self._file.package}.{service.name}", self._comment(place), table(heads, rows)]
        return paragraphs(*sections)

    def types(self) -> str:
        """Return a table of fields for each message, and of values for each enum."""
        sections = []
        for number, message in enumerate(self._file.message_type):
            sections += self._message(message, (_MESSAGES, number), "")
        for number, enum in enumerate(self._file.enum_type):
            sections += self._enum(enum, (_ENUMS, number), "")
        return paragraphs(*sections)

    def _comment(self, place: tuple[int, ...]) -> str:
        text = self._comments.get(place, "")
        return prose(text[:1].upper() + text[1:])

    def _method(self, method: Any, place: tuple[int, ...]) -> list[str]:
        request = f"{'stream of ' if method.client_streaming else ''}{self._link(method.input_type)}"
        response = f"{'stream of ' if method.server_streaming else ''}{self._link(method.output_type)}"
        return [code(method.name), self._comment(place), request, response]

    def _message(self, message: Any, place: tuple[int, ...], outer: str) -> Iterator[str]:
        if message.options.map_entry:
            return
        name = f"{outer}{message.name}"
        rows = [self._field(message, field, (*place, _FIELDS, index)) for index, field in enumerate(message.field)]
        fields = table(["field", "meaning", "type", "number"], rows) if rows else "No fields."
        yield from (f"### {name}", self._comment(place), fields)
        for index, nested in enumerate(message.nested_type):
            yield from self._message(nested, (*place, _NESTED, index), f"{name}.")
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*place, _NESTED_ENUMS, index), f"{name}.")

    def _enum(self, enum: Any, place: tuple[int, ...], outer: str) -> Iterator[str]:
        rows = []
        for index, value in enumerate(enum.value):
            rows.append([code(value.name), self._comment((*place, 2, index)), str(value.number)])
        yield from (f"### {outer}{enum.name}", self._comment(place), table(["value", "meaning", "number"], rows))

    def _field(self, message: Any, field: Any, place: tuple[int, ...]) -> list[str]:
        kind = self._type(field)
        entries = [entry for entry in message.nested_type if field.type_name.endswith(f".{message.name}.{entry.name}")]
        if entries and entries[0].options.map_entry:
            kind = f"map of {self._type(entries[0].field[0])} to {self._type(entries[0].field[1])}"
        elif field.label == _REPEATED:
            kind = f"repeated {kind}"
        elif field.proto3_optional:
            kind = f"optional {kind}"
        elif field.HasField("oneof_index"):
            kind = f"{kind}, one of `{message.oneof_decl[field.oneof_index].name}`"
        return [code(field.name), self._comment(place), kind, str(field.number)]

    def _type(self, field: Any) -> str:
        if field.type_name:
            return self._link(field.type_name)
        return _FieldType.Name(field.type).removeprefix("TYPE_").lower()

    def _link(self, type_name: str) -> str:
        if not type_name.startswith(self._prefix):
            return code(type_name.removeprefix("."))
        name = type_name.removeprefix(self._prefix)
        return f"[{name}](#{name.lower().replace('.', '')})"
