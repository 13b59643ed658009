"""Equivalent forms of the plain graph: fused operators and half precision, by the tools of ONNX Runtime."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import ModelProto, helper

from palm_trainer.errors import ExportError

_CONTRIB_DOMAIN = "com.microsoft"
_FP32_OPERATORS = (
    "LayerNormalization",
    "SkipLayerNormalization",
    "EmbedLayerNormalization",
    "Softmax",
    "ReduceMean",
    "ReduceL2",
    "Pow",
    "Range",
)
"""Sums of squares and exponentials, where fp16 overflows or becomes inexact."""


def fuse(plain: ModelProto, heads: int, hidden_size: int) -> tuple[ModelProto, dict[str, int]]:
    """Fuse attention, GELU, layer normalization and embeddings into one operator each.

    The optimizer for BERT supports all encoders of that form.

    Args:
        plain: the plain graph.
        heads: heads of an attention layer. 0 if unknown: attention is not fused then.
        hidden_size: hidden size of the encoder.

    Returns:
        The graph, and the number of fused operators of each kind.

    Raises:
        ExportError: if the optimizer fails on the graph.
    """
    with _quiet_tools():
        from onnxruntime.transformers.fusion_options import FusionOptions
        from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

        model = ModelProto()
        model.CopyFrom(plain)
        optimizer = BertOnnxModel(model, heads, hidden_size)
        try:
            optimizer.optimize(FusionOptions("bert"))
        except Exception as error:  # The optimizer assumes a form that a graph need not have.
            raise ExportError(f"the graph cannot be fused: {type(error).__name__}: {error}") from error
        optimizer.topological_sort(is_deterministic=True)
        statistics = optimizer.get_fused_operator_statistics()
    counts = {}
    for name, count in statistics.items():
        if count:
            counts[name] = count
    _restore_interface(plain, model)
    domains = {entry.domain for entry in model.opset_import}
    if counts and _CONTRIB_DOMAIN not in domains:
        model.opset_import.append(helper.make_opsetid(_CONTRIB_DOMAIN, 1))
    return model, counts


def to_fp16(plain: ModelProto) -> ModelProto:
    """Convert weights and arithmetic to fp16. Inputs, outputs and operators that would overflow stay as they are."""
    with _quiet_tools():
        from onnxruntime.transformers import float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        copy = ModelProto()
        copy.CopyFrom(plain)
        blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *_FP32_OPERATORS]
        model: ModelProto = float16.convert_float_to_float16(copy, keep_io_types=True, op_block_list=blocked)
        OnnxModel.graph_topological_sort(model.graph, is_deterministic=True)
    _restore_interface(plain, model)
    return model


def serialize(model: ModelProto) -> bytes:
    """Check and serialize a graph, with the same bytes for the same graph.

    Raises:
        ExportError: if it is not valid ONNX.
    """
    check_onnx(model)
    # Deterministic, because protobuf writes map entries in hash order otherwise.
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def check_onnx(model: ModelProto | Path) -> None:
    """Check a graph, or the file of a graph whose weights are in a separate file.

    Raises:
        ExportError: if it is not valid ONNX.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the exported graph is not valid ONNX: {error}. Please report this with your configuration."
        ) from error


def _restore_interface(plain: ModelProto, model: ModelProto) -> None:
    """Give a graph the inputs, outputs, axes and metadata of the plain one."""
    del model.graph.input[:]
    model.graph.input.extend(plain.graph.input)
    del model.graph.output[:]
    model.graph.output.extend(plain.graph.output)
    del model.metadata_props[:]
    model.metadata_props.extend(plain.metadata_props)


@contextmanager
def _quiet_tools() -> Iterator[None]:
    """Silence the tools, which log what they do not find as warnings on the root logger."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)
