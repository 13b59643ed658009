"""Validation of a ModelInferRequest.

Its rows are converted to requests of `palm_serve.v1`, so that the same rules apply to both protocols.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from palm_serve.bundle.manifest import Manifest
from palm_serve.config import Limits
from palm_serve.errors import InvalidRequest
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.messages.requests import CheckedRequest, check_parse_request, check_predict_request, quoted
from palm_serve.rpc.oip.outputs import OutputTensor, outputs_of
from palm_serve.rpc.oip.parameters import InferParameters, read_parameters
from palm_serve.rpc.oip.tensors import read_texts
from palm_serve.rpc.streams import yield_to_event_loop
from palm_serve.v1 import palm_pb2 as pb

TEXT, TEXT_PAIR = "text", "text_pair"


@dataclass(frozen=True, slots=True)
class CheckedInference:
    """A valid ModelInferRequest."""

    count: int
    """Number of rows."""
    rows: tuple[int, ...]
    """Row of each request."""
    requests: tuple[CheckedRequest, ...]
    outputs: tuple[OutputTensor, ...]
    raw: bool
    """True if the client uses raw tensor contents."""


def input_names(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the inputs that the model's tasks read."""
    if manifest.tasks_reading(pairs=True):
        return (TEXT, TEXT_PAIR)
    return (TEXT,)


async def read_request(
    message: oip.ModelInferRequest, manifest: Manifest, limits: Limits, deadline: float | None, client: str = ""
) -> CheckedInference:
    """Check a ModelInferRequest for the model of `manifest`.

    Args:
        message: the request.
        manifest: manifest of the model that answers.
        limits: limits of one client.
        deadline: in seconds on the clock of `time.monotonic()`. None: no deadline.
        client: name of the client. The clients of a model take turns.

    Raises:
        InvalidRequest: if the request is not valid.
    """
    parameters = read_parameters(message.parameters)
    texts = _inputs(message, manifest, limits)
    outputs = _outputs(message, manifest, paired=TEXT_PAIR in texts)
    tasks = tuple(dict.fromkeys(output.task for output in outputs if output.task)) or _default_tasks(manifest, texts)
    _check_pairs(tasks, texts, manifest)
    if parameters.timeout_us:
        timeout = time.monotonic() + parameters.timeout_us / 1e6
        deadline = timeout if deadline is None else min(timeout, deadline)
    rows: list[int] = []
    requests: list[CheckedRequest] = []
    for row in range(len(texts[TEXT])):
        await yield_to_event_loop(row)
        for checked in _row_requests(row, texts, tasks, parameters, manifest, limits, deadline, client):
            rows.append(row)
            requests.append(checked)
    raw = bool(message.raw_input_contents)
    return CheckedInference(len(texts[TEXT]), tuple(rows), tuple(requests), outputs, raw)


def _inputs(message: oip.ModelInferRequest, manifest: Manifest, limits: Limits) -> dict[str, list[str]]:
    names = [tensor.name for tensor in message.inputs]
    _check_input_names(names, manifest)
    raw_contents = message.raw_input_contents
    if raw_contents and any(tensor.HasField("contents") for tensor in message.inputs):
        raise InvalidRequest(
            "inputs must not have both contents and raw_input_contents. Use only one of them.", "raw_input_contents"
        )
    if raw_contents and len(raw_contents) != len(names):
        raise InvalidRequest(
            f"raw_input_contents must have one element per input ({len(names)}), got {len(raw_contents):,}. "
            "Send them in the order of the inputs.",
            "raw_input_contents",
        )
    texts: dict[str, list[str]] = {}
    for position, tensor in enumerate(message.inputs):
        raw = raw_contents[position] if raw_contents else None
        texts[tensor.name] = read_texts(tensor, raw, limits.batch_items)
    if TEXT_PAIR in texts and len(texts[TEXT_PAIR]) != len(texts[TEXT]):
        raise InvalidRequest(
            f"input '{TEXT_PAIR}' must have as many rows as '{TEXT}' ({len(texts[TEXT]):,}), got {len(texts[TEXT_PAIR]):,}. "
            "Send a pair for each text.",
            TEXT_PAIR,
        )
    return texts


