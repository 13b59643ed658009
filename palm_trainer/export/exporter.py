"""A trained model -> a bundle, proven before it gets its name."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from palm_serve.bundle.loader import ARRAYS, GOLDEN, TOKENIZER, load_bundle
from palm_serve.bundle.manifest import GraphVariant, Manifest, TaskInfo, TensorInfo, tasks_digest
from palm_serve.engine.providers import available_providers
from palm_serve.tokenization import bare_tokenizer_json
from palm_trainer.errors import ExportError
from palm_trainer.evaluation.evaluate import EvaluationSet, Metrics
from palm_trainer.export.bundle_writer import BundleWriter, bundle_name, npz_bytes, staged_bundle
from palm_trainer.export.gate import Measured, measure
from palm_trainer.export.golden import choose_golden
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.int8_search import Train, leave_in_float, needs_margin
from palm_trainer.export.model_card import model_card
from palm_trainer.export.predictors import RememberingEngine, Side
from palm_trainer.export.quantize import WEIGHT_BITS
from palm_trainer.export.report import Report, rows_of, timed, unwritten
from palm_trainer.export.to_onnx import DIGEST, OPSET, to_files
from palm_trainer.export.variants import FUSED, INT8, PRECISIONS, Draft, combinations, drafts
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tasks import task_kind

PLAIN = "plain"
GRAPH, CARD = "model.onnx", "README.md"
_EXAMPLE_TEXT = "your text"
_WHOLE_ONLY = "fused, fp16, int8: not made of a graph with more than 2 GB of weights, which lie in a file of their own"


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
    train: Train = tuple,
    say: Callable[[str], None] = lambda step: None,
) -> tuple[Manifest, Report]:
    """Writes the bundle `output`; its manifest, and what was tried.

    Args:
        trained: what to export; its auxiliary tasks are left out, but for those of `include`.
        sets: dev examples, which the parity gate runs over.
        output: a directory that does not exist, or with `overwrite` a bundle.
        precision: a key of `variants.PRECISIONS`.
        name: of the model; None: the directory's.
        metrics: by split, for the model card.
        include: auxiliary tasks that are exported too.
        train: gives training examples, where int8 needs some to find what it hurts.
        say: is told what is done now.

    Raises ParityError when the graph does not answer as the model does, ExportError for all else; nothing is left behind then.
    """
    _check_dev(sets)
    tasks = _exported_tasks(trained, include)
    name = bundle_name(name, output)
    precisions = PRECISIONS[precision]
    with staged_bundle(output, overwrite=overwrite) as writer:
        say("exporting the graph")
        graph = ExportGraph(trained.model, tuple(tasks))
        files = to_files(graph, trained.max_length, {DIGEST: _digest(trained, tasks)}, GRAPH)
        draft = _write_draft(writer, trained, graph, tasks, name, files)
        say("making other forms of it")
        made = [_WHOLE_ONLY] if len(files) > 1 else list(drafts(files[GRAPH], graph, precisions))
        draft = _with_drafts(writer, draft, [one for one in made if isinstance(one, Draft)])
        notes = {one if isinstance(one, str) else one.name: str(one) for one in made}
        say("comparing them with the trained model")
        bundle = load_bundle(writer.directory)
        reference = _remembering(Side.trained(trained, graph))
        measured = measure(bundle, reference, sets, combinations(draft, precisions, available_providers()))
        if needs_margin(measured):
            say("looking for what int8 hurts")
            draft, measured, note = leave_in_float(writer, draft, files[GRAPH], measured, reference, sets, train)
            bundle, notes = load_bundle(writer.directory), {**notes, INT8: note}
        say("timing them")
        times = timed(bundle, {c: e for c, e in measured.engines.items() if measured.results[c].gate.passed})
        dropped = unwritten(measured.results, times, () if precision == "auto" else (precision,))
        sizes = {variant: info.size for variant, info in draft.variants.items()}
        report = Report(rows_of(sizes, measured.results, times, dropped), (*notes.values(), *measured.skipped))
        say("writing the bundle")
        for variant in draft.variants.keys() - _kept(measured, dropped):
            writer.remove(draft.variants[variant].file)
        manifest = _finish(writer, _gated(draft, measured, dropped), measured, sets, metrics or {})
    return manifest, report


def _check_dev(sets: Sequence[EvaluationSet]) -> None:
    if not any(one.examples for one in sets):
        raise ExportError(
            "the parity gate needs dev examples, and the run's data has none. Add `dev = ...` to a data set and train again."
        )


def _remembering(side: Side) -> Side:
    return replace(side, engine=RememberingEngine(side.engine))


def _kept(measured: Measured, dropped: Mapping[str, str]) -> set[str]:
    return {candidate.variant for candidate in measured.results} - dropped.keys()


def _gated(draft: Manifest, measured: Measured, dropped: Mapping[str, str]) -> Manifest:
    """The variants that are kept, with their gates."""
    variants = {}
    for name, variant in draft.variants.items():
        if name in _kept(measured, dropped):
            gates = tuple(result.gate for c, result in measured.results.items() if c.variant == name)
            variants[name] = variant.model_copy(update={"gates": gates})
    return draft.model_copy(update={"variants": variants})


def _finish(
    writer: BundleWriter,
    manifest: Manifest,
    measured: Measured,
    sets: Sequence[EvaluationSet],
    metrics: Mapping[str, Metrics],
) -> Manifest:
    """Golden examples, model card, manifest; read back."""
    pairs = zip((one.examples for one in sets), measured.answers, measured.agreed(), strict=True)
    agreed = [[(e, a) for e, a, same in zip(*group, strict=True) if same] for group in pairs]
    golden = choose_golden(agreed, manifest.tasks)
    if golden:
        lines = (example.model_dump_json(exclude_unset=True) + "\n" for example in golden)
        writer.write(GOLDEN, "".join(lines).encode())
    text = next((example.text for example in golden if example.pair is None), _EXAMPLE_TEXT)
    writer.write(CARD, model_card(manifest, sets, metrics, text).encode())
    manifest = writer.write_manifest(manifest)
    load_bundle(writer.directory)
    return manifest


def _exported_tasks(trained: TrainedModel, include: Collection[str] = ()) -> dict[str, TaskInfo]:
    """Manifest entries of what is exported, checked against the heads."""
    for name in include:
        if name not in trained.tasks:
            raise ExportError(
                f"--include {name}: the run has no such task. It has: {', '.join(sorted(trained.tasks))}."
            )
        if not task_kind(trained.tasks[name].kind).is_answered:
            raise ExportError(
                f"--include {name}: a {trained.tasks[name].kind} task is trained only; no server answers it. Leave it out."
            )
    left_out = trained.auxiliary - set(include)
    tasks = {name: info for name, info in trained.tasks.items() if name not in left_out}
    if not tasks:
        raise ExportError(
            f"all tasks of this run are auxiliary ({', '.join(sorted(trained.auxiliary))}); there is none to export. Add one with --include TASK."
        )
    for name, info in tasks.items():
        if info.outputs != trained.model.output_names((name,)):
            raise ExportError(
                f"task '{name}' is described with the outputs {', '.join(info.outputs)}, but its head gives "
                f"{', '.join(trained.model.output_names((name,)))}. Train again with this version."
            )
    return tasks


def _digest(trained: TrainedModel, tasks: dict[str, TaskInfo]) -> str:
    return tasks_digest(tasks, bare_tokenizer_json(trained.tokenizer_json).encode())


def _write_draft(
    writer: BundleWriter,
    trained: TrainedModel,
    graph: ExportGraph,
    tasks: dict[str, TaskInfo],
    name: str,
    files: Mapping[str, bytes],
) -> Manifest:
    """Everything that the parity gate needs of the plain graph, in a manifest without gates."""
    arrays = {stored: trained.arrays[stored] for info in tasks.values() for stored in info.decode.arrays.values()}
    for file, content in files.items():
        writer.write(file, content)
    writer.write(TOKENIZER, bare_tokenizer_json(trained.tokenizer_json).encode())
    writer.write(ARRAYS, npz_bytes(arrays))
    return Manifest(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        encoder=trained.encoder,
        max_length=trained.max_length,
        inputs=tuple(TensorInfo(name=input_name) for input_name in graph.input_names),
        tasks=tasks,
        variants={PLAIN: GraphVariant(file=GRAPH, opset=OPSET, size=sum(map(len, files.values())))},
        files={GRAPH: ""},
    )


def _with_drafts(writer: BundleWriter, manifest: Manifest, made: Sequence[Draft]) -> Manifest:
    """Writes further graphs, and the manifest that names them all."""
    variants = dict(manifest.variants)
    for draft in made:
        writer.write(draft.file, draft.content)
        kind: Literal["plain", "fused"] = "fused" if draft.name == FUSED else "plain"
        variants[draft.name] = GraphVariant(
            file=draft.file,
            opset=OPSET,
            graph=kind,
            weights=draft.weights,
            weight_bits=WEIGHT_BITS if draft.weights == "int8" else None,
            size=len(draft.content),
        )
    return writer.write_manifest(manifest.model_copy(update={"variants": variants}))
