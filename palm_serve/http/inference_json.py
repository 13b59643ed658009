"""The Open Inference Protocol's JSON, with binary tensors after it, and the messages of its gRPC form.

The body is JSON. With the header `Inference-Header-Content-Length`, which is the length of the JSON, the bytes of tensors
follow in the order of the inputs that have the parameter `binary_data_size`. Responses have the same form.

Sources: kserve.github.io, Open Inference Protocol v2, REST; docs.nvidia.com, Triton, "Binary Tensor Data Extension".
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from palm_serve.errors import InvalidRequest
from palm_serve.http.json_body import read_json
from palm_serve.http.plain_json import json_bytes
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.oip.tensors import BYTES, read_values, write_raw

BINARY_HEADER = "inference-header-content-length"
_SIZE = "binary_data_size"
_BINARY = "binary_data"
_ALL_BINARY = "binary_data_output"
_MAX_LENGTH_DIGITS = 10

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Parameters = dict[str, bool | Int64 | float | str]


class InferInput(BaseModel):
    """One input tensor. Its values are in `data`, or after the JSON where it has the parameter `binary_data_size`."""

    name: str
    """`text` or `text_pair`."""
    shape: Annotated[list[Int64], Field(max_length=16)]
    """Size of each axis: `[n]` or `[n, 1]`."""
    datatype: str
    """`BYTES`."""
    parameters: Parameters = {}
    data: list[str | list[str]] | None = None
    """Texts, flat or as rows of one text."""


class InferOutput(BaseModel):
    """One output that the client asks for."""

    name: str
    """Name of the output, such as `intent.label`."""
    parameters: Parameters = {}
    """`binary_data`: true for values behind the JSON."""


class InferRequest(BaseModel):
    """A request of the Open Inference Protocol."""

    id: str = ""
    """Id of the request, which the response repeats."""
    parameters: Parameters = {}
    """Options of the request, such as `top_k` and `offset_unit`."""
    inputs: Annotated[list[InferInput], Field(max_length=64)]
    """The texts."""
    outputs: Annotated[list[InferOutput], Field(max_length=4096)] = []
    """Outputs to answer. Empty: all of the tasks that read the inputs."""


class Inference:
    """One request of the protocol over HTTP, from its body to the body of its response.

    Args:
        model: name of the model in the path.
        version: version in the path. Empty: any.
        json_length: value of BINARY_HEADER. Empty: the body is JSON.
        max_fields: largest number of values of the JSON.
    """

    def __init__(self, model: str, version: str, json_length: str, max_fields: int) -> None:
        self._max_fields = max_fields
        self._model = model
        self._version = version
        self._json_length = json_length
        self._binary_outputs: set[str] = set()
        self._all_binary = False
        self.response_json_length: int | None = None
        """Length of the JSON of a response with binary outputs. None: it has none."""

    def read(self, body: bytes) -> oip.ModelInferRequest:
        """Parse the body. Raises InvalidRequest."""
        json_length = self._length(body)
        request = read_json(InferRequest, body[:json_length], self._max_fields)
        message = oip.ModelInferRequest(model_name=self._model, model_version=self._version, id=request.id)
        self._all_binary = request.parameters.pop(_ALL_BINARY, False) is True
        _set_parameters(message.parameters, request.parameters)
        contents = _contents(request.inputs, body[json_length:])
        for tensor in request.inputs:
            added = message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            _set_parameters(added.parameters, tensor.parameters)
        if any(isinstance(content, bytes) for content in contents):
            for content in contents:
                # A message has either raw contents or typed ones.
                message.raw_input_contents.append(content if isinstance(content, bytes) else write_raw(content, BYTES))
        else:
            for added, content in zip(message.inputs, contents, strict=True):
                added.contents.bytes_contents.extend(content)
        for output in request.outputs:
            binary = output.parameters.pop(_BINARY, self._all_binary)
            if binary is True:
                self._binary_outputs.add(output.name)
            _set_parameters(message.outputs.add(name=output.name).parameters, output.parameters)
        # Without a list of outputs, the parameter of the request counts for all.
        self._all_binary = self._all_binary and not request.outputs
        return message

    def _length(self, body: bytes) -> int:
        if not self._json_length:
            return len(body)
        if not self._json_length.isdecimal() or len(self._json_length) > _MAX_LENGTH_DIGITS:
            raise InvalidRequest(
                "Inference-Header-Content-Length must be the length of the JSON, got another value. Correct it."
            )
        length = int(self._json_length)
        if length > len(body):
            raise InvalidRequest(
                f"Inference-Header-Content-Length must be at most the length of the body ({len(body):,}), got {length:,}. "
                "Count the bytes of the JSON without compression."
            )
        return length

    def write(self, response: oip.ModelInferResponse) -> bytes:
        """Return the body of the response, and set `response_json_length` if it has binary outputs."""
        outputs: list[dict[str, Any]] = []
        tails: list[bytes] = []
        for position, tensor in enumerate(response.outputs):
            raw = response.raw_output_contents[position] if response.raw_output_contents else None
            output: dict[str, Any] = {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": [*tensor.shape],
            }
            if self._all_binary or tensor.name in self._binary_outputs:
                tail = write_raw(read_values(tensor, None), tensor.datatype) if raw is None else raw
                output["parameters"] = {_SIZE: len(tail)}
                tails.append(tail)
            else:
                values = read_values(tensor, raw)
                output["data"] = [value.decode() if isinstance(value, bytes) else value for value in values]
            outputs.append(output)
        content: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
        if response.id:
            content["id"] = response.id
        content["outputs"] = outputs
        head = json_bytes(content)
        if not tails:
            return head
        self.response_json_length = len(head)
        return b"".join((head, *tails))


def _contents(inputs: Sequence[InferInput], tail: bytes) -> list[bytes | list[bytes]]:
    """Return the raw content or the texts of each input. Raises InvalidRequest."""
    contents: list[bytes | list[bytes]] = []
    position = 0
    for tensor in inputs:
        size = tensor.parameters.pop(_SIZE, None)
        if size is None:
            if tensor.data is None:
                raise InvalidRequest(f"input '{tensor.name[:64]}' must have data. Send its texts.", "inputs")
            contents.append(_texts(tensor.data))
            continue
        if tensor.data is not None or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidRequest(
                f"input '{tensor.name[:64]}' must have either data or {_SIZE}, a number of bytes. Correct it.", "inputs"
            )
        if position + size > len(tail):
            raise InvalidRequest(
                f"the {_SIZE} of input '{tensor.name[:64]}' must be at most the {len(tail) - position:,} bytes that follow, "
                f"got {size:,}. Send the tensor whole.",
                "inputs",
            )
        contents.append(tail[position : position + size])
        position += size
    if position < len(tail):
        raise InvalidRequest(
            f"the body must end with its tensors, got {len(tail) - position:,} more bytes. Correct {_SIZE}.", "inputs"
        )
    return contents


def _texts(data: Sequence[str | list[str]]) -> list[bytes]:
    texts: list[bytes] = []
    for row in data:
        for text in (row,) if isinstance(row, str) else row:
            texts.append(text.encode())
    return texts


def _set_parameters(target: Any, parameters: Mapping[str, bool | int | float | str]) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int):
            target[name].int64_param = value
        elif isinstance(value, float):
            target[name].double_param = value
        else:
            target[name].string_param = value
