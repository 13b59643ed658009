"""PyTorch -> ONNX: exact, the same bytes for the same model, checked.

The TorchScript exporter is used, not the newer one of torch.export: its graph of eager attention is the form that ONNX Runtime's transformer
optimizer recognises (6 of 6 attention layers of MiniLM-L6, against none), and it takes a tenth of the time. What a trace may get wrong
(a shape or a branch frozen into the graph) is what `parity` looks for.
"""

import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch

from palm_trainer.errors import ExportError
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.optimize import check, serialized

OPSET = 17
"""The first with LayerNormalization as one operator."""
DIGEST = "palm.digest"
_STDOUT = 1
_PROTOBUF_LIMIT = 2**31 - 1
_HEADROOM = 2**24
"""Bytes left for the graph itself beside its weights."""
_EXTERNAL_FROM = 1024
"""Bytes of a tensor that is kept beside the graph; the smaller ones, shapes among them, stay in it."""


def to_files(graph: ExportGraph, max_length: int, metadata: Mapping[str, str], name: str) -> dict[str, bytes]:
    """The files of the fp32 graph: `name`, and with weights over ONNX's 2 GB, `name` without them and `NAME.data` with them. As `to_onnx`."""
    if _size(graph) <= _PROTOBUF_LIMIT - _HEADROOM:
        return {name: to_onnx(graph, max_length, metadata)}
    data = f"{name}.data"
    with tempfile.TemporaryDirectory() as folder:
        traced, path = Path(folder) / "traced" / name, Path(folder) / name
        traced.parent.mkdir()
        _trace(graph, max_length, str(traced))  # a path: the exporter puts such weights beside the graph, a file each
        model = onnx.load(traced)
        onnx.helper.set_model_props(model, dict(metadata))
        onnx.save_model(
            model,
            path,
            save_as_external_data=True,
            location=data,
            size_threshold=_EXTERNAL_FROM,
            convert_attribute=True,
        )
        del model
        check(path)
        bare = onnx.load(path, load_external_data=False)
        content: bytes = bare.SerializeToString(deterministic=True)
        return {name: content, data: (Path(folder) / data).read_bytes()}


def to_onnx(graph: ExportGraph, max_length: int, metadata: Mapping[str, str]) -> bytes:
    """The serialized fp32 graph with dynamic batch and sequence, of weights that one file holds.

    Args:
        graph: what to export.
        max_length: tokens that the model takes.
        metadata: stored in the graph (`palm.digest`).

    Raises ExportError for what cannot be traced.
    """
    stream = io.BytesIO()
    _trace(graph, max_length, stream)
    model = onnx.load_from_string(stream.getvalue())
    onnx.helper.set_model_props(model, dict(metadata))
    return serialized(model)


def _size(graph: ExportGraph) -> int:
    """Of the weights, bytes; those that several parts share counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in {*graph.parameters(), *graph.buffers()})


def _trace(graph: ExportGraph, max_length: int, place: io.BytesIO | str) -> None:
    with _quiet():
        try:
            torch.onnx.export(
                graph,
                graph.example_inputs(max_length),
                place,  # type: ignore[arg-type]  # the TorchScript exporter takes a stream, its annotation does not say so
                input_names=list(graph.input_names),
                output_names=list(graph.output_names),
                dynamic_axes=graph.dynamic_axes(max_length),
                opset_version=OPSET,
                dynamo=False,
            )
        except (
            Exception
        ) as error:  # a head of the user's own may raise anything, and the exporter's errors share no base class
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
            raise ExportError(
                f"the model cannot be exported to ONNX opset {OPSET}: {type(error).__name__}: {reason.rstrip('.')}. "
                f"Write the head or encoder with operators that ONNX has (tasks: {', '.join(graph.tasks)})."
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's advice to developers from users; the parity gate checks what it warns of.

    When an operator cannot be exported, it prints the whole graph from C++ on standard output, which can only be turned off below Python.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    sys.stdout.flush()
    stdout = os.dup(_STDOUT)
    try:
        logger.setLevel(logging.ERROR)
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), _STDOUT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(stdout, _STDOUT)
        os.close(stdout)
        logger.setLevel(level)
