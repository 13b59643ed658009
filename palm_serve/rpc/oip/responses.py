"""Conversion of predictions to a ModelInferResponse."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from palm_serve.errors import PalmServeError
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.oip.outputs import OutputTensor, RowAnswers
from palm_serve.rpc.oip.requests import CheckedInference
from palm_serve.rpc.oip.tensors import write_raw, write_typed
from palm_serve.rpc.streams import yield_to_event_loop
from palm_serve.types import Prediction

if TYPE_CHECKING:
    from palm_serve.registry import LoadedModel


async def infer_response(
    request_id: str,
    model: "LoadedModel",
    inference: CheckedInference,
    outcomes: Sequence[Prediction | PalmServeError],
) -> oip.ModelInferResponse:
    """Create the response to a ModelInferRequest. It uses the tensor encoding (raw or typed) of the request.

    Args:
        request_id: id of the request.
        model: model version that answered.
        inference: the request.
        outcomes: prediction or error of each of `inference.requests`.

    Raises:
        PalmServeError: the first error among the outcomes.
    """
    rows = [RowAnswers() for _ in range(inference.count)]
    for row, checked, outcome in zip(inference.rows, inference.requests, outcomes, strict=True):
        if isinstance(outcome, PalmServeError):
            raise outcome
        rows[row].truncated |= outcome.truncated
        rows[row].unknown_language |= outcome.unknown_language
        for task in checked.request.tasks:
            rows[row].answers[task] = (checked, outcome.answers[task])
    response = oip.ModelInferResponse(model_name=model.name, model_version=model.version, id=request_id)
    for output in inference.outputs:
        tensor = response.outputs.add(name=output.name, datatype=output.datatype, shape=[inference.count])
        values = await _read_column(output, rows)
        if inference.raw:
            response.raw_output_contents.append(write_raw(values, output.datatype))
        else:
            tensor.contents.CopyFrom(write_typed(values, output.datatype))
    return response


async def _read_column(output: OutputTensor, rows: Sequence[RowAnswers]) -> list[bytes | float | bool]:
    values: list[bytes | float | bool] = []
    for index, row in enumerate(rows):
        await yield_to_event_loop(index)
        values.append(output.read(row))
    return values
