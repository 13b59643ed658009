"""Variants of the plain graph for a `--precision`, and the candidates that each is measured as."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from palm_serve.engine.candidate import PLAIN, Candidate
from palm_serve.engine.options import CPU, CUDA, OPENVINO
from palm_trainer.errors import ExportError
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.optimize import fuse, serialize, to_fp16
from palm_trainer.export.quantize import find_matmuls, find_tables, to_int8

Weights = Literal["fp32", "fp16", "int8"]
FUSED = "fused"
FP16 = "fp16"
INT8 = "int8"
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "fp32": ("fp32",),
    "fp16": ("fp32", "fp16"),
    "bf16": ("fp32", "bf16"),
    "int8": ("fp32", "int8"),
    "auto": ("fp32", "bf16", "int8"),
}
"""Precisions to measure, by the value of `--precision`. bf16 needs no graph: OpenVINO runs the plain one in bf16."""


@dataclass(frozen=True)
class GraphDraft:
    """A graph that may become a variant. `description` says how it differs from the plain one."""

    name: str
    weights: Weights
    content: bytes
    description: str

    @property
    def file(self) -> str:
        """Return its path in the bundle."""
        return f"variants/{self.name}.onnx"

    def __str__(self) -> str:
        return f"{self.name}: {self.description}"


@dataclass(frozen=True)
class MissingGraph:
    """A graph that cannot be made, with the reason."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def draft_graphs(plain: bytes, graph: ExportGraph, precisions: Collection[str]) -> Iterator[GraphDraft | MissingGraph]:
    """Draft the graphs to try.

    Args:
        plain: the plain graph.
        graph: the module that it was exported from.
        precisions: precisions to measure.
    """
    model = onnx.load_from_string(plain)
    yield _draft_fused(model, graph)
    if INT8 in precisions:
        yield draft_int8(plain)
    if FP16 in precisions:
        yield GraphDraft(FP16, "fp16", serialize(to_fp16(model)), "weights and arithmetic in fp16")


def draft_int8(plain: bytes, excluded: Collection[str] = ()) -> GraphDraft | MissingGraph:
    """Draft the int8 graph. The matrix multiplications in `excluded` stay in fp32."""
    model = onnx.load_from_string(plain)
    names = find_matmuls(model)
    quantized_count = len([name for name in names if name not in excluded])
    if not quantized_count:
        return MissingGraph(INT8, "the graph has no multiplication with a weight matrix")
    description = describe_int8(quantized_count, len(names))
    tables = len(find_tables(model))
    if tables:
        description += f"; {tables} embedding {'table' if tables == 1 else 'tables'} by row"
    return GraphDraft(INT8, "int8", serialize(to_int8(model, excluded)), description)


def describe_int8(quantized_count: int, matmul_count: int) -> str:
    """Describe how many matrix multiplications of a graph are quantized."""
    text = f"{quantized_count} of {matmul_count} matrix multiplications quantized to int8"
    excluded_count = matmul_count - quantized_count
    if excluded_count == 0:
        return text
    if excluded_count == 1:
        return f"{text}; the most sensitive one stays in fp32"
    return f"{text}; the {excluded_count} most sensitive stay in fp32"


def list_candidates(
    variant_weights: Mapping[str, Weights], precisions: Collection[str], providers: Iterable[str]
) -> list[Candidate]:
    """List the candidates to measure, the exact one first. OpenVINO fuses the plain graph itself.

    Args:
        variant_weights: weights of each variant.
        precisions: precisions to measure.
        providers: providers that are available.
    """
    available = set(providers)
    candidates = [PLAIN]
    for precision in ("fp32", "bf16"):
        if precision in precisions:
            candidates.append(Candidate(PLAIN.variant, OPENVINO, precision))
    for name, weights in variant_weights.items():
        if name != PLAIN.variant:
            candidates.append(Candidate(name, CPU, weights))
        if name == INT8 and OPENVINO in available:
            candidates.append(Candidate(name, OPENVINO, INT8))
        if CUDA in available:
            candidates.append(Candidate(name, CUDA, weights))
    return candidates


def _draft_fused(model: onnx.ModelProto, graph: ExportGraph) -> GraphDraft | MissingGraph:
    heads, hidden_size = _attention_size(graph)
    try:
        fused_model, operator_counts = fuse(model, heads, hidden_size)
        if not operator_counts:
            return MissingGraph(FUSED, "the optimizer of ONNX Runtime recognises nothing in this encoder")
        counts = [f"{count} {name}" for name, count in sorted(operator_counts.items())]
        return GraphDraft(FUSED, "fp32", serialize(fused_model), ", ".join(counts))
    except ExportError as error:
        return MissingGraph(FUSED, str(error))


def _attention_size(graph: ExportGraph) -> tuple[int, int]:
    """Return the attention heads and the hidden size of the encoder, 0 where unknown."""
    settings = getattr(getattr(graph.model.backbone, "encoder", None), "config", None)
    return getattr(settings, "num_attention_heads", 0), getattr(settings, "hidden_size", 0)
