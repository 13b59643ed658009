"""Values that readers find beside the examples."""

import json

import pytest

from palm_serve.bundle.values_file import Pattern, SlotValues
from palm_trainer.data.example import Example
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.data.found_values import NOT_READ, TOO_LONG, FoundValues
from palm_trainer.errors import DataError

NYC = SlotValues(synonyms={"nyc": "New York"}, values=("New York", "Boston"))


def read(format_name, path):
    defects = Defects()
    examples: list[Example] = list(FORMATS[format_name](path, FormatOptions(), defects))
    return examples, defects


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_lines_of_jsonl_hold_values(tmp_path):
    rows = [
        {"values": {"city": {"New York": ["nyc"], "Boston": []}, "": {"Monday": ["mon"]}}},
        {"text": "to nyc", "slots": [{"start": 3, "end": 6, "label": "city"}]},
        {"patterns": {"zip": ["[0-9]{5}", "(?=x)"]}},
    ]
    examples, defects = read("jsonl", write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert [example.text for example in examples] == ["to nyc"]
    common = SlotValues(
        synonyms={"mon": "Monday"}, values=("Monday",), patterns=(Pattern(name="zip", pattern="[0-9]{5}"),)
    )
    assert defects.values.by_slot(["city"]) == {"city": NYC, "": common}
    assert {defect.kind: defect.first for defect in defects} == {NOT_READ: f"{tmp_path}/a.jsonl:3"}


@pytest.mark.parametrize(
    "row", [{"values": []}, {"values": {"a": ["b"]}}, {"values": {"a": {"b": [3]}}}, {"patterns": {"a": "b"}}]
)
def test_other_lines_of_values_are_refused(tmp_path, row):
    with pytest.raises(DataError, match=r"a\.jsonl:1: a line of values must be"):
        read("jsonl", write(tmp_path / "a.jsonl", row))


def test_types_of_alexa_and_snips_are_used_by_their_slots(tmp_path):
    values = [{"name": {"value": "New York", "synonyms": ["nyc", ""]}}, {"name": {"value": "Boston"}}]
    intent = {"name": "fly", "slots": [{"name": "to", "type": "place"}], "samples": ["fly to {to}"]}
    model = {"intents": [intent], "types": [{"name": "place", "values": values}]}
    document = {"interactionModel": {"languageModel": model}}
    _, defects = read("alexa", write(tmp_path / "alexa.json", document))
    assert defects.values.by_slot(["to"]) == {"to": NYC}
    assert defects.values.by_slot(["place"]) == {}
    entities = {"place": {"data": [{"value": "New York", "synonyms": ["nyc"]}, {"value": "Boston"}]}}
    parts = [{"text": "fly to "}, {"text": "nyc", "slot_name": "to", "entity": "place"}]
    _, defects = read(
        "snips",
        write(tmp_path / "snips.json", {"intents": {"fly": {"utterances": [{"data": parts}]}}, "entities": entities}),
    )
    assert defects.values.by_slot(["to"]) == {"to": NYC}


def put(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, content)
    return folder


TEXT = "fly to nyc"
ZIP = Pattern(name="zip", pattern="[0-9]{5}")


def luis_app(folder):
    entity = {"entity": "to", "startPos": 7, "endPos": 9}
    cities = [{"canonicalForm": "New York", "list": ["nyc", " "]}, {"canonicalForm": "Boston", "list": []}]
    app = {
        "luis_schema_version": "7.0.0",
        "utterances": [{"text": TEXT, "intent": "fly", "entities": [entity]}],
        "closedLists": [{"name": "place", "subLists": cities}],
        "regex_entities": [{"name": "zip", "regexPattern": "[0-9]{5}"}],
        "entities": [{"name": "trip", "children": [{"name": "to", "features": [{"modelName": "place"}]}]}],
    }
    return write(folder / "a.json", app)


def clu_project(folder):
    utterance = {"text": TEXT, "intent": "fly", "entities": [{"category": "to", "offset": 7, "length": 3}]}
    cities = [
        {"listKey": "New York", "synonyms": [{"language": "en", "values": ["nyc"]}]},
        {"listKey": "Boston", "synonyms": []},
    ]
    entities = [
        {"category": "to", "list": {"sublists": cities}},
        {"category": "zip", "regex": {"expressions": [{"regexKey": "a", "regexPattern": "[0-9]{5}"}]}},
    ]
    assets = {"intents": [], "entities": entities, "utterances": [utterance]}
    return write(folder / "a.json", {"projectFileVersion": "1", "assets": assets})


def dialogflow_es_agent(folder):
    parts = [{"text": "fly to "}, {"text": "nyc", "alias": "to", "meta": "@place"}]
    parts += [{"text": " "}, {"text": "10001", "alias": "zip", "meta": "@code"}]
    files = {
        "intents/fly_usersays_en.json": [{"data": parts}],
        "entities/place.json": {"name": "place"},
        "entities/place_entries_en.json": [{"value": "New York", "synonyms": ["nyc"]}, {"value": "Boston"}],
        "entities/code.json": {"name": "code", "isRegexp": True},
        "entities/code_entries_en.json": [{"value": "[0-9]{5}"}],
    }
    return put(folder, files)


def dialogflow_cx_agent(folder):
    parts = [{"text": "fly to "}, {"text": "nyc", "parameterId": "to"}]
    parts += [{"text": " "}, {"text": "10001", "parameterId": "zip"}]
    parameters = [
        {"id": "to", "entityType": "projects/-/agents/-/entityTypes/place"},
        {"id": "zip", "entityType": "@code"},
    ]
    cities = [{"value": "New York", "synonyms": ["nyc"]}, {"value": "Boston", "synonyms": ["Boston"]}]
    files = {
        "intents/fly/fly.json": {"displayName": "fly", "parameters": parameters},
        "intents/fly/trainingPhrases/en.json": {"trainingPhrases": [{"parts": parts}]},
        "entityTypes/place/place.json": {"displayName": "place", "kind": "KIND_MAP"},
        "entityTypes/place/entities/en.json": {"entities": cities},
        "entityTypes/code/code.json": {"displayName": "code", "kind": "KIND_REGEXP"},
        "entityTypes/code/entities/en.json": {"entities": [{"value": "[0-9]{5}", "synonyms": ["[0-9]{5}"]}]},
    }
    return put(folder, files)


def wit_app(folder):
    entity = {"entity": "to:to", "start": 7, "end": 10, "body": "nyc"}
    keywords = [{"keyword": "New York", "synonyms": ["nyc", "New York"]}, {"keyword": "Boston", "synonyms": []}]
    files = {
        "app.json": {"name": "a"},
        "utterances/u.json": {"utterances": [{"text": TEXT, "intent": "fly", "entities": [entity], "traits": []}]},
        "entities/to.json": {"name": "to", "keywords": keywords},
    }
    return put(folder, files)


@pytest.mark.parametrize(
    ("format_name", "make", "pattern"),
    [
        ("luis", luis_app, ZIP),
        ("clu", clu_project, ZIP),
        ("dialogflow_es", dialogflow_es_agent, Pattern(name="code", pattern="[0-9]{5}")),
        ("dialogflow_cx", dialogflow_cx_agent, Pattern(name="code", pattern="[0-9]{5}")),
        ("wit", wit_app, None),
    ],
)
def test_lists_of_products_are_values_of_their_slots(format_name, make, pattern, tmp_path):
    _, defects = read(format_name, make(tmp_path))
    values = defects.values.by_slot(["to", "zip", "other"])
    patterns = {} if pattern is None else {"zip": SlotValues(patterns=(pattern,))}
    assert values == {"to": NYC} | patterns
    said = {"luis": ["New York", "nyc", "Boston"], "wit": ["nyc", "New York", "Boston"]}
    assert defects.values.wordings("to") == said.get(format_name, ["nyc", "Boston"])
    assert defects.values.wordings("other") == []


def test_wordings_are_what_users_say(tmp_path):
    rows = [{"values": {"city": {"NYC": ["new york", "big apple"], "Boston": []}, "": {"Monday": ["mon"]}}}]
    rows.append({"text": "to nyc", "slots": [{"start": 3, "end": 6, "label": "city"}]})
    _, defects = read("jsonl", write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert defects.values.wordings("city") == ["new york", "big apple", "Boston"]
    joined, _ = collect()
    joined.merge(defects.values)
    assert joined.wordings("city") == ["new york", "big apple", "Boston"]
    rasa = """version: "3.1"
nlu:
- intent: fly
  examples: |
    - to [nyc]{"entity": "city", "value": "NYC"}
- synonym: NYC
  examples: |
    - the city
- lookup: city
  examples: |
    - oslo
- lookup: town
  examples: |
    - bonn
"""
    _, defects = read("rasa", write(tmp_path / "nlu.yml", rasa))
    assert defects.values.wordings("city") == ["oslo"]


def collect():
    faults = []
    return FoundValues(lambda kind, source: faults.append((kind, source))), faults


def test_annotation_holds_for_other_slots_where_it_is_the_only_one():
    found, _ = collect()
    found.add_annotated("from", "nyc", "New York", "a:1")
    found.add_annotated("from", "large", "L", "a:2")
    found.add_annotated("size", "large", "big", "a:3")
    slots = found.by_slot(["from", "size"])
    assert slots["from"].synonyms == {"nyc": "New York", "large": "L"}
    assert slots["size"].synonyms == {"large": "big"}
    assert slots[""].synonyms == {"nyc": "New York"}


@pytest.mark.parametrize("order", [1, -1])
def test_synonym_that_maps_two_ways_names_both_places(order):
    found, _ = collect()
    steps = [
        lambda: found.add_synonyms("", "Credit", ["card"], "a.yml:1"),
        lambda: found.add_annotated("account", "CARD", "Debit", "a.yml:2"),
    ][::order]
    steps[0]()
    with pytest.raises(DataError, match=r"a\.yml:[12]: a synonym must stand for one value, .* at a\.yml:[12]"):
        steps[1]()


def test_files_of_one_task_may_not_disagree():
    first, _ = collect()
    second, _ = collect()
    first.add_synonyms("city", "New York", ["nyc"], "a:1")
    second.add_synonyms("city", "New York City", ["NYC"], "b:1")
    with pytest.raises(DataError, match="b:1: a synonym must stand for one value"):
        first.merge(second)


def test_unusable_values_are_counted():
    found, faults = collect()
    found.add_values("city", ["x" * 1001, "Oslo"], "a:1")
    assert found.by_slot(["city"]) == {"city": SlotValues(values=("Oslo",))}
    assert faults == [(TOO_LONG, "a:1")]
