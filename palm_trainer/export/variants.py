"""Which graphs beside the plain one are made for a `--precision`, and where each is put to the gate."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from palm_serve.bundle.manifest import Manifest
from palm_serve.engine.options import CPU, CUDA, OPENVINO
from palm_serve.engine.providers import PLAIN, Candidate
from palm_trainer.errors import ExportError
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.optimize import fuse, serialized, to_fp16
from palm_trainer.export.quantize import products, to_int8

Weights = Literal["fp32", "fp16", "int8"]
FUSED, FP16, INT8 = "fused", "fp16", "int8"
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "fp32": ("fp32",),
    "fp16": ("fp32", "fp16"),
    "bf16": ("fp32", "bf16"),
    "int8": ("fp32", "int8"),
    "auto": ("fp32", "bf16", "int8"),
}
"""What `--precision` may say -> the precisions that graphs are measured in. bf16 needs no graph: OpenVINO computes the plain one in it."""


@dataclass(frozen=True)
class Draft:
    """A graph that may become a variant. `told` says in words what was done to the plain one."""

    name: str
    weights: Weights
    content: bytes
    told: str

    @property
    def file(self) -> str:
        """Its place in the bundle."""
        return f"variants/{self.name}.onnx"

    def __str__(self) -> str:
        return f"{self.name}: {self.told}"


def drafts(plain: bytes, graph: ExportGraph, precisions: Collection[str]) -> Iterator[Draft | str]:
    """Graphs to try, or in words why one cannot be made."""
    model = onnx.load_from_string(plain)
    try:
        fused, found = fuse(model, *_attention(graph))
        if found:
            content = serialized(fused)
            told = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
            yield Draft(FUSED, "fp32", content, told)
        else:
            yield f"{FUSED}: ONNX Runtime's optimizer recognises nothing in this encoder"
    except ExportError as error:
        yield f"{FUSED}: {error}"
    if INT8 in precisions:
        yield int8_draft(plain)
    if FP16 in precisions:
        yield Draft(FP16, "fp16", serialized(to_fp16(model)), "weights and arithmetic in fp16")


def int8_draft(plain: bytes, keep: Collection[str] = ()) -> Draft | str:
    """The int8 graph with the products of `keep` left in fp32."""
    model = onnx.load_from_string(plain)
    chosen = [name for name in products(model) if name not in keep]
    if not chosen:
        return f"{INT8}: the graph has no product with a matrix of weights"
    told = f"{len(chosen)} of {len(products(model))} products in int8"
    return Draft(INT8, "int8", serialized(to_int8(model, keep)), told)


def combinations(manifest: Manifest, precisions: Collection[str], present: Collection[str]) -> list[Candidate]:
    """Where the variants of `manifest` are measured, the exact combination first. OpenVINO fuses the plain graph itself."""
    found = [PLAIN, *(Candidate("plain", OPENVINO, p) for p in ("fp32", "bf16") if p in precisions)]
    for name, variant in manifest.variants.items():
        if name != "plain":
            found.append(Candidate(name, CPU, variant.weights))
        if name == INT8 and OPENVINO in present:
            found.append(Candidate(name, OPENVINO, INT8))
        if CUDA in present:
            found.append(Candidate(name, CUDA, variant.weights))
    return found


def _attention(graph: ExportGraph) -> tuple[int, int]:
    """Heads of an attention layer and hidden size; 0 for an encoder that does not tell."""
    settings = getattr(getattr(graph.model.backbone, "encoder", None), "config", None)
    return getattr(settings, "num_attention_heads", 0), getattr(settings, "hidden_size", 0)
