"""Label maps of the Python API, and the targets of classifiers and taggers."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path

from palm_serve.bundle.manifest import Kind, Role
from palm_trainer.config.mappings import absent
from palm_trainer.config.tasks import Roles
from palm_trainer.data.example import Example, LabelledSpan, spans_in
from palm_trainer.data.roles import fold_roles, has_roles
from palm_trainer.data.targets.base import Target
from palm_trainer.data.targets.classify import ClassifyTarget
from palm_trainer.data.targets.match import NEGATIVE
from palm_trainer.data.targets.multi_label import MultiLabelTarget
from palm_trainer.data.targets.sequence_label import SequenceLabelTarget, spans_of
from palm_trainer.errors import DataError, WiringError
from palm_trainer.tasks import task_kind

LabelMap = str | Path | Mapping[str, int]
_PREFIXED = re.compile(r"[BIESM]-(.+)")


def read_label_map(label_map: LabelMap) -> dict[str, int]:
    """Return label -> id in the order of the ids. Raises DataError for anything but a JSON object of different ids."""
    source = "label_map"
    if isinstance(label_map, str | Path):
        source = str(label_map)
        try:
            label_map = json.loads(Path(label_map).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                f'{source}: not a label map: {error}. Write a JSON object such as {{"O": 0, "B-city": 1}}.'
            ) from None
    if not isinstance(label_map, Mapping) or not label_map or not all(type(i) is int for i in label_map.values()):
        raise DataError(f'{source}: not a label map. Write a JSON object such as {{"O": 0, "B-city": 1}}.')
    if len(set(label_map.values())) < len(label_map):
        raise DataError(f"{source}: two labels have one id. Give each its own.")
    return dict(sorted(label_map.items(), key=lambda item: item[1]))


def check_classes(task: str, declared: int | None, count: int, reason: str) -> None:
    """Check the number of classes that a head was declared for.

    Args:
        task: name of the task, for the message.
        declared: number of classes of the head. None: not declared.
        count: number of classes of the labels.
        reason: origin of `count`, for the message.

    Raises:
        WiringError: the head was declared for another number of classes.
    """
    if declared is not None and declared != count:
        raise WiringError(
            f"trainer '{task}': num_classes must be {count}, because {reason}, got {declared}. Write num_classes={count}."
        )


def class_field(task: str, examples: Iterable[Example], path: Path | str = "", several: bool = False) -> str:
    """Return the field that holds classes: `label`, the name of the task, `intent`, or the only one.

    Args:
        task: name of the task.
        examples: examples of the data.
        path: file of the data, for the message.
        several: a text may have several classes.

    Raises:
        DataError: no such field, or several candidates.
    """
    fields: dict[str, None] = {}
    for example in examples:
        for name, value in example.fields.items():
            if name != NEGATIVE and (isinstance(value, str) or (several and not is_spans(value))):
                fields[name] = None
    for name in ("label", task, "intent"):
        if name in fields:
            return name
    if len(fields) != 1:
        raise DataError(
            f"{path}: trainer '{task}' needs one column of labels, and the data has {', '.join(fields) or 'none'}. Name it 'label'."
        )
    return next(iter(fields))


def class_target(
    task: str,
    kind: Kind,
    examples: Sequence[Example],
    label_map: Mapping[str, int] | None,
    classes: int | None,
    role: Role,
) -> Target:
    """Return the target of a classifier.

    Its labels are those of the map, or PALM's numbers 0 to `classes` - 1, or those of the data in alphabetical order.

    Args:
        task: name of the task.
        kind: `classify` or `multi_label`.
        examples: training examples.
        label_map: label -> id. None: the data decides.
        classes: number of classes of the head. None: not declared.
        role: role of the task in `Parse`.

    Raises:
        WiringError: the head was declared for another number of classes.
        DataError: the data has no field of classes, or a label that the map lacks.
    """
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
                f"trainer '{task}': num_classes must be at least {largest + 1}, because {source} holds the label {largest}, got {classes}. "
                f"Write num_classes={largest + 1} or more."
            )
        labels = list(map(str, range(classes or largest + 1)))
    else:
        check_classes(task, classes, len(labels), f"{source} holds {len(labels)} labels (a label_map may hold more)")
    return target_class(task, field, labels, role=role, pairs=learned.info.decode.pairs)


def tag_target(
    task: str,
    examples: Sequence[Example],
    label_map: Mapping[str, int],
    role: Role,
    *,
    crf: bool = True,
    roles: Roles | None = None,
) -> Target:
    """Return the target of a tagger, whose labels are the span types of the map's tags.

    Args:
        task: name of the task.
        examples: training examples.
        label_map: tag -> id.
        role: role of the task in `Parse`.
        crf: the head has a CRF.
        roles: `ignore` leaves the roles and groups of spans out. None: `learn`, where the data has some.

    Raises:
        DataError: the data has no field of spans, or a tag that the map lacks.
    """
    field = span_field(task, examples)
    types: list[str] = []
    for tag in label_map:
        prefixed = _PREFIXED.fullmatch(tag)
        if prefixed is not None and prefixed[1] not in types:
            types.append(prefixed[1])
    learned = SequenceLabelTarget.learn(task, field, examples, role=role, roles=roles != "ignore")
    learns_roles = bool(learned.info.decode.span_types)
    for example in fold_roles(examples, field, learnt=learns_roles):
        for span in spans_of(example, field, task):
            if span.label not in types:
                remedy = (
                    "Add it, or declare the head with roles='ignore'" if learns_roles else "Add it, or mend the row"
                )
                raise DataError(
                    f"{example.source}: tag 'B-{span.label}' is not in the label map, which holds {len(label_map)} tags. {remedy}."
                )
    punctuation = learned.info.decode.value_punctuation
    return SequenceLabelTarget(
        task, field, types, role=role, crf=crf, value_punctuation=punctuation, roles=learns_roles
    )


def span_field(task: str, examples: Iterable[Example]) -> str:
    """Return the field that holds spans: the name of the task, `label`, `slots`, `tags`, or the first one.

    Raises:
        DataError: no field holds spans.
    """
    fields: dict[str, None] = {}
    for example in examples:
        for name, value in example.fields.items():
            if is_spans(value):
                fields[name] = None
    for name in (task, "label", "slots", "tags"):
        if name in fields:
            return name
    if not fields:
        raise DataError(
            f"trainer '{task}' needs tagged words, and the data holds no span. Check the file and its file_format."
        )
    return next(iter(fields))


def tags_of(examples: Sequence[Example], roles: Roles | None = None) -> dict[str, int]:
    """Return a label map of the span types in the data: O, then B- and I- of each type.

    Args:
        examples: training examples.
        roles: `ignore` leaves the roles and groups of spans out. None: types have them, where the data has some.
    """
    fields: dict[str, None] = {}
    for example in examples:
        fields.update(dict.fromkeys(filter(lambda name: is_spans(example.fields[name]), example.fields)))
    types: set[str] = set()
    for field in fields:
        learnt = roles != "ignore" and has_roles(examples, field)
        for example in fold_roles(examples, field, learnt=learnt):
            types.update(map(attrgetter("label"), spans_in(example.fields.get(field, ()))))
    tags = ["O"]
    for name in sorted(types):
        tags += [f"B-{name}", f"I-{name}"]
    return {tag: index for index, tag in enumerate(tags)}


def is_spans(value: object) -> bool:
    """Return True for the value of a field that holds labelled spans."""
    return isinstance(value, tuple) and any(isinstance(item, LabelledSpan) for item in value)


def _check_known(labels: Iterable[str], label_map: Mapping[str, int], examples: Iterable[Example], field: str) -> None:
    unknown = absent(labels, label_map)
    if unknown:
        source = _source_of_label(examples, field, unknown[0])
        raise DataError(
            f"{source}: label '{unknown[0]}' is not in the label map, which holds {len(label_map)} labels. Add it, or mend the row."
        )


def _source_of_label(examples: Iterable[Example], field: str, label: str) -> str:
    """Return file and line of the first example with a label."""
    for example in examples:
        value = example.fields.get(field)
        if label in (value, *(value or ())):
            return example.source
    raise LookupError(label)
