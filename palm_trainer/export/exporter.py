"""Export of a trained model to a bundle, which appears only if it gives the answers of the model."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from palm_serve.bundle.golden import GoldenExample
from palm_serve.bundle.loader import ARRAYS, GOLDEN, PROOF, SIGNATURE, TOKENIZER, VALUES, Bundle
from palm_serve.bundle.manifest import Manifest, TaskInfo, tasks_digest
from palm_serve.bundle.proof import proof_bytes
from palm_serve.bundle.values_file import ValuesFile
from palm_serve.engine.candidate import PLAIN
from palm_serve.proof.proving import Prover, check_proof
from palm_serve.proof.recording import MIN_EXAMPLES, SHAPES, record_proof
from palm_serve.tokenization import bare_tokenizer_json
from palm_serve.types import Engine
from palm_trainer.errors import ExportError, ParityError
from palm_trainer.evaluation.evaluate import EvaluationSet, Metrics
from palm_trainer.export.bundle_draft import BundleDraft
from palm_trainer.export.bundle_writer import (
    BundleWriter,
    choose_bundle_name,
    compute_signature,
    staged_bundle,
    to_npz_bytes,
)
from palm_trainer.export.gate import GateMeasurements
from palm_trainer.export.golden import AnsweredExample, choose_golden
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.int8_search import ReadTrainSets
from palm_trainer.export.measured_variants import measure_variants
from palm_trainer.export.model_card import render_model_card
from palm_trainer.export.predictors import trained_predictor
from palm_trainer.export.reference import Reference
from palm_trainer.export.report import (
    ExportReport,
)
from palm_trainer.export.to_onnx import DIGEST, to_onnx_files
from palm_trainer.export.variants import PRECISIONS, GraphDraft, draft_graphs
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tasks import task_kind

GRAPH = "model.onnx"
CARD = "README.md"
_EXAMPLE_TEXT = "your text"
_LARGE_MODEL_NOTE = (
    "fused, fp16, int8: not available for a graph with more than 2 GB of weights, which are in a separate file"
)


def export_bundle(
    trained: TrainedModel,
    sets: Sequence[EvaluationSet],
    output: Path,
    *,
    precision: str = "auto",
    name: str | None = None,
    overwrite: bool = False,
    metrics: Mapping[str, Metrics] | None = None,
    include: Collection[str] = (),
    train: ReadTrainSets = tuple,
    sign: Path | None = None,
    values: ValuesFile | None = None,
    say: Callable[[str], None] = lambda step: None,
) -> tuple[Manifest, ExportReport]:
    """Export a trained model to the bundle `output`.

    Args:
        trained: the model. Its auxiliary tasks are left out, except those in `include`.
        sets: dev examples, which the parity check runs over.
        output: a directory that does not exist, or with `overwrite` a bundle.
        precision: a key of `variants.PRECISIONS`.
        name: name of the model. The default is the name of the directory.
        overwrite: replace an existing bundle.
        metrics: metrics by split, for the model card.
        include: auxiliary tasks to export as well.
        train: reads training examples, which the int8 search may need.
        sign: Ed25519 private key (PEM) to sign the manifest with.
        values: what the values of spans stand for. Tasks that are not exported are left out.
        say: called with a description of each step.

    Returns:
        The manifest of the bundle, and a report on all candidates.

    Raises:
        ParityError: if the graph does not give the answers of the model. Nothing is written then.
        ExportError: for all other failures. Nothing is written then.
    """
    _check_inputs(sets, sign)
    tasks = _exported_tasks(trained, include)
    precisions = PRECISIONS[precision]
    with staged_bundle(output, overwrite=overwrite) as writer:
        say("exporting the graph")
        graph = ExportGraph(trained.model, tuple(tasks))
        files = to_onnx_files(graph, trained.max_length, {DIGEST: _compute_digest(trained, tasks)}, GRAPH)
        draft = _start_draft(writer, trained, graph, tasks, choose_bundle_name(name, output))
        _write_values(writer, values, tasks)
        draft.add_plain(PLAIN.variant, files)
        say("creating the graph variants")
        variant_notes = _add_variants(draft, files, graph, precisions)
        predictor = trained_predictor(trained, graph)
        reference, measurements, report = measure_variants(
            draft, files[GRAPH], predictor, sets, precision, train=train, notes=variant_notes, say=say
        )
        say("writing the bundle")
        _keep_measured_variants(draft, measurements, report)
        notes = [draft.share_weights()] if draft.is_compact else []
        manifest, note = _finish_bundle(draft, measurements, reference, sets, metrics or {}, sign)
        size = writer.size()
    return manifest, replace(report, notes=(*report.notes, *notes, note), size=size)


def _check_inputs(sets: Sequence[EvaluationSet], key: Path | None) -> None:
    """Tell before the work begins that there are no examples, or that the key cannot be used."""
    if key is not None:
        compute_signature(b"", key)
    if not any(evaluation_set.examples for evaluation_set in sets):
        raise ExportError(
            "the parity check needs dev examples, and the data of the run has none. "
            "Add `dev = ...` to a data set and train again."
        )


def _exported_tasks(trained: TrainedModel, include: Collection[str] = ()) -> dict[str, TaskInfo]:
    """Return the manifest entries of the tasks to export, checked against the heads."""
    for name in include:
        if name not in trained.tasks:
            raise ExportError(
                f"--include must be a task of the run ({', '.join(sorted(trained.tasks))}), got {name}. Choose another."
            )
        kind = trained.tasks[name].kind
        if not task_kind(kind).is_answered:
            raise ExportError(
                f"--include must be a task that a server can answer, got the {kind} task {name}. Leave it out."
            )
    excluded = trained.auxiliary - set(include)
    tasks = {}
    for name, info in trained.tasks.items():
        if name not in excluded:
            tasks[name] = info
    if not tasks:
        raise ExportError(
            f"all tasks of this run are auxiliary ({', '.join(sorted(trained.auxiliary))}), so none is exported. "
            "Add one with --include TASK."
        )
    for name, info in tasks.items():
        outputs = trained.model.output_names((name,))
        if info.outputs != outputs:
            raise ExportError(
                f"task '{name}' must have the outputs of its head ({', '.join(outputs)}), "
                f"got {', '.join(info.outputs)}. Train again with this version."
            )
    return tasks


def _compute_digest(trained: TrainedModel, tasks: dict[str, TaskInfo]) -> str:
    return tasks_digest(tasks, bare_tokenizer_json(trained.tokenizer_json).encode())


def _start_draft(
    writer: BundleWriter, trained: TrainedModel, graph: ExportGraph, tasks: dict[str, TaskInfo], name: str
) -> BundleDraft:
    """Write tokenizer and decoder arrays, and return a draft without graphs."""
    arrays = {}
    for info in tasks.values():
        for array_name in info.decode.arrays.values():
            arrays[array_name] = trained.arrays[array_name]
    writer.write(TOKENIZER, bare_tokenizer_json(trained.tokenizer_json).encode())
    writer.write(ARRAYS, to_npz_bytes(arrays))
    return BundleDraft(
        writer=writer,
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        encoder=trained.encoder,
        max_length=trained.max_length,
        input_names=graph.input_names,
        tasks=tasks,
    )


def _write_values(writer: BundleWriter, values: ValuesFile | None, tasks: dict[str, TaskInfo]) -> None:
    """Write what the values of the exported tasks stand for, if it is known."""
    exported = {}
    if values is not None:
        for name, slots in values.tasks.items():
            if name in tasks:
                exported[name] = slots
    if exported:
        content = ValuesFile(tasks=exported).model_dump_json(exclude_defaults=True, indent=1)
        writer.write(VALUES, f"{content}\n".encode())


def _add_variants(
    draft: BundleDraft, files: Mapping[str, bytes], graph: ExportGraph, precisions: Collection[str]
) -> dict[str, str]:
    """Write further graphs. Return a note on each by name, also on those that cannot be made."""
    if len(files) > 1:
        return {PLAIN.variant: _LARGE_MODEL_NOTE}
    notes = {}
    for graph_draft in draft_graphs(files[GRAPH], graph, precisions):
        notes[graph_draft.name] = str(graph_draft)
        if isinstance(graph_draft, GraphDraft):
            draft.add_variant(graph_draft)
    return notes


def _keep_measured_variants(draft: BundleDraft, measurements: GateMeasurements, report: ExportReport) -> None:
    """Remove the variants that are not written, and enter the gates of the others."""
    written = set()
    for row in report.rows:
        if not row.reason:
            written.add(row.candidate.variant)
    for variant in list(draft.variants):
        if variant not in written:
            draft.remove_variant(variant)
            continue
        gates = []
        for candidate, result in measurements.results.items():
            if candidate.variant == variant:
                gates.append(result.gate)
        draft.gates[variant] = tuple(gates)


def _record_proof(draft: BundleDraft, usable: Sequence[bool], reference: Reference) -> bytes:
    """Write what every server compares its engines with, and return it."""
    try:
        proof = record_proof(reference.predictor, reference.examples, draft.encoder, usable)
    except ValueError as error:
        raise ExportError(f"the proof cannot be recorded: {error}. Add dev examples with some text.") from None
    content = proof_bytes(proof)
    draft.writer.write(PROOF, content)
    return content


def _check_proof(bundle: Bundle, plain: Engine, example_count: int, size: int) -> str:
    """Compare the plain graph with the proof of its bundle, as a server does. Return a note on the proof."""
    prover = Prover(bundle)
    reason = check_proof(prover.compare(plain), prover.examples)
    if reason is not None:
        raise ParityError(f"the plain graph fails the proof: {reason}. Please report this with your configuration.")
    few = f", fewer than {MIN_EXAMPLES} because dev has no more short ones" if prover.examples < MIN_EXAMPLES else ""
    return (
        f"{PROOF}: {prover.examples} of {example_count} dev examples{few}, {SHAPES} random shapes, "
        f"{size / 2**20:.2f} MiB"
    )


def _finish_bundle(
    draft: BundleDraft,
    measurements: GateMeasurements,
    reference: Reference,
    sets: Sequence[EvaluationSet],
    metrics: Mapping[str, Metrics],
    key: Path | None,
) -> tuple[Manifest, str]:
    """Write proof, golden examples, model card and manifest, load the bundle, and sign it if there is a key.

    Return the manifest, and a note on the proof.
    """
    # As for golden examples: an answer that a passed precision changes here is too close to call for other machines.
    content = _record_proof(draft, measurements.equal_examples(), reference)
    golden = choose_golden(_list_agreed_answers(measurements, sets), draft.tasks)
    if golden:
        lines = []
        for example in golden:
            lines.append(example.model_dump_json(exclude_unset=True) + "\n")
        draft.writer.write(GOLDEN, "".join(lines).encode())
    card = render_model_card(draft, sets, metrics, _choose_example_text(golden))
    draft.writer.write(CARD, card.encode())
    bundle = draft.read_back()
    note = _check_proof(bundle, measurements.engines[PLAIN], len(reference.examples), len(content))
    if key is not None:
        draft.writer.write(SIGNATURE, compute_signature(draft.read_manifest(), key))
    return bundle.manifest, note


def _list_agreed_answers(measurements: GateMeasurements, sets: Sequence[EvaluationSet]) -> list[list[AnsweredExample]]:
    """List the examples of each set that all candidates answer as the trained model does, with these answers."""
    equal_examples = measurements.equal_examples()
    position = 0
    agreed_by_set = []
    for evaluation_set in sets:
        agreed: list[AnsweredExample] = []
        for example in evaluation_set.examples:
            if equal_examples[position]:
                agreed.append((example, measurements.answers[position]))
            position += 1
        agreed_by_set.append(agreed)
    return agreed_by_set


def _choose_example_text(golden: Sequence[GoldenExample]) -> str:
    for example in golden:
        if example.pair is None:
            return example.text
    return _EXAMPLE_TEXT
