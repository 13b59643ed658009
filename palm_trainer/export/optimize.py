"""Other forms of the plain graph that compute the same: fused operators, half precision. ONNX Runtime's own tools, kept quiet."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import ModelProto, helper

from palm_trainer.errors import ExportError

_CONTRIB = "com.microsoft"
_KEPT_IN_FP32 = (
    "LayerNormalization",
    "SkipLayerNormalization",
    "EmbedLayerNormalization",
    "Softmax",
    "ReduceMean",
    "Pow",
    "Range",
)
"""Sums of squares and exponentials: where fp16 overflows or loses the answer."""


def fuse(plain: ModelProto, heads: int, hidden_size: int) -> tuple[ModelProto, dict[str, int]]:
    """Attention, GELU, layer normalization and the embeddings as one operator each; how many there are of each kind (none: nothing was recognised).

    The optimizer for BERT takes all encoders of that form. `heads` are those of an attention layer, 0 where unknown: then attention stays as it is.
    """
    with _quiet():
        from onnxruntime.transformers.fusion_options import FusionOptions
        from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

        model = ModelProto()
        model.CopyFrom(plain)
        optimizer = BertOnnxModel(model, heads, hidden_size)
        try:
            optimizer.optimize(FusionOptions("bert"))
        except Exception as error:  # it assumes a form that a graph need not have
            raise ExportError(f"the graph cannot be fused: {type(error).__name__}: {error}") from error
        optimizer.topological_sort(is_deterministic=True)
        found = {name: count for name, count in optimizer.get_fused_operator_statistics().items() if count}
    _keep_face(plain, model)
    if found and all(entry.domain != _CONTRIB for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    return model, found


def to_fp16(plain: ModelProto) -> ModelProto:
    """Weights and arithmetic in fp16, inputs and outputs as they were; what overflows stays in fp32."""
    with _quiet():
        from onnxruntime.transformers import float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        copy = ModelProto()
        copy.CopyFrom(plain)
        blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *_KEPT_IN_FP32]
        model: ModelProto = float16.convert_float_to_float16(copy, keep_io_types=True, op_block_list=blocked)
        OnnxModel.graph_topological_sort(model.graph, is_deterministic=True)
    _keep_face(plain, model)
    return model


def _keep_face(plain: ModelProto, other: ModelProto) -> None:
    """The same inputs, outputs, axes and metadata."""
    for field in ("input", "output"):
        del getattr(other.graph, field)[:]
        getattr(other.graph, field).extend(getattr(plain.graph, field))
    del other.metadata_props[:]
    other.metadata_props.extend(plain.metadata_props)


@contextmanager
def _quiet() -> Iterator[None]:
    """The tools log what they did not find as warnings, on the root logger."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)


def serialized(model: ModelProto) -> bytes:
    """Checked, and the same bytes for the same graph. Raises ExportError."""
    check(model)
    # Deterministic: protobuf keeps map entries in hash order otherwise.
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def check(model: ModelProto | Path) -> None:
    """Raises ExportError for what is not ONNX, in a file where the weights lie beside it."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the exported graph is not valid ONNX: {error}. Please report this with your configuration."
        ) from error
