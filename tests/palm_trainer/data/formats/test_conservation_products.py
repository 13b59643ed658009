"""What a file of another product holds is used or told, as `test_conservation` asks of the other formats."""

import json
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.detect import detect_format
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.data.found_values import NOT_READ
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
    app |= {"patterns": [{"pattern": "to {city}", "intent": "fly"}] * 2, "utterances": utterances}
    values = [{"canonicalForm": "Oslo", "list": ["oslo", "kristiania"]}, {"canonicalForm": "Rome", "list": []}]
    app |= {
        "closedLists": [{"name": "towns", "subLists": values, "roles": ["r"], "other": 1}],
        "phraselists": [{"a": 1}],
    }
    app |= {"entities": [{"name": "city", "features": [{"modelName": "towns"}], "children": []}]}
    app |= {"regex_entities": [{"name": "zip", "regexPattern": "[0-9]{5}"}, {"name": "zip", "regexPattern": "(?=a)"}]}
    told["'other' of a closed list of LUIS (passed over)"] += 1
    told["'phraselists' of a LUIS app (passed over)"] += 1
    told[NOT_READ] += 1
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
    values = [{"listKey": "OSL", "synonyms": [{"language": "en", "values": ["Oslo", "oslo"]}, {"language": "de"}]}]
    values.append({"listKey": "Rome", "synonyms": [], "note": "n"})
    entities = [{"category": "city", "list": {"sublists": values}, "prebuilts": [{"category": "DateTime"}]}]
    entities[0]["regex"] = {"expressions": [{"regexKey": "k", "language": "en", "regexPattern": "[A-Z]{3}"}]}
    assets = {"projectKind": "Conversation", "intents": [{"category": "fly"}], "entities": entities}
    told["'note' of a value of a CLU list (passed over)"] += 1
    told["'prebuilts' of entities of a CLU project (passed over)"] += 1
    project = {"projectFileVersion": "2022-10-01-preview", "stringIndexType": "Utf16CodeUnit", "metadata": {"a": 1}}
    path.write_text(json.dumps(project | {"assets": assets | {"utterances": utterances}}))
    return examples_of(data, roles=False), {}


FURTHER = "file of the project without training texts (passed over)"


def pieces(row, name):
    """The parts of a text: those of a slot have its name; the blanks between stay with the text around."""
    found, position = [], 0
    content = text(row)
    for span in slots(row):
        if span.start > position:
            found.append({"text": content[position : span.start]})
        found.append({"text": content[span.start : span.end], name: span.label})
        position = span.end
    return [*found, {"text": content[position:]}] if position < len(content) else found


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_dialogflow_es(data, path, told):
    """An agent with a file of phrases for each row, since a file has one intent, and the blanks inside of some slots."""
    put(path / "agent.json", {"language": "en"})
    put(path / "entities" / "city.json", {"name": "city", "isRegexp": False, "note": "n"})
    entries = [
        {"value": "Oslo", "synonyms": ["oslo", ""]},
        {"value": "both", "synonyms": ["@city:a and @city:b", "two"]},
    ]
    put(path / "entities" / "city_entries_en.json", entries)
    put(path / "entities" / "zip.json", {"name": "zip", "isRegexp": True})
    put(path / "entities" / "zip_entries_en.json", [{"value": "[0-9]{5}", "synonyms": []}])
    told[FURTHER] += 1
    told["'note' of a Dialogflow entity (passed over)"] += 1
    told["value of an entity that names another entity (passed over as a value)"] += 1
    told["value of a slot type that no template used (each gives at most 25 rows)"] += 6
    for number, row in enumerate(data):
        parts = pieces(row, "alias")
        if row["synonym"]:
            for before, after in pairwise(parts):
                if "alias" in before and "alias" not in after and after["text"].startswith(" "):
                    before["text"], after["text"] = before["text"] + " ", after["text"][1:]
                    told["slot that begins or ends with a blank (its span is without)"] += 1
        phrase = {"id": "1", "data": parts, "isTemplate": False, "count": 0, "updated": 1}
        for part in parts:
            if row["extra"] and "alias" in part:
                part |= {"meta": "@city", "userDefined": True}
                told["'meta' of a part with an alias (passed over)"] += 1
        if row["extra"]:
            phrase["count"] = 3
            told["number of times that a phrase was added (passed over)"] += 1
            told["phrase of a fallback intent (read as its class)"] += 1
            told["'responses' of a Dialogflow intent (passed over)"] += 1
        intent = {"name": row["intents"][0], "auto": True, "fallbackIntent": row["extra"]}
        put(path / "intents" / f"i{number}.json", intent | {"responses": [{"a": 1}] if row["extra"] else []})
        put(path / "intents" / f"i{number}_usersays_en.json", [phrase])
    return examples_of(data, roles=False), {}


