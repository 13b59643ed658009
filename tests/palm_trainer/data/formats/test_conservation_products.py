"""What a file of another product holds is used or told, as `test_conservation` asks of the other formats."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from tests.palm_trainer.data.formats import test_conservation as plain
from tests.palm_trainer.data.formats.test_conservation import OVERLAP, ROWS, slots, text


def units(row, position):
    """The UTF-16 unit at which a code point begins."""
    return len(text(row)[:position].encode("utf-16-le")) // 2


def examples_of(data, **options):
    return [(text(row), None, {"intent": row["intents"][0], "slots": slots(row, **options)}) for row in data]


def without_groups(data):
    found = []
    for row in data:
        spans = tuple(LabelledSpan(s.start, s.end, s.label, s.role) for s in slots(row))
        found.append((text(row), None, {"intent": row["intents"][0], "slots": spans}))
    return found


def write_luis(data, path, told):
    utterances = []
    for row in data:
        entities = []
        for span in slots(row):
            entity = {"entity": span.label, "startPos": units(row, span.start), "endPos": units(row, span.end) - 1}
            entity |= {"role": span.role} if span.role else {}
            if row["extra"]:
                entity |= {"children": [{**entity, "children": []}], "score": 0.5}
                if not span.role:
                    entity["children"][0]["entity"] = "child"
                else:
                    entity["children"][0]["role"] = "child"
                told["'score' of a LUIS entity (passed over)"] += 1
                told[OVERLAP] += 1
            entities.append(entity)
        utterance = {"text": text(row), "intent": row["intents"][0], "entities": entities}
        if row["synonym"]:
            utterance |= {"note": "n"}
            told["'note' of a LUIS utterance (passed over)"] += 1
        utterances.append(utterance)
    app = {"luis_schema_version": "7.0.0", "culture": "en-us", "name": "a", "intents": [{"name": "fly"}]}
    app |= {"patterns": [{"pattern": "to {city}", "intent": "fly"}] * 2, "closedLists": [], "utterances": utterances}
    told["'patterns' of a LUIS app (passed over)"] += 2
    path.write_text(json.dumps(app))
    return without_groups(data), {}


def write_clu(data, path, told):
    utterances = []
    for row in data:
        entities = []
        for span in slots(row):
            start = units(row, span.start)
            entities.append({"category": span.label, "offset": start, "length": units(row, span.end) - start})
        utterance = {"text": text(row), "intent": row["intents"][0], "language": "en", "dataset": "Train"}
        if row["extra"]:
            utterance |= {"dataset": "Test", "note": "n"}
            told["'note' of a CLU utterance (passed over)"] += 1
            told["utterance of the data set 'Test' (read too; name FILE#Train or FILE#Test to read one)"] += 1
        utterances.append(utterance | {"entities": entities})
    entities = [{"category": "city", "list": {"sublists": [{}]}, "prebuilts": [{"category": "DateTime"}]}]
    assets = {"projectKind": "Conversation", "intents": [{"category": "fly"}], "entities": entities}
    told["'list' of entities of a CLU project (passed over)"] += 1
    told["'prebuilts' of entities of a CLU project (passed over)"] += 1
    project = {"projectFileVersion": "2022-10-01-preview", "stringIndexType": "Utf16CodeUnit", "metadata": {"a": 1}}
    path.write_text(json.dumps(project | {"assets": assets | {"utterances": utterances}}))
    return examples_of(data, roles=False), {}


CASES = {
    "luis": ("luis", "f.json", write_luis),
    "clu": ("clu", "f.json", write_clu),
}


def test_conservation_covers_every_format():
    assert {name for name, _, _ in [*CASES.values(), *plain.CASES.values()]} == set(FORMATS)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=40, deadline=None)
@given(data=ROWS)
def test_what_a_file_of_a_product_holds_is_used_or_told(case, data, tmp_path_factory):
    name, file, write = CASES[case]
    path = tmp_path_factory.mktemp("conserve") / file
    told = Counter()
    expected, options = write(data, path, told)
    defects = Defects()
    examples = list(FORMATS[name](path, FormatOptions(**options), defects))
    assert [(e.text, e.pair, dict(e.fields)) for e in examples] == expected
    assert {defect.kind: defect.count for defect in defects} == {kind: n for kind, n in told.items() if n}
    folder = str(path.parent)
    for defect in defects:
        assert defect.first.startswith(folder)
