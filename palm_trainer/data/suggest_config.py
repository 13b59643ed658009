"""A configuration for data that nobody described: `palm-train init`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from palm_trainer.config.loader import DataConfig
from palm_trainer.config.rules import FORMAT_OPTIONS
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.detect import Detection, detect_format
from palm_trainer.data.formats.find_splits import find_splits
from palm_trainer.data.formats.text_files import FormatOptions
from palm_trainer.data.splits import read_split
from palm_trainer.data.targets.match import MatchTarget
from palm_trainer.errors import DataError

_MAX_LENGTHS = (32, 64, 128, 256, 512)
_PASSAGE_LENGTH = 384
"""Tokens of a window of question and passage."""
_PIECES_PER_WORD = 1.4
_WANTED_STEPS = 2500
_BATCH = 32
_JOINED_SHARE = 0.1
"""From this share of rows with `#` in their class on, the class is several; below it is one whose name holds `#`."""


def suggest(data: Path) -> tuple[str, list[str]]:
    """A configuration (TOML text) for a file or directory, and what was found, a line each.

    Raises DataError when nothing trainable is recognised.
    """
    splits, found = find_splits(data)
    detection = detect_format(splits["train"][0])
    options = _options(detection)
    files = {split: _paths(paths) for split, paths in splits.items()}
    examples = _read(detection.format, files, options)
    if _joined(examples["train"]) and "label_separator" in FORMAT_OPTIONS[detection.format]:
        options["label_separator"] = "#"
        found.append("the classes of many rows hold '#': read as several classes, joined (label_separator)")
        examples = _read(detection.format, files, options)
    name = _name(data)
    tasks = suggest_tasks(examples["train"], name)
    config: dict[str, Any] = {
        "encoder": _encoder(examples["train"], passages=any(table["kind"] == "mrc" for table in tasks.values())),
        "data": {name: {"format": detection.format, **files, **options}},
        "tasks": tasks,
        "train": {
            "epochs": _epochs(len(examples["train"])),
            "batch_size": _BATCH,
            "learning_rate": 1e-4,
            "seed": 13,
            "output": f"runs/{name}",
        },
    }
    if config["encoder"]["model"] == "scratch":
        config["train"] |= {"learning_rate": 5e-4, "head_learning_rate": 5e-4}
    rows = ", ".join(f"{split} {len(read)} rows" for split, read in examples.items())
    found = [f"{data}: format {detection.format}; {rows}", *found]
    found += [f"task {task}: {table['kind']}" for task, table in tasks.items()]
    if "dev" not in splits:
        found.append(
            "no dev split found: the last checkpoint will count as the best; give `dev = ...` to choose it on data"
        )
    return tomli_w.dumps(config), found


def suggest_tasks(examples: Sequence[Example], data: str) -> dict[str, dict[str, Any]]:
    """A task for each field of the examples that something can learn; for text without fields, a masked LM. Raises DataError when there is none."""
    fields: dict[str, list[Any]] = {}
    for example in examples:
        for field, value in example.fields.items():
            fields.setdefault(field, []).append(value)
    if not fields:
        return {"mlm": {"kind": "masked_lm", "data": [data]}}
    pairs = any(example.pair is not None for example in examples)
    tasks: dict[str, dict[str, Any]] = {}
    for field, values in fields.items():
        kind = _kind(values, pairs)
        if kind is not None:
            tasks[field] = {"kind": kind, "data": [data]}
        if kind == "match":
            tasks[field] |= _match_settings(field, examples)
    for kinds, role in ((("classify", "multi_label"), "intent"), (("sequence_label",), "slots")):
        holders = [name for name, table in tasks.items() if table["kind"] in kinds]
        if len(holders) == 1 and (len(tasks) > 1 or holders[0] == role):
            tasks[holders[0]]["role"] = role
    if not tasks:
        raise DataError(
            f"no field that a task could learn; fields: {', '.join(fields)}. Label the data, or convert it with `palm-train convert`."
        )
    return tasks


def _options(detection: Detection) -> dict[str, Any]:
    """Options that differ from the defaults, as TOML has them."""
    default = asdict(FormatOptions())
    given = {key: value for key, value in asdict(detection.options).items() if value != default[key]}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def _paths(paths: Sequence[Path]) -> str | list[str]:
    return str(paths[0]) if len(paths) == 1 else [str(path) for path in paths]


def _read(form: str, files: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, list[Example]]:
    settings = DataConfig.model_validate({"format": form, **files, **options})
    return {split: read_split(settings, split).examples for split in files}


def _name(data: Path) -> str:
    """A name for the data set: that of its file or directory, as far as a name may hold it."""
    name = re.sub(r"[^a-z0-9]+", "_", data.resolve().name.partition("#")[0].removesuffix(data.suffix).lower()).strip(
        "_"
    )
    return name if name and name[0].isalpha() else "data"


def _joined(examples: Sequence[Example]) -> bool:
    """Whether a class field holds classes joined by `#` in more than a few rows."""
    for field in dict.fromkeys(name for example in examples for name in example.fields):
        values = [value for example in examples if isinstance(value := example.fields.get(field), str)]
        if sum("#" in value.strip("#") for value in values) > _JOINED_SHARE * len(values) > 0:
            return True
    return False


def _kind(values: Sequence[Any], pairs: bool) -> str | None:
    filled = [value for value in values if value != ()]
    if not filled:
        return None
    if all(isinstance(value, str) for value in filled):
        distinct = len(set(filled))
        if not 2 <= distinct <= max(2, len(filled) // 2):
            return None
        return "match" if pairs and distinct == 2 else "classify"
    if all(isinstance(item, LabelledSpan) for item in filled[0]):
        return "mrc" if pairs else "sequence_label"
    return "multi_label"


def _match_settings(field: str, examples: Sequence[Example]) -> dict[str, str]:
    """Which of two classes says that the texts match, where its name does not; classify, where nothing tells."""
    try:
        MatchTarget.learn(field, field, examples)
    except DataError:
        shorter, longer = sorted({str(e.fields[field]) for e in examples if field in e.fields}, key=len)
        # 匹配 and 不匹配, equal and not_equal
        return {"match_label": shorter} if longer.endswith(shorter) else {"kind": "classify"}
    return {}


def _encoder(examples: Sequence[Example], *, passages: bool) -> dict[str, Any]:
    """MiniLM for text in Latin letters; a small encoder from scratch for the rest. `max_length` covers 99 % of the texts."""
    texts = [example.text + " " + (example.pair or "") for example in examples]
    wide = sum(ord(c) > 0x2E7F for text in texts for c in text) > 0.3 * sum(map(len, texts))
    sizes = sorted(len(text) if wide else _PIECES_PER_WORD * len(text.split()) for text in texts)
    needed = sizes[int(0.99 * (len(sizes) - 1))] + 3
    length = next((limit for limit in _MAX_LENGTHS if limit >= needed), _MAX_LENGTHS[-1])
    if passages:
        length = _PASSAGE_LENGTH
    if wide:
        return {"model": "scratch", "max_length": length, "characters": True}
    return {"model": "minilm-l6-en", "max_length": length}


def _epochs(rows: int) -> float:
    """About 2,500 steps, between 3 and 20 epochs."""
    return float(min(20, max(3, round(_WANTED_STEPS * _BATCH / rows))))