def write_dialogflow_cx(data, path, told):
    put(path / "agent.json", {"displayName": "a"})
    types = path / "entityTypes"
    put(types / "town" / "town.json", {"displayName": "town", "kind": "KIND_MAP", "note": "n"})
    put(types / "town" / "entities" / "en.json", {"entities": [{"value": "Oslo", "synonyms": ["oslo"], "note": "n"}]})
    told["'note' of an entity type of Dialogflow (passed over)"] += 1
    told["'note' of an entity of Dialogflow (passed over)"] += 1
    put(path / "flows" / "f" / "f.json", {"displayName": "f"})
    told[FURTHER] += 2
    for number, row in enumerate(data):
        phrase = {"id": "1", "parts": pieces(row, "parameterId"), "repeatCount": 1 + row["extra"], "languageCode": "en"}
        told["number of times that a phrase was added (passed over)"] += row["extra"]
        if row["synonym"]:
            phrase |= {"note": "n"}
            told["'note' of a Dialogflow phrase (passed over)"] += 1
        parameters = [{"id": "city", "entityType": "@town", "isList": False}, {"id": "x", "note": "n"}]
        intent = {"name": "1", "displayName": row["intents"][0], "parameters": parameters}
        told["'note' of a parameter of a Dialogflow intent (passed over)"] += 1
        put(path / "intents" / f"i{number}" / f"i{number}.json", intent)
        put(path / "intents" / f"i{number}" / "trainingPhrases" / "en.json", {"trainingPhrases": [phrase]})
    return examples_of(data, roles=False), {}


def write_snips(data, path, told):
    intents = {}
    for number, row in enumerate(data):
        parts = pieces(row, "slot_name")
        for part in parts:
            if "slot_name" in part:
                part["entity"] = "t"
                told["'entity' of a part with a slot (passed over)"] += 1
        utterance = {"data": parts} | ({"note": "n"} if row["extra"] else {})
        told["'note' of a Snips utterance (passed over)"] += row["extra"]
        intents[f"i{number}"] = {"utterances": [utterance]}
    entities = {"t": {"data": [{"value": "x", "synonyms": ["y"]}], "use_synonyms": True}, "snips/datetime": {}}
    told["value of a slot type that no template used (each gives at most 25 rows)"] += 2
    path.write_text(json.dumps({"language": "en", "intents": intents, "entities": entities}))
    return [
        (text(row), None, {"intent": f"i{number}", "slots": slots(row, roles=False)}) for number, row in enumerate(data)
    ], {}


def write_snips_benchmark(data, path, told):
    path.write_text(json.dumps({"i": [{"data": pieces(row, "entity")} for row in data]}))
    return [(text(row), None, {"intent": "i", "slots": slots(row, roles=False)}) for row in data], {}


