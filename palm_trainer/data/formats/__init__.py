"""File formats by name. Each module parses one format."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from palm_trainer.data.example import Example
from palm_trainer.data.formats import (
    clinc,
    conll,
    csv,
    datasets,
    joint,
    json_list,
    jsonl,
    parquet,
    rasa,
    squad,
    text,
    tsv,
)
from palm_trainer.data.formats import (
    palm_tsv as palm,
)
from palm_trainer.data.formats.text_files import Defects, FormatOptions

Parse: TypeAlias = Callable[[Path, FormatOptions, Defects], Iterator[Example]]

FORMATS: Mapping[str, Parse] = {
    "joint": joint.parse,
    "conll": conll.parse,
    "palm": palm.parse,
    "tsv": tsv.parse,
    "csv": csv.parse,
    "jsonl": jsonl.parse,
    "json": json_list.parse,
    "squad": squad.parse,
    "clinc": clinc.parse,
    "rasa": rasa.parse,
    "text": text.parse,
    "parquet": parquet.parse,
    "datasets": datasets.parse,
}
