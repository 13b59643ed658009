"""Conversion of the PyTorch model to an ONNX graph: exact, checked, and the same bytes for the same model.

It uses the TorchScript exporter instead of torch.export. The optimizer of ONNX Runtime recognises its attention layers
(6 of 6 of MiniLM-L6, against none), and it takes a tenth of the time. A trace may freeze a shape or a branch into the
graph. The parity check finds that.
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
from palm_trainer.export.optimize import check_onnx, serialize

OPSET = 17
"""First opset with LayerNormalization as one operator."""
DIGEST = "palm.digest"
_STDOUT = 1
_PROTOBUF_LIMIT = 2**31 - 1
_GRAPH_BYTES = 2**24
"""Bytes that are reserved for the graph without its weights."""
_MIN_EXTERNAL_BYTES = 1024
"""Size from which a tensor is stored in a separate file. Smaller ones, such as shapes, stay in the graph."""


def to_onnx_files(graph: ExportGraph, max_length: int, metadata: Mapping[str, str], name: str) -> dict[str, bytes]:
    """Convert a module to the files of the fp32 graph.

    There is one file, or with weights of more than 2 GB two of them: the graph, and `NAME.data` with the weights.

    Args:
        graph: module to export.
        max_length: tokens that the model reads.
        metadata: metadata of the graph (`palm.digest`).
        name: name of the graph's file.

    Raises:
        ExportError: if the module cannot be traced.
    """
    if _weight_bytes(graph) <= _PROTOBUF_LIMIT - _GRAPH_BYTES:
        return {name: to_onnx(graph, max_length, metadata)}
    data = f"{name}.data"
    with tempfile.TemporaryDirectory() as folder:
        traced_path = Path(folder) / "traced" / name
        traced_path.parent.mkdir()
        # The exporter writes large weights to separate files only if it gets a path.
        _trace(graph, max_length, str(traced_path))
        model = onnx.load(traced_path)
        onnx.helper.set_model_props(model, dict(metadata))
        path = Path(folder) / name
        onnx.save_model(
            model,
            path,
            save_as_external_data=True,
            location=data,
            size_threshold=_MIN_EXTERNAL_BYTES,
            convert_attribute=True,
        )
        del model
        check_onnx(path)
        graph_only = onnx.load(path, load_external_data=False)
        content: bytes = graph_only.SerializeToString(deterministic=True)
        return {name: content, data: (Path(folder) / data).read_bytes()}


def to_onnx(graph: ExportGraph, max_length: int, metadata: Mapping[str, str]) -> bytes:
    """Convert a module to one serialized fp32 graph with dynamic batch and sequence axes.

    Args:
        graph: module to export. One file must be able to hold its weights.
        max_length: tokens that the model reads.
        metadata: metadata of the graph (`palm.digest`).

    Raises:
        ExportError: if the module cannot be traced.
    """
    stream = io.BytesIO()
    _trace(graph, max_length, stream)
    model = onnx.load_from_string(stream.getvalue())
    onnx.helper.set_model_props(model, dict(metadata))
    return serialize(model)


def _weight_bytes(graph: ExportGraph) -> int:
    """Return the size of the weights in bytes. Shared weights count once."""
    size = 0
    for tensor in {*graph.parameters(), *graph.buffers()}:
        size += tensor.numel() * tensor.element_size()
    return size


def _trace(graph: ExportGraph, max_length: int, target: io.BytesIO | str) -> None:
    with _quiet_exporter():
        try:
            torch.onnx.export(
                graph.for_tracing(),
                graph.example_inputs(max_length),
                target,  # type: ignore[arg-type]  # The TorchScript exporter takes a stream, contrary to its annotation.
                input_names=list(graph.input_names),
                output_names=list(graph.output_names),
                dynamic_axes=graph.dynamic_axes(max_length),
                opset_version=OPSET,
                dynamo=False,
            )
        # A custom head may raise anything, and the errors of the exporter have no common base class.
        except Exception as error:
            text = str(error).strip()
            reason = text.splitlines()[0] if text else "no reason given"
            raise ExportError(
                f"the model cannot be exported to ONNX opset {OPSET}: {type(error).__name__}: {reason.rstrip('.')}. "
                f"Write the head or encoder with operators that ONNX has (tasks: {', '.join(graph.tasks)})."
            ) from error


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter, whose warnings are for developers. The parity check covers what it warns of.

    For an operator that cannot be exported it prints the whole graph from C++ on standard output. That can only be
    turned off by replacing the file descriptor.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    sys.stdout.flush()
    stdout = os.dup(_STDOUT)
    try:
        logger.setLevel(logging.ERROR)
        with Path(os.devnull).open("wb") as null_device:
            os.dup2(null_device.fileno(), _STDOUT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(stdout, _STDOUT)
        os.close(stdout)
        logger.setLevel(level)