def write_wit(data, path, told):
    utterances = []
    expected = []
    for row in data:
        entities = []
        for span in slots(row):
            entity = {"entity": f"{span.label}:{span.role or span.label}", "start": span.start, "end": span.end}
            entity |= {"body": text(row)[span.start : span.end], "entities": []}
            if row["extra"]:
                entity |= {"entities": [{"entity": "x"}]}
                told["'entities' of a Wit entity (passed over)"] += 1
            if row["synonym"] and units(row, span.start) != span.start:
                entity |= {"start": units(row, span.start), "end": units(row, span.end)}
                kind = "offsets that fit their value in UTF-16 units only (read so)"
                shifted = text(row)[entity["start"] : entity["end"]]
                told[kind] += shifted != entity["body"]
            entities.append(entity)
        traits = [{"trait": "mood", "value": "good"}] if row["extra"] else []
        utterances.append({"text": text(row), "intent": row["intents"][0], "entities": entities, "traits": traits})
        spans = tuple(LabelledSpan(s.start, s.end, s.label, s.role) for s in slots(row))
        fields = {"mood": "good"} if row["extra"] else {}
        expected.append((text(row), None, {"intent": row["intents"][0], **fields, "slots": spans}))
    put(path / "app.json", {"name": "a"})
    keywords = [{"keyword": "Oslo", "synonyms": ["oslo", "Oslo"]}]
    put(path / "entities" / "city.json", {"name": "city", "roles": ["to"], "keywords": keywords, "note": "n"})
    told[FURTHER] += 1
    told["'note' of a Wit entity (passed over)"] += 1
    put(path / "utterances" / "utterances-1.json", {"utterances": utterances})
    return expected, {}


def write_wit_expressions(data, path, told):
    """The older form: the intent is an entity, values have quotes."""
    rows = []
    for row in data:
        entities = [{"entity": "intent", "value": json.dumps(row["intents"][0])}]
        for span in slots(row):
            value = "another" if row["synonym"] else text(row)[span.start : span.end]
            entity = {"entity": span.label, "role": span.role, "value": json.dumps(value, ensure_ascii=False)}
            entities.append(entity | {"start": span.start, "end": span.end})
        rows.append({"text": text(row), "entities": entities})
    path.write_text(json.dumps({"data": rows}))
    return without_groups(data), {}


def sample(row, number):
    """A template: the first slot of the row stands for its type, the others give their value."""
    content, words = [], row["words"]
    position = 0
    for count, (first, last, label, _, _) in enumerate(row["spans"]):
        content += words[position:first]
        value = " ".join(words[first:last])
        content.append(f"{{{value}|{label}}}" if count else f"{{open{number}}}")
        position = last
    return " ".join([*content, *words[position:]])


def written_out(data):
    """The rows that templates give, where each type has one value, that of the row."""
    found = []
    for number, row in enumerate(data):
        spans = list(slots(row, roles=False))
        if spans:
            spans[0] = LabelledSpan(spans[0].start, spans[0].end, f"open{number}")
        found.append((text(row), None, {"intent": row["intents"][0], "slots": tuple(spans)}))
    return found


def write_alexa(data, path, told):
    intents, types = [], []
    for number, row in enumerate(data):
        declared = [{"name": label, "type": "AMAZON.City"} for label in ("city", "time.start")]
        declared.append({"name": f"open{number}", "type": f"t{number}"})
        samples = [sample(row, number)]
        if row["spans"]:
            first, last, *_ = row["spans"][0]
            value = " ".join(row["words"][first:last])
            types.append({"name": f"t{number}", "values": [{"name": {"value": value, "synonyms": [value]}}]})
            told["template (written out with values of its slots, at most 25 rows)"] += 1
        if row["extra"]:
            samples += ["to {city}", "to {nothing}"]
            told["template with a slot of type 'AMAZON.City', which has no values here (left out)"] += 1
            told["template with a slot that its intent does not declare (left out)"] += 1
        intent = {"name": row["intents"][0], "slots": declared, "samples": samples}
        if row["synonym"]:
            declared[0]["samples"] = ["{city}", "in {city}"]
            told["'samples' of an Alexa slot (passed over)"] += 2
        intents.append(intent)
    types.append({"name": "unused", "values": [{"id": "1", "name": {"value": "x", "synonyms": ["y"]}}]})
    told["value of a slot type that no template used (each gives at most 25 rows)"] += 2
    intents.append({"name": "AMAZON.HelpIntent", "samples": []})
    told["intent without sample utterances (passed over)"] += 1
    model = {"invocationName": "a", "intents": intents, "types": types}
    path.write_text(json.dumps({"interactionModel": {"languageModel": model, "dialog": {"intents": []}}}))
    told["'dialog' of an interaction model (passed over)"] += 1
    return written_out(data), {}