def _check_input_names(names: Sequence[str], manifest: Manifest) -> None:
    known_names = input_names(manifest)
    for position, name in enumerate(names):
        if name not in known_names:
            raise InvalidRequest(
                f"unknown input {quoted(name)}. Model '{manifest.name}' reads {', '.join(known_names)}.", "inputs"
            )
        if name in names[:position]:
            raise InvalidRequest(f"input {quoted(name)} must not be repeated. Send it once.", "inputs")
    if TEXT not in names:
        raise InvalidRequest(
            f"the input '{TEXT}' is missing. Send it as BYTES of shape [n] or [n, 1], encoded as UTF-8.", "inputs"
        )


def _outputs(message: oip.ModelInferRequest, manifest: Manifest, paired: bool) -> tuple[OutputTensor, ...]:
    """Return the requested outputs in the client's order, or those of all tasks that read the sent inputs."""
    known_outputs = outputs_of(manifest)
    if len(message.outputs) > len(known_outputs):
        raise InvalidRequest(
            f"outputs must have at most {len(known_outputs):,} items, got {len(message.outputs):,}. Request each output once.",
            "outputs",
        )
    for requested in message.outputs:
        if requested.name not in known_outputs:
            raise InvalidRequest(
                f"unknown output {quoted(requested.name)}. Model '{manifest.name}' has {', '.join(known_outputs)}.",
                "outputs",
            )
        if requested.parameters:
            key = next(iter(requested.parameters))
            raise InvalidRequest(
                f"output '{requested.name}' must not have parameters, got {quoted(key)}. Remove it.", "outputs"
            )
    if message.outputs:
        names = dict.fromkeys(requested.name for requested in message.outputs)
        return tuple(known_outputs[name] for name in names)
    outputs: list[OutputTensor] = []
    for output in known_outputs.values():
        if not output.task or manifest.tasks[output.task].pairs == paired:
            outputs.append(output)
    return tuple(outputs)


def _default_tasks(manifest: Manifest, texts: Mapping[str, list[str]]) -> tuple[str, ...]:
    """Return the tasks that read the sent inputs."""
    return manifest.tasks_reading(pairs=TEXT_PAIR in texts)


def _check_pairs(tasks: tuple[str, ...], texts: Mapping[str, list[str]], manifest: Manifest) -> None:
    pair_tasks = [name for name in tasks if manifest.tasks[name].pairs]
    if not tasks:
        raise InvalidRequest(
            f"the input '{TEXT_PAIR}' is missing. The tasks of model '{manifest.name}' read pairs of texts.", "inputs"
        )
    if pair_tasks and TEXT_PAIR not in texts:
        raise InvalidRequest(
            f"the input '{TEXT_PAIR}' is missing. Task '{pair_tasks[0]}' reads pairs of texts.", "inputs"
        )
    if not pair_tasks and TEXT_PAIR in texts:
        raise InvalidRequest(
            f"the input '{TEXT_PAIR}' must not be sent for task '{tasks[0]}', which reads a single text. Remove it.",
            TEXT_PAIR,
        )


def _row_requests(
    row: int,
    texts: Mapping[str, list[str]],
    tasks: tuple[str, ...],
    parameters: InferParameters,
    manifest: Manifest,
    limits: Limits,
    deadline: float | None,
    client: str,
) -> list[CheckedRequest]:
    """Return the requests of one row: one for all tasks on single texts, and one for each task on pairs."""
    text = texts[TEXT][row]
    single_text_tasks = [name for name in tasks if not manifest.tasks[name].pairs]
    requests: list[CheckedRequest] = []
    try:
        if single_text_tasks:
            parse = pb.ParseRequest(
                text=text, tasks=single_text_tasks, thresholds=parameters.thresholds, **parameters.fields
            )
            requests.append(check_parse_request(parse, manifest, limits, deadline, client))
        for name in tasks:
            if manifest.tasks[name].pairs:
                pair = texts[TEXT_PAIR][row]
                predict = pb.PredictRequest(task=name, text=text, text_pair=pair, **parameters.fields)
                requests.append(check_predict_request(predict, manifest, limits, deadline, client))
    except InvalidRequest as error:
        raise InvalidRequest(f"row {row}: {error}", error.field) from None
    return requests
