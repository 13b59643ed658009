"""Graph outputs -> answers: numpy in, dataclasses out, no state, no transport. Evaluation in training decodes with this very code."""

from palm_serve.decoding.decoder_input import Item, own_rows, rows_of
from palm_serve.decoding.kinds import (
    DecoderTable,
    check_outputs,
    golden_answer,
    label_names,
    make_decoder,
    register_served_kind,
    served_kind,
)
from palm_serve.decoding.served_kind import Decoder, OutputColumn, ServedKind

__all__ = [
    "Decoder",
    "DecoderTable",
    "Item",
    "OutputColumn",
    "ServedKind",
    "check_outputs",
    "golden_answer",
    "label_names",
    "make_decoder",
    "own_rows",
    "register_served_kind",
    "rows_of",
    "served_kind",
]