def write_lex(data, path, told):
    locale = path / "Bot" / "BotLocales" / "en_US"
    put(path / "manifest.json", {"metadata": {}})
    put(locale / "BotLocale.json", {"name": "English"})
    told[FURTHER] += 2
    for number, row in enumerate(data):
        folder = locale / "Intents" / f"i{number}"
        for label in ("city", "time.start", f"open{number}"):
            slot_type = f"t{number}" if label.startswith("open") else "AMAZON.City"
            put(folder / "Slots" / label / "Slot.json", {"name": label, "slotTypeName": slot_type})
        samples = [{"utterance": sample(row, number)}]
        if row["spans"]:
            first, last, *_ = row["spans"][0]
            value = {"value": " ".join(row["words"][first:last])}
            put(
                locale / "SlotTypes" / f"t{number}" / "SlotType.json",
                {"name": f"t{number}", "slotTypeValues": [{"sampleValue": value, "synonyms": [value]}]},
            )
            told["template (written out with values of its slots, at most 25 rows)"] += 1
        if row["extra"]:
            samples += [{"utterance": "to {city}"}, {"utterance": "to {nothing}"}]
            told["template with a slot of type 'AMAZON.City', which has no values here (left out)"] += 1
            told["template with a slot that its intent does not declare (left out)"] += 1
        intent = {"name": row["intents"][0], "sampleUtterances": samples, "intentConfirmationSetting": {"a": 1}}
        told["'intentConfirmationSetting' of a Lex intent (passed over)"] += 1
        put(folder / "Intent.json", intent)
    put(locale / "Intents" / "FallbackIntent" / "Intent.json", {"name": "FallbackIntent", "sampleUtterances": []})
    told["intent without sample utterances (passed over)"] += 1
    return written_out(data), {}


def write_label_studio(data, path, told):
    tasks, expected = [], []
    for number, row in enumerate(data):
        result = [{"from_name": "intent", "to_name": "text", "type": "choices", "value": {"choices": row["intents"]}}]
        for span in slots(row):
            value = {"start": span.start, "end": span.end, "text": text(row)[span.start : span.end]}
            value["labels"] = [span.label]
            if row["synonym"] and units(row, span.start) != span.start:
                value |= {"start": units(row, span.start), "end": units(row, span.end)}
                shifted = text(row)[value["start"] : value["end"]] != value["text"]
                told["offsets that fit their value in UTF-16 units only (read so)"] += shifted
            if row["extra"]:
                value["labels"] = [span.label, "more"]
                told["further label of the same words (passed over)"] += 1
            result.append({"from_name": "slots", "to_name": "text", "type": "labels", "value": value})
        annotations = [{"result": [], "was_cancelled": True}, {"id": 1, "result": result}]
        told["annotation that was cancelled (passed over)"] += 1
        task = {"id": number, "data": {"text": text(row), "url": "u"}, "annotations": annotations, "predictions": []}
        told["'url' of the data of a task (passed over)"] += 1
        if row["extra"]:
            result.append({"type": "relation", "from_id": "1", "to_id": "2"})
            told["region of type 'relation' (passed over)"] += 1
            annotations.append({"result": [{"a": 1}]})
            told["further annotation of a task (passed over)"] += 1
            task["predictions"] = [{"result": []}]
            told["'predictions' of a task (passed over)"] += 1
        tasks.append(task)
        intents = tuple(row["intents"])
        fields = {"intent": intents[0] if len(intents) == 1 else intents, "slots": slots(row, roles=False)}
        expected.append((text(row), None, fields))
    if not any(row["spans"] for row in data):
        for _, _, fields in expected:
            del fields["slots"]
    tasks.append({"data": {"text": "not seen"}, "annotations": []})
    told["task without an annotation (read as unlabelled)"] += 1
    path.write_text(json.dumps(tasks))
    return [*expected, ("not seen", None, {})], {}


def lines_of(path, rows):
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows))


