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
