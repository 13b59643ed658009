"""A trained model -> a bundle, proven before it gets its name."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from palm_serve.bundle.loader import ARRAYS, GOLDEN, TOKENIZER, load_bundle
from palm_serve.bundle.manifest import Manifest, TaskInfo, TensorInfo, Variant, tasks_digest
from palm_serve.tokenization import bare_tokenizer_json
from palm_trainer.errors import ExportError
from palm_trainer.evaluation import EvaluationSet, Metrics
from palm_trainer.export.bundle_writer import BundleWriter, bundle_name, npz_bytes, staged_bundle
from palm_trainer.export.gates import measure
from palm_trainer.export.golden import choose_golden
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.model_card import model_card
from palm_trainer.export.onnx import DIGEST, OPSET, to_onnx
from palm_trainer.export.side import Side
from palm_trainer.model import TrainedModel

PLAIN = "plain"
GRAPH, CARD = "model.onnx", "README.md"
PRECISIONS: Mapping[str, tuple[str, ...]] = {"fp32": ("fp32",), "auto": ("fp32", "bf16")}
"""What `--precision` may say -> the precisions that the graph is measured in."""

_EXAMPLE_TEXT = "your text"


def export_bundle(
    trained: TrainedModel,
    sets: Sequence[EvaluationSet],
    output: Path,
    *,
    precision: str = "auto",
    name: str | None = None,
    overwrite: bool = False,
    metrics: Mapping[str, Metrics] | None = None,
    say: Callable[[str], None] = lambda step: None,
) -> tuple[Manifest, tuple[str, ...]]:
    """Writes the bundle `output`; its manifest, and the combinations that could not be measured on this machine.

    Args:
        trained: what to export; its auxiliary tasks are left out.
        sets: dev examples, which the parity gate runs over.
        output: a directory that does not exist, or with `overwrite` a bundle.
        precision: a key of PRECISIONS.
        name: of the model; None: the directory's.
        metrics: by split, for the model card.
        say: is told what is done now.

    Raises ParityError when the graph does not answer as the model does, ExportError for all else; nothing is left behind then.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"--precision {precision} is not there yet. Choose one of: {', '.join(PRECISIONS)}.")
    if not any(one.examples for one in sets):
        raise ExportError(
            "the parity gate needs dev examples, and the run's data has none. Add `dev = ...` to a data set and train again."
        )
    tasks = _exported_tasks(trained)
    name = bundle_name(name, output)
    with staged_bundle(output, overwrite=overwrite) as writer:
        say("exporting the graph")
        graph = ExportGraph(trained.model, tuple(tasks))
        draft = _write_draft(writer, trained, graph, tasks, name)
        say("comparing it with the trained model")
        bundle = load_bundle(writer.directory)
        measured = measure(bundle, Side.trained(trained, graph), sets, PRECISIONS[precision])
        say("writing the bundle")
        pairs = zip((one.examples for one in sets), measured.answers, measured.agreed, strict=True)
        golden = choose_golden([[(e, a) for e, a, same in zip(*group, strict=True) if same] for group in pairs], tasks)
        variant = draft.variants[PLAIN].model_copy(update={"gates": measured.gates})
        manifest = draft.model_copy(update={"variants": {PLAIN: variant}})
        if golden:
            lines = (example.model_dump_json(exclude_unset=True) + "\n" for example in golden)
            writer.write(GOLDEN, "".join(lines).encode())
        text = next((example.text for example in golden if example.pair is None), _EXAMPLE_TEXT)
        writer.write(CARD, model_card(manifest, sets, metrics or {}, text).encode())
        manifest = writer.write_manifest(manifest)
        load_bundle(writer.directory)
    return manifest, measured.skipped


def _exported_tasks(trained: TrainedModel) -> dict[str, TaskInfo]:
    """Manifest entries of what is exported, checked against the heads."""
    tasks = {name: info for name, info in trained.tasks.items() if name not in trained.auxiliary}
    if not tasks:
        raise ExportError(
            f"all tasks of this run are auxiliary ({', '.join(sorted(trained.auxiliary))}); there is none to export."
        )
    for name, info in tasks.items():
        if info.outputs != trained.model.output_names((name,)):
            raise ExportError(
                f"task '{name}' is described with the outputs {', '.join(info.outputs)}, but its head gives "
                f"{', '.join(trained.model.output_names((name,)))}. Train again with this version."
            )
    return tasks


def _write_draft(
    writer: BundleWriter, trained: TrainedModel, graph: ExportGraph, tasks: dict[str, TaskInfo], name: str
) -> Manifest:
    """Everything that the parity gate needs, in a bundle without gates."""
    tokenizer_json = bare_tokenizer_json(trained.tokenizer_json).encode()
    arrays = {stored: trained.arrays[stored] for info in tasks.values() for stored in info.decode.arrays.values()}
    content = to_onnx(graph, trained.max_length, {DIGEST: tasks_digest(tasks, tokenizer_json)})
    writer.write(GRAPH, content)
    writer.write(TOKENIZER, tokenizer_json)
    writer.write(ARRAYS, npz_bytes(arrays))
    draft = Manifest(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        encoder=trained.encoder,
        max_length=trained.max_length,
        inputs=tuple(TensorInfo(name=input_name) for input_name in graph.input_names),
        tasks=tasks,
        variants={PLAIN: Variant(file=GRAPH, opset=OPSET, size=len(content))},
        files={GRAPH: ""},
    )
    return writer.write_manifest(draft)
