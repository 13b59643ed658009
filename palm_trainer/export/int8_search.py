"""int8 that keeps a margin: products that hurt most are left in float, a few more at each try, until the gate is passed with something to spare.

All bounds are counts and none is a time, so that the same run gives the same bundle.
"""

from collections.abc import Callable, Sequence

import onnx

from palm_serve.bundle.loader import load_bundle
from palm_serve.bundle.manifest import Manifest
from palm_trainer.errors import PalmError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.bundle_writer import BundleWriter
from palm_trainer.export.gate import Measured, measure
from palm_trainer.export.predictors import Side
from palm_trainer.export.sensitivity import choices, draw_samples, sensitivities
from palm_trainer.export.variants import INT8, Draft, int8_draft

Train = Callable[[], Sequence[EvaluationSet]]
"""Gives training examples; it is asked only where they are needed."""


def needs_margin(measured: Measured) -> bool:
    """Whether int8 fails somewhere, or passes with nothing to spare."""
    return any(not result.margin for candidate, result in measured.results.items() if candidate.variant == INT8)


def leave_in_float(
    writer: BundleWriter,
    manifest: Manifest,
    plain: bytes,
    measured: Measured,
    reference: Side,
    sets: Sequence[EvaluationSet],
    train: Train,
) -> tuple[Manifest, Measured, str]:
    """The int8 graph that has most margin, written in place of the first one; its gates; in words what was found.

    Sensitivity is measured on examples of `train`; `sets`, the dev examples, are looked at only by the gate.
    """
    try:
        samples = draw_samples(reference, train())
    except PalmError as error:
        return manifest, measured, f"{INT8}: no product is left in float, as there are no training examples: {error}"
    if not samples:
        return manifest, measured, f"{INT8}: no product is left in float, as there are no training examples"
    errors = sensitivities(onnx.load_from_string(plain), samples, reference.by_token)
    wanted = [candidate for candidate in measured.results if candidate.variant == INT8]
    first = (writer.directory / manifest.variants[INT8].file).read_bytes()
    best, kept, content = measured, 0, first
    for keep in choices(errors):
        draft = int8_draft(plain, keep)
        if not isinstance(draft, Draft):
            break
        manifest = _written(writer, manifest, draft.content)
        found = measured.with_others(measure(load_bundle(writer.directory), reference, sets, wanted))
        if _quality(found) > _quality(best):
            best, kept, content = found, len(keep), draft.content
        if not needs_margin(found):
            break
    manifest = _written(writer, manifest, content)
    if not kept:
        return manifest, best, f"{INT8}: leaving the products that hurt most in float brings no margin"
    return (
        manifest,
        best,
        f"{INT8}: {len(errors) - kept} of {len(errors)} products in int8; those that hurt most are left in float",
    )


def _quality(measured: Measured) -> tuple[int, int]:
    """On how many providers int8 passes with a margin, and on how many it passes."""
    found = [result for candidate, result in measured.results.items() if candidate.variant == INT8]
    return sum(result.margin for result in found), sum(result.gate.passed for result in found)


def _written(writer: BundleWriter, manifest: Manifest, content: bytes) -> Manifest:
    """With this as the int8 graph. The old file is taken away first: an engine may have it mapped."""
    variant = manifest.variants[INT8].model_copy(update={"size": len(content)})
    writer.remove(variant.file)
    writer.write(variant.file, content)
    return writer.write_manifest(manifest.model_copy(update={"variants": {**manifest.variants, INT8: variant}}))
