"""A configuration for data that nobody described: `palm-train init`."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from palm_trainer.config import DataConfig
from palm_trainer.errors import DataError
from palm_trainer.example import Example, LabelledSpan
from palm_trainer.reader.files import read_split
from palm_trainer.reader.formats.detect import detect
from palm_trainer.reader.formats.source import FormatOptions

_SPLIT_WORDS = {"train": ("train",), "dev": ("dev", "valid", "val"), "test": ("test",)}
_MAX_LENGTHS = (32, 64, 128, 256, 512)
_PIECES_PER_WORD = 1.4
_WANTED_STEPS = 2500
_BATCH = 32


def suggest(data: Path) -> tuple[str, list[str]]:
    """A configuration (TOML text) for a file or directory, and what was found, a line each.

    Raises DataError when nothing trainable is recognised.
    """
    splits = find_splits(data)
    detection = detect(splits["train"])
    options = {key: list(v) if isinstance(v, tuple) else v for key, v in _given(detection.options).items()}
    files = {split: str(path) for split, path in splits.items()}
    settings = DataConfig.model_validate({"format": detection.format, **files, **options})
    examples = {split: read_split(settings, split).examples for split in splits}
    name = "data" if not data.stem.isidentifier() else data.stem.lower()
    tasks = suggest_tasks(examples["train"], name)
    config: dict[str, Any] = {
        "encoder": _encoder(examples["train"]),
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
    rows = ", ".join(f"{split} {len(found)} rows" for split, found in examples.items())
    found = [
        f"{data}: format {detection.format}; {rows}",
        *(f"task {task}: {table['kind']}" for task, table in tasks.items()),
    ]
    if "dev" not in splits:
        found.append(
            "no dev split found: the last checkpoint will count as the best; give `dev = ...` to choose it on data"
        )
    return tomli_w.dumps(config), found


def find_splits(data: Path) -> dict[str, Path]:
    """The train, dev and test files (or directories) of a data set: by their names in a directory, or the file itself as train."""
    if not data.exists():
        raise DataError(f"{data}: no such file or directory. Give the data's directory or its training file.")
    data = data.resolve()
    if data.is_dir():
        entries = sorted(
            path
            for path in data.iterdir()
            if not path.name.startswith(".") and path.suffix not in {".md", ".py", ".intent"}
        )
        splits = {split: path for split in _SPLIT_WORDS if (path := _named(entries, split))}
        if "train" in splits:
            return splits
        return {"train": data}
    siblings = sorted(path for path in data.parent.iterdir() if path.suffix == data.suffix and path != data)
    others = {
        split: path for split in ("dev", "test") if "train" in data.name.lower() and (path := _named(siblings, split))
    }
    return {"train": data, **others}


def suggest_tasks(examples: Sequence[Example], data: str) -> dict[str, dict[str, Any]]:
    """A task for each field of the examples that something can learn. Raises DataError when there is none."""
    fields: dict[str, list[Any]] = {}
    for example in examples:
        for field, value in example.fields.items():
            fields.setdefault(field, []).append(value)
    tasks: dict[str, dict[str, Any]] = {}
    for field, values in fields.items():
        kind = _kind(values, any(example.pair is not None for example in examples))
        if kind is not None:
            tasks[field] = {"kind": kind, "data": [data]}
    for kind, role in (("classify", "intent"), ("sequence_label", "slots")):
        holders = [name for name, table in tasks.items() if table["kind"] == kind]
        if len(holders) == 1 and (len(tasks) > 1 or holders[0] == role):
            tasks[holders[0]]["role"] = role
    if not tasks:
        raise DataError(
            f"no field that a task could learn; fields: {', '.join(fields) or 'none'}. Label the data, or convert it with `palm-train convert`."
        )
    return tasks


def _given(options: FormatOptions) -> dict[str, Any]:
    """Options that differ from the defaults."""
    default = asdict(FormatOptions())
    return {key: value for key, value in asdict(options).items() if value != default[key]}


def _named(paths: Iterable[Path], split: str) -> Path | None:
    return next((path for path in paths for word in _SPLIT_WORDS[split] if word in path.name.lower()), None)


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


def _encoder(examples: Sequence[Example]) -> dict[str, Any]:
    """MiniLM for text in Latin letters; a small encoder from scratch for the rest. `max_length` covers 99 % of the texts."""
    texts = [example.text + " " + (example.pair or "") for example in examples]
    wide = sum(ord(c) > 0x2E7F for text in texts for c in text) > 0.3 * sum(map(len, texts))
    sizes = sorted(len(text) if wide else _PIECES_PER_WORD * len(text.split()) for text in texts)
    needed = sizes[int(0.99 * (len(sizes) - 1))] + 3
    length = next((limit for limit in _MAX_LENGTHS if limit >= needed), _MAX_LENGTHS[-1])
    if wide:
        return {"model": "scratch", "max_length": length, "characters": True}
    return {"model": "minilm-l6-en", "max_length": length}


def _epochs(rows: int) -> float:
    """About 2,500 steps, between 3 and 20 epochs."""
    return float(min(20, max(3, round(_WANTED_STEPS * _BATCH / rows))))
