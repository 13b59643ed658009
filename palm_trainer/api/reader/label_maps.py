"""What labels a reader of the Python API finds or is told: label maps, and the targets that are learned from them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from palm_serve.bundle.manifest import Kind, Role
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.targets.base import Target
from palm_trainer.data.targets.classify import ClassifyTarget
from palm_trainer.data.targets.match import NEGATIVE
from palm_trainer.data.targets.multi_label import MultiLabelTarget
from palm_trainer.data.targets.sequence_label import SequenceLabelTarget, spans_of
from palm_trainer.errors import DataError, WiringError
from palm_trainer.tasks import task_kind

LabelMap = str | Path | Mapping[str, int]
_PREFIXED = re.compile(r"[BIESM]-(.+)")


def read_label_map(given: LabelMap) -> dict[str, int]:
    """Label -> id, in the order of the ids. Raises DataError for anything but a JSON object of different ids."""
    source = "label_map"
    if isinstance(given, str | Path):
        source = str(given)
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f'{source}: no label map: {error}. Write a JSON object such as {{"O": 0, "B-city": 1}}.'
            ) from None
    if not isinstance(given, Mapping) or not given or not all(type(i) is int for i in given.values()):
        raise DataError(f'{source}: no label map. Write a JSON object such as {{"O": 0, "B-city": 1}}.')
    if len(set(given.values())) < len(given):
        raise DataError(f"{source}: two labels have one id. Give each its own.")
    return dict(sorted(given.items(), key=lambda item: item[1]))


def check_classes(task: str, declared: int | None, found: int, because: str) -> None:
    """Raises WiringError when the head was declared for another number of classes."""
    if declared is not None and declared != found:
        raise WiringError(
            f"trainer '{task}': its head was declared with num_classes={declared}, but {because}. Write num_classes={found}."
        )


def class_field(task: str, examples: Iterable[Example], path: Path | str = "", several: bool = False) -> str:
    """The field that holds classes: `label`, `intent`, the trainer's name, or the only one. Raises DataError."""
    known: dict[str, None] = {}
    for example in examples:
        for name, value in example.fields.items():
            if name != NEGATIVE and (isinstance(value, str) or (several and not _spans(value))):
                known[name] = None
    chosen = next((name for name in ("label", task, "intent") if name in known), None)
    if chosen is None and len(known) == 1:
        [chosen] = known
    if chosen is None:
        raise DataError(
            f"{path}: trainer '{task}' needs one column of labels, and the data has {', '.join(known) or 'none'}. Name it 'label'."
        )
    return chosen


def class_target(
    task: str,
    kind: Kind,
    examples: Sequence[Example],
    label_map: Mapping[str, int] | None,
    classes: int | None,
    role: Role,
) -> Target:
    """What a classifier learns: the map's labels; or PALM's numbers 0 to `classes` - 1; or the labels of the data, in alphabetical order."""
    source = examples[0].source.rpartition(":")[0] if examples else ""
    several = task_kind(kind).learns_several_classes
    field = class_field(task, examples, source, several=several)
    target_class = MultiLabelTarget if several else ClassifyTarget
    learned = target_class.learn(task, field, examples, role=role)
    labels: Sequence[str] = learned.info.labels
    if label_map is not None:
        _check_known(labels, label_map, examples, field)
        labels = list(label_map)
        check_classes(task, classes, len(labels), f"the label map holds {len(labels)} labels")
    elif all(label.isdecimal() for label in labels):
        largest = max(map(int, labels))
        if classes is not None and largest >= classes:
            raise WiringError(
                f"trainer '{task}': its head was declared with num_classes={classes}, but {source} holds the label {largest}. "
                f"Write num_classes={largest + 1} or more."
            )
        labels = [str(i) for i in range(classes or largest + 1)]
    else:
        check_classes(task, classes, len(labels), f"{source} holds {len(labels)} labels; a label_map may hold more")
    return target_class(task, field, labels, role=role, pairs=learned.info.decode.pairs)


def tag_target(
    task: str, examples: Sequence[Example], label_map: Mapping[str, int], role: Role, *, crf: bool = True
) -> Target:
    """What a tagger learns: the span types of the map's tags. Raises DataError for a tag of the data that the map lacks."""
    field = span_field(task, examples)
    types = list(dict.fromkeys(m[1] for tag in label_map if (m := _PREFIXED.fullmatch(tag))))
    for example in examples:
        for span in spans_of(example, field, task):
            if span.label not in types:
                raise DataError(
                    f"{example.source}: tag 'B-{span.label}' is not in the label map, which holds {len(label_map)} tags. Add it, or mend the row."
                )
    learned = SequenceLabelTarget.learn(task, field, examples, role=role)
    punctuation = learned.info.decode.value_punctuation
    return SequenceLabelTarget(task, field, types, role=role, crf=crf, value_punctuation=punctuation)


def span_field(task: str, examples: Iterable[Example]) -> str:
    """The field that holds spans: the trainer's name, `label`, `slots`, `tags`, or the only one. Raises DataError."""
    known = dict.fromkeys(name for e in examples for name, value in e.fields.items() if _spans(value))
    chosen = next((name for name in (task, "label", "slots", "tags") if name in known), None) or next(iter(known), None)
    if chosen is None:
        raise DataError(
            f"trainer '{task}' needs tagged words, and the data holds no span. Check the file and its file_format."
        )
    return chosen


def tags_of(examples: Iterable[Example]) -> dict[str, int]:
    """A label map of the data's own span types: O, then B- and I- of each."""
    types = {
        item.label
        for e in examples
        for value in e.fields.values()
        if _spans(value)
        for item in value
        if isinstance(item, LabelledSpan)
    }
    return {tag: i for i, tag in enumerate(["O", *(f"{prefix}-{name}" for name in sorted(types) for prefix in "BI")])}


def _spans(value: object) -> bool:
    return isinstance(value, tuple) and any(isinstance(item, LabelledSpan) for item in value)


def _check_known(labels: Iterable[str], label_map: Mapping[str, int], examples: Iterable[Example], field: str) -> None:
    unknown = [label for label in labels if label not in label_map]
    if unknown:
        where = next(e.source for e in examples if unknown[0] in (e.fields.get(field), *(e.fields.get(field) or ())))
        raise DataError(
            f"{where}: label '{unknown[0]}' is not in the label map, which holds {len(label_map)} labels. Add it, or mend the row."
        )
