"""File formats by name, one small file each: parse only."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from palm_trainer.example import Example
from palm_trainer.reader.formats import csv, joint, jsonl, tsv
from palm_trainer.reader.formats.source import Defects, FormatOptions

Parse: TypeAlias = Callable[[Path, FormatOptions, Defects], Iterator[Example]]

FORMATS: Mapping[str, Parse] = {
    "joint": joint.parse,
    "tsv": tsv.parse,
    "csv": csv.parse,
    "jsonl": jsonl.parse,
}
