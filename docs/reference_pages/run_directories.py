"""The files of a run that programs read: `model.json` and `events.jsonl`."""

import dataclasses
import inspect
import re

from palm_trainer.model.checkpoint import ModelDescription
from palm_trainer.runs.events import Averaged, Evaluated
from palm_trainer.training.loop import Step
from reference_pages.markdown import code, paragraphs, prose, table
from reference_pages.schema_tables import keys_of

_EVENTS = {"step": Step, "evaluation": Evaluated, "average": Averaged}


def model_description() -> str:
    """Return the keys of `model.json`."""
    schema = ModelDescription.model_json_schema()
    section = keys_of("model.json", ModelDescription, schema, schema["$defs"])
    return re.sub(r"\(#(\w+)\)", r"(bundle.md#\1)", section.partition("\n\n")[2])


def events() -> str:
    """Return the keys of each event."""
    rows = []
    for name, event in _EVENTS.items():
        keys = ", ".join(code(field.name) for field in dataclasses.fields(event))
        meaning = re.sub(r"\s*Args:.*", "", inspect.getdoc(event) or "", flags=re.DOTALL)
        rows.append([code(name), keys, prose(meaning)])
    return paragraphs(table(["`event`", "keys", "meaning"], rows))
