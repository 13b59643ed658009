"""Configurations of the encoders that fewshot.py starts from, made of examples/nlu_base.toml.

The corpus of the target is left out, and so is every text of the other corpora that is nearly one of the target's test
texts. `near_duplicate_key` says what "nearly" is. Corpora that lose texts, or rows without a label, are written to the
work directory as JSON lines. Nothing is written into the repository.
"""

import json
import math
import os
import re
import tomllib
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from common import ROOT

from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.data.formats.text_files import FormatOptions
from palm_trainer.data.formats.writers import write_jsonl
from palm_trainer.data.splits import Splits
from palm_trainer.training.mixing.quotas import temperature

NLU_BASE = ROOT / "examples/nlu_base.toml"
MULTI, SINGLE, JOINT = "multi", "single", "joint"
SINGLE_TASK = "sgd_intent"
"""The one task of the single-task encoder: labelled intents of sixteen domains, none of them of a target's corpus."""
TARGET_DATA, TARGET_TASK, SLOTS_TASK = "target", "intent", "slots"
_MANY_EPOCHS = 1000.0
"""So many that the rounding of quotas to whole batches does not count."""


@dataclass(frozen=True)
class Base:
    """A configuration in the work directory, and what was taken out of its data."""

    config: Path
    removed: Mapping[str, int]
    """Near-duplicates of test texts by corpus."""
    rows: Mapping[str, int]
    """Training rows by corpus."""


def read_texts(path: str) -> list[str]:
    """Return the texts of JSON lines, or of a directory in the joint format. The path may name environment variables."""
    place = Path(os.path.expandvars(path))
    if place.is_dir():
        return (place / "seq.in").read_text(encoding="utf-8").splitlines()
    lines = place.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def near_duplicate_key(text: str) -> str:
    """Return a text in lower case without punctuation and white space: near-duplicates have the same."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def drop_near_duplicates(examples: Sequence[Example], keys: Collection[str]) -> list[Example]:
    """Return the examples of which neither text has one of the keys."""
    remaining = []
    for example in examples:
        texts = [example.text] if example.pair is None else [example.text, example.pair]
        if not any(near_duplicate_key(text) in keys for text in texts):
            remaining.append(example)
    return remaining


def leave_out(table: Mapping[str, Any], corpus: str) -> dict[str, Any]:
    """Return a configuration without a data set and its tasks.

    Raises:
        ValueError: there is no such data set, or a task shares it with another.
    """
    if corpus not in table["data"]:
        raise ValueError(f"{corpus} must be one of {', '.join(table['data'])}")
    tasks = {}
    for name, task in table["tasks"].items():
        if corpus not in task["data"]:
            tasks[name] = task
        elif task["data"] != [corpus]:
            raise ValueError(f"task '{name}' has other data than {corpus}")
    data = {name: settings for name, settings in table["data"].items() if name != corpus}
    return {**table, "data": data, "tasks": tasks}


def keep_task(table: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return a configuration of one task, which has one data set."""
    (corpus,) = table["tasks"][task]["data"]
    return {**table, "data": {corpus: table["data"][corpus]}, "tasks": {task: table["tasks"][task]}}


def epochs_for_steps(rows: Mapping[str, int], train: Mapping[str, Any], steps: int) -> float:
    """Return the epochs of the reference data set that make a run of temperature mixing about `steps` steps long.

    Args:
        rows: training rows by data set.
        train: the section `train` of the configuration.
        steps: wanted steps of all data sets together.
    """
    batches = _batches(rows, train["batch_size"])
    many = temperature(batches, train["reference"], _MANY_EPOCHS, train["mixing_temperature"])
    return steps * _MANY_EPOCHS / sum(many.values())


def mix_target_in(
    table: Mapping[str, Any], rows: Mapping[str, int], few_shot: Mapping[str, Any], target_rows: int
) -> dict[str, Any]:
    """Return a configuration that trains the target together with the corpora of a base from the start.

    Each corpus has as many batches as in the base, the target as many as in its own few-shot training: the arms see the
    same data, here mixed and there one after the other. The encoder has the learning rate of the base.

    Args:
        table: configuration of the base, with `epochs` set.
        rows: training rows by corpus.
        few_shot: configuration of the few-shot training.
        target_rows: training rows of the target.
    """
    train = dict(table["train"])
    batches = _batches(rows, train["batch_size"])
    quotas = temperature(batches, train["reference"], train["epochs"], train.pop("mixing_temperature"))
    data = {}
    for name, settings in table["data"].items():
        data[name] = {**settings, "epochs": quotas[name] / batches[name]}
    target = few_shot["data"][TARGET_DATA]
    data[TARGET_DATA] = {"format": target["format"], "train": target["train"], "epochs": few_shot["train"]["epochs"]}
    head = {**few_shot["tasks"][TARGET_TASK], "learning_rate": few_shot["train"]["head_learning_rate"]}
    expected_batches = math.ceil(target_rows / train["batch_size"])
    if few_shot["train"]["batch_size"] != train["batch_size"]:
        raise ValueError(f"the target's {expected_batches} batches must have the size of the base's")
    return {
        **table,
        "data": data,
        "tasks": {**table["tasks"], TARGET_TASK: head},
        "train": {**train, "mixing": "per_task_epochs"},
    }


def write_base(kind: str, corpus: str, test_texts: Sequence[str], folder: Path, steps: int) -> Base:
    """Write the configuration of an encoder for a target, and the corpora that differ from those of PALM_DATA.

    Args:
        kind: `multi`, all corpora but the target's, or `single`, one task.
        corpus: the target's data set in examples/nlu_base.toml.
        test_texts: of the target.
        folder: to write into.
        steps: of the training.
    """
    table = tomllib.loads(NLU_BASE.read_text(encoding="utf-8"))
    table = keep_task(table, SINGLE_TASK) if kind == SINGLE else leave_out(table, corpus)
    settings = load_config(NLU_BASE)
    splits = Splits(settings.data)
    keys = {near_duplicate_key(text) for text in test_texts}
    folder.mkdir(parents=True, exist_ok=True)
    data, removed, rows = {}, {}, {}
    for name, section in table["data"].items():
        examples = splits.examples(name, "train")
        remaining = drop_near_duplicates(examples, keys)
        removed[name] = len(examples) - len(remaining)
        if kind == SINGLE:
            remaining = [example for example in remaining if "intent" in example.fields]
        rows[name] = len(remaining)
        data[name] = section
        if len(remaining) < len(examples):
            path = folder / f"{name}.jsonl"
            write_jsonl(remaining, path, FormatOptions())
            data[name] = {"format": "jsonl", "train": str(path)}
    train = dict(table["train"])
    train["epochs"] = epochs_for_steps(rows, train, steps)
    config = folder / "base.toml"
    config.write_text(tomli_w.dumps({**table, "data": data, "train": train}), encoding="utf-8")
    base = Base(config, removed, rows)
    (folder / "base.json").write_text(json.dumps({"removed": removed, "rows": rows}), encoding="utf-8")
    return base


def _batches(rows: Mapping[str, int], batch_size: int) -> dict[str, int]:
    return {name: math.ceil(count / batch_size) for name, count in rows.items()}
