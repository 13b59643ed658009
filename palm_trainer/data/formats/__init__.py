"""File formats by name. Each module parses one format."""

from collections.abc import Mapping

from palm_trainer.data.formats import (
    clinc,
    clu,
    conll,
    csv,
    datasets,
    joint,
    json_list,
    jsonl,
    luis,
    parquet,
    rasa,
    squad,
    text,
    tsv,
)
from palm_trainer.data.formats import (
    palm_tsv as palm,
)
from palm_trainer.data.formats.checks import Parse, checked

FORMATS: Mapping[str, Parse] = {
    "joint": checked(joint.parse),
    "conll": checked(conll.parse),
    "palm": checked(palm.parse),
    "tsv": checked(tsv.parse),
    "csv": checked(csv.parse),
    "jsonl": checked(jsonl.parse),
    "json": checked(json_list.parse),
    "squad": checked(squad.parse),
    "clinc": checked(clinc.parse),
    "rasa": checked(rasa.parse),
    "text": checked(text.parse),
    "luis": checked(luis.parse),
    "clu": checked(clu.parse),
    "parquet": checked(parquet.parse),
    "datasets": checked(datasets.parse),
}
