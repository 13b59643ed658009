"""Answers of the pipeline -> a ModelInferResponse."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from palm_serve.errors import PalmServeError
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.oip.outputs import Output, Row
from palm_serve.rpc.oip.requests import Inference
from palm_serve.rpc.oip.tensors import write_raw, write_typed
from palm_serve.rpc.streams import breathe
from palm_serve.types import Prediction

if TYPE_CHECKING:
    from palm_serve.registry import LoadedModel


async def infer_response(
    name: str, model: "LoadedModel", inference: Inference, outcomes: Sequence[Prediction | PalmServeError]
) -> oip.ModelInferResponse:
    """The answer to a ModelInfer with the id `name`, raw where the request was. Raises the first error among the outcomes."""
    rows = [Row() for _ in range(inference.count)]
    for row, asked, outcome in zip(inference.rows, inference.asked, outcomes, strict=True):
        if isinstance(outcome, PalmServeError):
            raise outcome
        rows[row].truncated |= outcome.truncated
        rows[row].answers.update({task: (asked, outcome.answers[task]) for task in asked.request.tasks})
    response = oip.ModelInferResponse(model_name=model.name, model_version=model.version, id=name)
    for output in inference.outputs:
        tensor = response.outputs.add(name=output.name, datatype=output.datatype, shape=[inference.count])
        values = await _column(output, rows)
        if inference.raw:
            response.raw_output_contents.append(write_raw(values, output.datatype))
        else:
            tensor.contents.CopyFrom(write_typed(values, output.datatype))
    return response


async def _column(output: Output, rows: Sequence[Row]) -> list[bytes | float | bool]:
    values = []
    for number, row in enumerate(rows):
        await breathe(number)
        values.append(output.read(row))
    return values
