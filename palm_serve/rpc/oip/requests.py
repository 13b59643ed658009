"""A ModelInferRequest -> what the pipeline is asked, checked. Rows become the requests of `palm_serve.v1`, so one set of rules holds for both doors."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from palm_serve.bundle.manifest import Manifest
from palm_serve.config import Limits
from palm_serve.errors import InvalidRequest
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.messages.requests import Asked, parse_request, predict_request, quoted
from palm_serve.rpc.oip.outputs import Output, outputs_of
from palm_serve.rpc.oip.parameters import Settings, read_settings
from palm_serve.rpc.oip.tensors import read_texts
from palm_serve.rpc.streams import breathe
from palm_serve.v1 import palm_pb2 as pb

TEXT, TEXT_PAIR = "text", "text_pair"


@dataclass(frozen=True, slots=True)
class Inference:
    """One checked ModelInfer: each of `asked` belongs to the row of the same position in `rows`; `raw`: how the client speaks."""

    count: int
    rows: tuple[int, ...]
    asked: tuple[Asked, ...]
    outputs: tuple[Output, ...]
    raw: bool


def input_names(manifest: Manifest) -> tuple[str, ...]:
    """The inputs that the model's tasks read."""
    kinds = {task.pairs for task in manifest.tasks.values()}
    return (TEXT, TEXT_PAIR) if True in kinds else (TEXT,)


async def read_request(
    message: oip.ModelInferRequest, manifest: Manifest, limits: Limits, deadline: float | None
) -> Inference:
    """Checks a ModelInferRequest for the model of `manifest`. Raises InvalidRequest."""
    settings = read_settings(message.parameters)
    texts = _inputs(message, manifest, limits)
    outputs = _outputs(message, manifest, paired=TEXT_PAIR in texts)
    tasks = tuple(dict.fromkeys(output.task for output in outputs if output.task)) or _unasked(manifest, texts)
    _check_pairs(tasks, texts, manifest)
    if settings.timeout_us:
        own = time.monotonic() + settings.timeout_us / 1e6
        deadline = own if deadline is None else min(own, deadline)
    rows: list[int] = []
    asked: list[Asked] = []
    for row in range(len(texts[TEXT])):
        await breathe(row)
        for one in _row(row, texts, tasks, settings, manifest, limits, deadline):
            rows.append(row)
            asked.append(one)
    return Inference(len(texts[TEXT]), tuple(rows), tuple(asked), outputs, bool(message.raw_input_contents))


def _inputs(message: oip.ModelInferRequest, manifest: Manifest, limits: Limits) -> dict[str, list[str]]:
    known = input_names(manifest)
    given = [tensor.name for tensor in message.inputs]
    for position, name in enumerate(given):
        if name not in known:
            raise InvalidRequest(
                f"unknown input {quoted(name)}: model '{manifest.name}' reads {', '.join(known)}", "inputs"
            )
        if name in given[:position]:
            raise InvalidRequest(f"input {quoted(name)} is there twice: send it once", "inputs")
    if TEXT not in given:
        raise InvalidRequest(f"the input '{TEXT}' is missing: send it as BYTES of shape [n] or [n, 1], UTF-8", "inputs")
    raws = message.raw_input_contents
    if raws and any(tensor.HasField("contents") for tensor in message.inputs):
        raise InvalidRequest("inputs have both contents and raw_input_contents: use one of them", "raw_input_contents")
    if raws and len(raws) != len(given):
        raise InvalidRequest(
            f"{len(raws):,} raw_input_contents for {len(given)} inputs: send one for each, in their order",
            "raw_input_contents",
        )
    texts = {
        tensor.name: read_texts(tensor, raws[position] if raws else None, limits.batch_items)
        for position, tensor in enumerate(message.inputs)
    }
    counts = {name: len(values) for name, values in texts.items()}
    if len({*counts.values()}) > 1:
        raise InvalidRequest(
            f"input '{TEXT}' has {counts[TEXT]:,} rows and '{TEXT_PAIR}' {counts[TEXT_PAIR]:,}: each text needs its pair",
            TEXT_PAIR,
        )
    return texts


def _outputs(message: oip.ModelInferRequest, manifest: Manifest, paired: bool) -> tuple[Output, ...]:
    """Those that the client names, in its order; or those of all tasks that read what it sent."""
    known = outputs_of(manifest)
    for wanted in message.outputs:
        if wanted.name not in known:
            raise InvalidRequest(
                f"unknown output {quoted(wanted.name)}: model '{manifest.name}' has {', '.join(known)}", "outputs"
            )
        if wanted.parameters:
            key = next(iter(wanted.parameters))
            raise InvalidRequest(
                f"output '{wanted.name}' has the parameter {quoted(key)}; outputs take none here", "outputs"
            )
    if message.outputs:
        return tuple(known[name] for name in dict.fromkeys(wanted.name for wanted in message.outputs))
    return tuple(output for output in known.values() if not output.task or manifest.tasks[output.task].pairs == paired)


def _unasked(manifest: Manifest, texts: Mapping[str, list[str]]) -> tuple[str, ...]:
    """The tasks that read what the client sent."""
    return tuple(name for name, task in manifest.tasks.items() if task.pairs == (TEXT_PAIR in texts))


def _check_pairs(tasks: tuple[str, ...], texts: Mapping[str, list[str]], manifest: Manifest) -> None:
    pairs = [name for name in tasks if manifest.tasks[name].pairs]
    if not tasks:
        raise InvalidRequest(
            f"the input '{TEXT_PAIR}' is missing: the tasks of model '{manifest.name}' read pairs of texts", "inputs"
        )
    if pairs and TEXT_PAIR not in texts:
        raise InvalidRequest(f"the input '{TEXT_PAIR}' is missing: task '{pairs[0]}' reads pairs of texts", "inputs")
    if not pairs and TEXT_PAIR in texts:
        raise InvalidRequest(f"task '{tasks[0]}' reads a single text: leave the input '{TEXT_PAIR}' away", TEXT_PAIR)


def _row(
    row: int,
    texts: Mapping[str, list[str]],
    tasks: tuple[str, ...],
    settings: Settings,
    manifest: Manifest,
    limits: Limits,
    deadline: float | None,
) -> list[Asked]:
    """What the pipeline is asked for one row: one request for the tasks on the text, one for each on the pair."""
    text, single = texts[TEXT][row], [name for name in tasks if not manifest.tasks[name].pairs]
    try:
        asked = []
        if single:
            whole = pb.ParseRequest(text=text, tasks=single, thresholds=settings.thresholds, **settings.fields)
            asked.append(parse_request(whole, manifest, limits, deadline))
        for name in tasks:
            if manifest.tasks[name].pairs:
                one = pb.PredictRequest(task=name, text=text, text_pair=texts[TEXT_PAIR][row], **settings.fields)
                asked.append(predict_request(one, manifest, limits, deadline))
    except InvalidRequest as error:
        raise InvalidRequest(f"row {row}: {error}", error.field) from None
    return asked