def write_doccano(data, path, told):
    rows, expected = [], []
    for number, row in enumerate(data):
        entities = []
        for span in slots(row):
            if row["synonym"]:
                entities.append([span.start, span.end, span.label])
            else:
                entities.append({"id": 1, "label": span.label, "start_offset": span.start, "end_offset": span.end})
        line = {"id": number, "text": text(row), "entities": entities, "cats": [*row["intents"], row["intents"][0]]}
        told["class given twice for one row (kept once)"] += 1
        if row["extra"]:
            line |= {"relations": [{"id": 1}, {"id": 2}], "Comments": ["c"]}
            told["'relations' of a doccano line (passed over)"] += 2
            told["'Comments' of a doccano line (passed over)"] += 1
        rows.append(line)
        intents = tuple(row["intents"])
        intent = intents[0] if len(intents) == 1 else intents
        expected.append((text(row), None, {"intent": intent, "slots": slots(row, roles=False)}))
    lines_of(path, rows)
    return expected, {}


def write_doccano_spans(data, path, told):
    rows = [{"text": "a b", "label": [[0, 1, "x"]]}]
    for row in data:
        rows.append({"text": text(row), "label": [[s.start, s.end, s.label] for s in slots(row)]})
    lines_of(path, rows)
    expected = [(text(row), None, {"slots": slots(row, roles=False)}) for row in data]
    return [("a b", None, {"slots": (LabelledSpan(0, 1, "x"),)}), *expected], {}


def write_prodigy(data, path, told):
    rows, expected = [], []
    for row in data:
        spans = [{"start": s.start, "end": s.end, "label": s.label, "token_start": 0} for s in slots(row)]
        line = {"text": text(row), "_task_hash": 1, "spans": spans, "accept": row["intents"], "answer": "accept"}
        if row["extra"]:
            line |= {"meta": {"source": "s"}}
            told["'meta' of a Prodigy task (passed over)"] += 1
            rows.append(line | {"answer": "reject"})
            told["task whose answer is not 'accept' (left out)"] += 1
        rows.append(line)
        expected.append((text(row), None, {"label": tuple(row["intents"]), "slots": slots(row, roles=False)}))
    lines_of(path, rows)
    return expected, {}


def write_spacy(data, path, told):
    spacy = pytest.importorskip("spacy")
    from spacy.tokens import Doc, DocBin, Span

    documents, expected = DocBin(store_user_data=True), []
    vocab = spacy.blank("xx").vocab
    for row in data:
        words = row["words"]
        document = Doc(vocab, words=words, spaces=[True] * (len(words) - 1) + [False])
        document.set_ents([Span(document, first, last, label=label) for first, last, label, _, _ in row["spans"]])
        document.cats = dict.fromkeys(row["intents"], 1.0) | {"no": 0.0}
        if row["extra"]:
            document.spans["g"] = [document[:1]]
            told["spans of the group 'g' (passed over)"] += 1
        documents.add(document)
        intents = tuple(row["intents"])
        label = intents[0] if len(intents) == 1 else intents
        expected.append((text(row), None, {"slots": slots(row, roles=False), "label": label}))
    path.write_bytes(documents.to_bytes())
    return expected, {}


CASES = {
    "spacy": ("spacy", "f.spacy", write_spacy),
    "label_studio": ("label_studio", "f.json", write_label_studio),
    "doccano": ("doccano", "f.jsonl", write_doccano),
    "doccano, spans": ("doccano", "f.jsonl", write_doccano_spans),
    "prodigy": ("prodigy", "f.jsonl", write_prodigy),
    "dialogflow_es": ("dialogflow_es", "agent", write_dialogflow_es),
    "dialogflow_cx": ("dialogflow_cx", "agent", write_dialogflow_cx),
    "snips": ("snips", "f.json", write_snips),
    "snips, benchmark": ("snips", "f.json", write_snips_benchmark),
    "wit": ("wit", "app", write_wit),
    "wit, expressions": ("wit", "f.json", write_wit_expressions),
    "alexa": ("alexa", "f.json", write_alexa),
    "lex": ("lex", "bot", write_lex),
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
    assert detect_format(path).format == name
    folder = str(path.parent)
    for defect in defects:
        assert defect.first.startswith(folder)
