"""Suggested configurations for undescribed data: `palm-train init`."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomli_w

from palm_trainer.config.schema import FORMAT_OPTIONS, data_config
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.detect import Detection, detect_format
from palm_trainer.data.formats.find_splits import find_splits
from palm_trainer.data.formats.split_names import names_splits
from palm_trainer.data.formats.text_files import FormatOptions
from palm_trainer.data.roles import count_roles
from palm_trainer.data.splits import read_split
from palm_trainer.data.suggest_encoder import suggest_encoder
from palm_trainer.data.suggest_few_shot import NO_DEV, SCHEDULE, find_few_shot_tasks, suggest_few_shot
from palm_trainer.data.suggest_out_of_scope import suggest_out_of_scope
from palm_trainer.data.targets.match import MatchTarget
from palm_trainer.errors import DataError

_STEPS = 2500
"""Training steps to aim at."""
_FEWEST_STEPS = 600
_EPOCHS = 20
"""Epochs, as long as they make `_FEWEST_STEPS`, and evaluations of a training that has more."""
_MOST_EPOCHS = 100
_BATCH_SIZE = 32
_DEV_SHARE = 0.1
_ROWS_FOR_DEV = 200
"""Training rows from which a part is set apart as dev: 20 rows are the fewest that tell one checkpoint from another."""
_DEV_REMARKS = {
    True: f"no dev split found: dev_share = {_DEV_SHARE} sets a part of train apart; give `dev = ...` for a split of your own",
    False: "no dev split found: the last checkpoint will count as the best; give `dev = ...` to choose it on data",
}
"""Remarks on data without a dev split, by whether a part of train is set apart."""
_JOINED_SHARE = 0.1
"""Share of rows with `#` in their class from which the class is read as several classes."""


def suggest(data: Path) -> tuple[str, list[str]]:
    """Suggest a configuration for a file or directory.

    Returns:
        The configuration as TOML, and remarks on what was found, a line each.

    Raises:
        DataError: nothing trainable is recognised.
    """
    splits, remarks = find_splits(data)
    detection = detect_format(splits["train"][0])
    options = _options(detection)
    files = {}
    for split, paths in splits.items():
        files[split] = _paths(paths)
    examples = _read(detection.format, files, options)
    if _has_joined_classes(examples["train"]) and "label_separator" in FORMAT_OPTIONS[detection.format]:
        options["label_separator"] = "#"
        remarks.append("the classes of many rows hold '#': read as several classes, joined (label_separator)")
        examples = _read(detection.format, files, options)
    name = _name(data)
    tasks = suggest_tasks(examples["train"], name)
    has_passages = "mrc" in [table["kind"] for table in tasks.values()]
    encoder = suggest_encoder(examples, passages=has_passages)
    is_pretrained = encoder.table["model"] != "scratch"
    few = find_few_shot_tasks(tasks, examples["train"]) if is_pretrained else {}
    training = _suggest_training(
        examples["train"], has_dev="dev" in splits, all_few=len(few) == len(tasks), is_pretrained=is_pretrained
    )
    config: dict[str, Any] = {
        "encoder": encoder.table,
        "data": {name: {"format": detection.format, **files, **options, **training.data}},
        "tasks": tasks,
        "train": {**training.train, "seed": 13, "output": f"runs/{name}"},
    }
    row_counts = []
    for split, split_examples in examples.items():
        row_counts.append(f"{split} {len(split_examples)} rows")
    remarks = [f"{data}: format {detection.format}; {', '.join(row_counts)}", *remarks]
    for task, table in tasks.items():
        count = sum(count_roles(example, task) for example in examples["train"])
        learnt = f", {count} spans with a role or group, which it learns" if count else ""
        remarks.append(f"task {task}: {table['kind']}{learnt}")
    for reason in describe_unlearnt_fields(examples["train"], tasks):
        remarks.append(f"no task for the field {reason}")
    remarks += encoder.remarks
    remarks += suggest_few_shot(tasks, few)
    remarks += training.remarks
    remarks += suggest_out_of_scope(config["data"][name], tasks, examples["train"])
    return _with_comments(tomli_w.dumps(config), "[encoder]\n", encoder.comments), remarks


@dataclass(frozen=True)
class _Training:
    """Keys of `[train]` and of the data set, and remarks on them."""

    train: dict[str, Any]
    data: dict[str, Any]
    remarks: list[str]


def _suggest_training(examples: Sequence[Example], *, has_dev: bool, all_few: bool, is_pretrained: bool) -> _Training:
    """Suggest schedule and rates, and a part of train as dev.

    Args:
        examples: training examples.
        has_dev: there is a dev split.
        all_few: every task is a classifier with few texts a class.
        is_pretrained: the encoder has pretrained weights.
    """
    set_apart = not has_dev and not all_few and _has_rows_for_dev(examples)
    rows = len(examples)
    schedule = SCHEDULE if all_few else suggest_schedule(rows - round(_DEV_SHARE * rows) if set_apart else rows)
    rates = {"learning_rate": 1e-4} if is_pretrained else {"learning_rate": 5e-4, "head_learning_rate": 5e-4}
    remarks = []
    if schedule["epochs"] > _EPOCHS:
        remarks.append(f"few rows: {schedule['epochs']:.0f} epochs, so that there are enough steps to learn from them")
    if not has_dev:
        remarks.append(NO_DEV if all_few else _DEV_REMARKS[set_apart])
    train = {**schedule, "batch_size": _BATCH_SIZE, **rates}
    return _Training(train, {"dev_share": _DEV_SHARE} if set_apart else {}, remarks)


def _has_rows_for_dev(examples: Sequence[Example]) -> bool:
    """Return True if train has labelled rows enough to set a part of them apart."""
    return sum(bool(example.fields) for example in examples) >= _ROWS_FOR_DEV


def _with_comments(toml: str, heading: str, comments: Sequence[str]) -> str:
    """Return the configuration with comments below the heading of a section."""
    lines = "".join(f"# {line}\n" for line in comments)
    return toml.replace(heading, heading + lines, 1)


def suggest_tasks(examples: Sequence[Example], data: str) -> dict[str, dict[str, Any]]:
    """Suggest a task for each field that a task can learn, or a masked LM for text without fields.

    Args:
        examples: training examples.
        data: name of the data set.

    Returns:
        Tables of the configuration by name of the task.

    Raises:
        DataError: no field that a task could learn.
    """
    values_by_field: dict[str, list[Any]] = {}
    for example in examples:
        for field, value in example.fields.items():
            values_by_field.setdefault(field, []).append(value)
    if not values_by_field:
        return {"mlm": {"kind": "masked_lm", "data": [data]}}
    has_pairs = any(example.pair is not None for example in examples)
    tasks: dict[str, dict[str, Any]] = {}
    for field, values in values_by_field.items():
        if names_splits(values):
            raise DataError(
                f"'{field}' must hold classes, got the names of splits ({', '.join(sorted(set(values)))}): all rows would be trained on. "
                "Write a file for each split, and give their folder."
            )
        kind = _kind(values, has_pairs)
        if kind is not None:
            tasks[field] = {"kind": kind, "data": [data]}
        if kind == "match":
            tasks[field] |= _match_settings(field, examples)
    if not tasks:
        reasons = "; ".join(describe_unlearnt_fields(examples, tasks))
        raise DataError(f"no field that a task could learn: {reasons}. Label the data, or set tasks by hand.")
    _assign_role(tasks, ("classify", "multi_label"), "intent")
    _assign_role(tasks, ("sequence_label",), "slots")
    return tasks


def describe_unlearnt_fields(examples: Sequence[Example], tasks: Collection[str]) -> list[str]:
    """Tell for each field without a task why none is suggested.

    Args:
        examples: training examples.
        tasks: names of the suggested tasks, which are those of their fields.
    """
    values_by_field: dict[str, list[Any]] = {}
    for example in examples:
        for field, value in example.fields.items():
            if field not in tasks:
                values_by_field.setdefault(field, []).append(value)
    reasons = []
    for field, values in values_by_field.items():
        classes = {value for value in values if isinstance(value, str)}
        if not any(values):
            reasons.append(f"'{field}', which is empty in all {len(values)} rows that have it")
        elif not classes:
            reasons.append(f"'{field}', which holds values of several kinds")
        elif len(classes) == 1:
            reasons.append(
                f"'{field}', which has one class only ('{classes.pop()}' in all {len(values)} rows that have it), and a task needs two"
            )
        else:
            reasons.append(
                f"'{field}', which has {len(classes)} different values in {len(values)} rows, as many as texts or ids have, and no classes"
            )
    return reasons


def _assign_role(tasks: Mapping[str, dict[str, Any]], kinds: Sequence[str], role: str) -> None:
    """Assign a role to the only task of some kinds, if there are several tasks or it is named like the role."""
    candidates = []
    for name, table in tasks.items():
        if table["kind"] in kinds:
            candidates.append(name)
    if len(candidates) == 1 and (len(tasks) > 1 or candidates[0].lower() == role):
        tasks[candidates[0]]["role"] = role


def _options(detection: Detection) -> dict[str, Any]:
    """Return the options that differ from the defaults, as TOML values."""
    defaults = asdict(FormatOptions())
    options = {}
    for key, value in asdict(detection.options).items():
        if value != defaults[key]:
            options[key] = list(value) if isinstance(value, tuple) else value
    return options


def _paths(paths: Sequence[Path]) -> str | list[str]:
    return str(paths[0]) if len(paths) == 1 else [str(path) for path in paths]


def _read(format_name: str, files: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, list[Example]]:
    """Read the examples of all splits."""
    settings = data_config({"format": format_name, **files, **options})
    examples = {}
    for split in files:
        examples[split] = read_split(settings, split).examples
    return examples


def _name(data: Path) -> str:
    """Return a name for the data set, from its file or directory."""
    stem = data.resolve().name.partition("#")[0].removesuffix(data.suffix)
    name = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")
    return name if name and name[0].isalpha() else "data"


def _has_joined_classes(examples: Sequence[Example]) -> bool:
    """Return True if a class field joins classes by `#` in more than a few rows."""
    classes_by_field: dict[str, list[str]] = {}
    for example in examples:
        for field, value in example.fields.items():
            if isinstance(value, str):
                classes_by_field.setdefault(field, []).append(value)
    for classes in classes_by_field.values():
        joined = sum("#" in name.strip("#") for name in classes)
        if joined > _JOINED_SHARE * len(classes) > 0:
            return True
    return False


def _kind(values: Sequence[Any], has_pairs: bool) -> str | None:
    """Return the kind of task that can learn some values; None if there is none."""
    filled = [value for value in values if value != ()]
    if not filled:
        return None
    if all(isinstance(value, str) for value in filled):
        distinct = len(set(filled))
        if not 2 <= distinct <= max(2, len(filled) // 2):
            return None
        return "match" if has_pairs and distinct == 2 else "classify"
    if all(isinstance(item, LabelledSpan) for item in filled[0]):
        return "mrc" if has_pairs else "sequence_label"
    return "multi_label"


def _match_settings(field: str, examples: Sequence[Example]) -> dict[str, str]:
    """Return `match_label`, if the names of the two classes do not tell it; kind `classify` if nothing does."""
    try:
        MatchTarget.learn(field, field, examples)
    except DataError:
        classes = set()
        for example in examples:
            if field in example.fields:
                classes.add(str(example.fields[field]))
        shorter, longer = sorted(classes, key=len)
        # 匹配 and 不匹配, equal and not_equal
        return {"match_label": shorter} if longer.endswith(shorter) else {"kind": "classify"}
    return {}


def suggest_schedule(rows: int) -> dict[str, float | int]:
    """Suggest the epochs for a number of training rows, and evaluations where one after each epoch were too many.

    About 2,500 steps in 3 to 20 epochs. Where these are less than 600 steps, more epochs, up to 100: few rows need
    as many steps as more rows do, and cost no more for it.
    """
    batches = math.ceil(rows / _BATCH_SIZE)
    epochs = min(_EPOCHS, max(3, round(_STEPS * _BATCH_SIZE / rows)))
    if epochs * batches < _FEWEST_STEPS:
        epochs = min(_MOST_EPOCHS, math.ceil(_FEWEST_STEPS / batches))
    schedule: dict[str, float | int] = {"epochs": float(epochs)}
    if epochs > _EPOCHS:
        schedule["evaluations"] = _EPOCHS
    return schedule
