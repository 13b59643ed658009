"""Combinations of graph, execution provider and precision that a machine can try for a bundle."""

from collections.abc import Collection

from palm_serve.bundle.manifest import Manifest
from palm_serve.engine.candidate import PLAIN, PRECISIONS, Candidate
from palm_serve.engine.cpu_features import computes_in_bf16
from palm_serve.engine.options import CPU, CUDA, OPENVINO, TENSORRT


def machine_candidates(manifest: Manifest, available: Collection[str]) -> list[Candidate]:
    """Return the combinations to prove, exact ones first and the plain graph on the CPU before all.

    Args:
        manifest: the manifest of the bundle.
        available: execution providers of this machine.
    """
    candidates = [PLAIN]
    for name, variant in manifest.variants.items():
        if name != PLAIN.variant:
            candidates.append(Candidate(name, CPU, variant.weights))
        candidates.append(Candidate(name, CUDA, variant.weights))
        if variant.weights == "int8":
            candidates.append(Candidate(name, OPENVINO, "int8"))
    precisions = ("fp32", "bf16") if computes_in_bf16() else ("fp32",)
    for precision in precisions:
        candidates.append(Candidate(PLAIN.variant, OPENVINO, precision))
    for precision in ("fp32", "fp16"):
        candidates.append(Candidate(PLAIN.variant, TENSORRT, precision))
    usable = [candidate for candidate in candidates if candidate.provider in available]
    return sorted(usable, key=lambda candidate: PRECISIONS.index(candidate.precision))


def failed_gate(manifest: Manifest, candidate: Candidate) -> bool:
    """Return True if the export compared this combination on all of dev, and it failed."""
    for gate in manifest.variants[candidate.variant].gates:
        if (gate.provider, gate.precision) == (candidate.provider, candidate.precision) and not gate.passed:
            return True
    return False
