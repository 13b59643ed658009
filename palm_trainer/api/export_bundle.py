"""Export of a trainer to a bundle without a run directory, for models with custom components."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from palm_serve.bundle.manifest import Manifest
from palm_trainer.api.custom.encoder import CustomEncoder
from palm_trainer.api.custom.names import NO_TOKENIZER
from palm_trainer.api.custom.reader import is_custom_reader
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.api.session import Session
from palm_trainer.config.mappings import absent
from palm_trainer.errors import ExportError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.model.encoders import unfreeze_rows
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tensors import PALM_NAMES

_TRAINING_EXAMPLES = 500
"""Examples that parity is checked on where there is no evaluation reader."""


def export(session: Session, output: Path, *, precision: str, overwrite: bool) -> Manifest:
    """Write the bundle of a trained session.

    Args:
        session: with a trained or loaded model.
        output: bundle directory.
        precision: as of `palm-export --precision`.
        overwrite: replace a bundle that is there.

    Raises:
        ExportError: a server could not decode or trace a part of the model.
        ParityError: the graph does not answer as the model does.
    """
    from palm_trainer.export.exporter import export_bundle  # loads onnx, which training needs not

    _check(session)
    sets = session.evaluation_sets() or _training_sets(session)
    with session.averaged():
        trained = session.ready
        model = copy.deepcopy(trained.model).cpu().float().eval()
        if not isinstance(model.backbone, CustomEncoder):
            unfreeze_rows(model.backbone)  # a graph holds one whole table
        calibrated = session.calibrated(replace(trained, model=model))
        manifest, report = export_bundle(
            calibrated,
            sets,
            output,
            precision=precision,
            overwrite=overwrite,
            train=lambda: _training_sets(session),
            say=lambda step: session.say(f"{step}..."),
        )
    for note in report.notes:
        session.say(note)
    session.say(f"bundle has been saved at {output}")
    return manifest


def _check(session: Session) -> None:
    trained: TrainedModel = session.ready
    for task in session.tasks:
        if task.answers and not task.has_kind:
            raise ExportError(
                f"trainer '{task.name}': {type(task.head).__name__} has no kind, so that no server could decode its outputs. Give it one, such as "
                "kind = \"classify\" for a head with 'logits', or leave it out of the bundle with set_as_aux()."
            )
    unknown = absent(trained.model.input_names, PALM_NAMES)
    if unknown:
        raise ExportError(
            f"the backbone takes '{unknown[0]}', which a server does not make from text. It makes: {', '.join(PALM_NAMES.values())}."
        )
    if trained.tokenizer_json == NO_TOKENIZER:
        raise ExportError("no reader of palm.reader was fitted, so that there is no tokenizer to serve with. Use one.")


def _training_sets(session: Session) -> Sequence[EvaluationSet]:
    targets = session.plan.wired.targets
    sets = []
    for task in session.tasks:
        reader = task.fitted
        if task.answers and isinstance(reader, TextReader) and not is_custom_reader(reader):
            positive = {task.name: targets[task.name].info.decode.match_label}
            fields = {task.name: targets[task.name].field}
            sets.append(EvaluationSet(task.name, reader.examples[:_TRAINING_EXAMPLES], fields, positive))
    return sets
