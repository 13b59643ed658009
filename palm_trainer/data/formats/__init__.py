"""File formats by name. Each module parses one format."""

from collections.abc import Mapping

from palm_trainer.data.formats import (
    alexa,
    clinc,
    clu,
    conll,
    csv,
    datasets,
    dialogflow_cx,
    dialogflow_es,
    doccano,
    joint,
    json_list,
    jsonl,
    label_studio,
    lex,
    luis,
    parquet,
    prodigy,
    rasa,
    snips,
    spacy_docs,
    squad,
    text,
    tsv,
    wit,
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
    "dialogflow_es": checked(dialogflow_es.parse),
    "dialogflow_cx": checked(dialogflow_cx.parse),
    "lex": checked(lex.parse),
    "alexa": checked(alexa.parse),
    "snips": checked(snips.parse),
    "wit": checked(wit.parse),
    "label_studio": checked(label_studio.parse),
    "doccano": checked(doccano.parse),
    "prodigy": checked(prodigy.parse),
    "spacy": checked(spacy_docs.parse),
    "parquet": checked(parquet.parse),
    "datasets": checked(datasets.parse),
}
