"""Data of other products: detection, offsets in UTF-16, and values of a wrong type, one message each with its place."""

import copy
import json

import pytest
from typer.testing import CliRunner

from palm_trainer.cli.train import app
from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.detect import detect_format
from palm_trainer.data.formats.find_splits import find_splits
from palm_trainer.errors import DataError

# "fly 😀 to oslo": the emoji is one code point, and two units of UTF-16.
TEXT = "fly 😀 to oslo"
OSLO = LabelledSpan(9, 13, "city")

LUIS_ENTITY = {"entity": "city", "startPos": 10, "endPos": 13, "role": "to", "children": []}
LUIS = {
    "luis_schema_version": "7.0.0",
    "utterances": [{"text": TEXT, "intent": "fly", "entities": [LUIS_ENTITY]}],
}
CLU_ENTITY = {"category": "city", "offset": 10, "length": 4}
CLU_ROW = {"text": TEXT, "intent": "fly", "language": "en", "dataset": "Train", "entities": [CLU_ENTITY]}
CLU = {
    "projectFileVersion": "2022-10-01-preview",
    "stringIndexType": "Utf16CodeUnit",
    "assets": {"intents": [], "entities": [], "utterances": [CLU_ROW]},
}

DOCUMENTS = {"luis": LUIS, "clu": CLU}
UNCHECKED = {"luis_schema_version", "projectFileVersion"}
"""Keys that say nothing about a row."""
WRONG = {
    str: (5, True, 1.5, {}, ["a"]),
    int: ("0", True, 1.5, [0], None),
    bool: ("true", 1, []),
    list: (5, True, "a", {"a": 1}, [5], [None]),
    dict: (5, True, "a", [1]),
}


def places(value, path=()):
    """Yield the path of each value in a document."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key), item
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def replaced(document, path, value):
    changed = copy.deepcopy(document)
    owner = changed
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    return changed


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_value_of_the_wrong_type_is_one_message_with_its_place(name, file, parse):
    checked = 0
    for path, item in places(DOCUMENTS[name]):
        if path[-1] in UNCHECKED or (item == [] and path[-1] == "children"):
            continue
        for value in WRONG[type(item)]:
            document = replaced(DOCUMENTS[name], path, value)
            with pytest.raises(DataError, match=r"/a\.json: ") as refused:
                print(path, value, parse(name, file("a.json", json.dumps(document))))
            keys = [str(key) for key in path if isinstance(key, str)]
            assert keys[-1] in str(refused.value)
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("content", ["[", "5", "null", '"a"', "[5]", "{}", '[{"text": 5}]', '{"a": {"a": 1}}'])
def test_another_structure_is_one_message(name, content, file, parse):
    with pytest.raises(DataError, match=r"/a\.json"):
        parse(name, file("a.json", content))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_emoji_before_a_slot_does_not_move_it(name, file, parse):
    path = file("a.json", json.dumps(DOCUMENTS[name]))
    assert detect_format(path).format == name
    [example], _ = parse(name, path)
    [span] = example.fields["slots"]
    assert (example.text, example.text[span.start : span.end], span.label) == (TEXT, "oslo", "city")
    assert example.fields["intent"] == "fly"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_init_finds_rows_of_products(name, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(DOCUMENTS[name]))
    result = CliRunner().invoke(app, ["init", str(path)])
    assert result.exit_code == 0, result.output
    assert f'format = "{name}"' in result.output
    result = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "a.jsonl"), "--from", name])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "a.jsonl").read_text())["text"] == TEXT


@pytest.mark.parametrize(("start", "end"), [(5, 13), (10, 40), (10, 9), (-1, 3), (4, 4)])
def test_luis_offsets_that_are_no_range_are_refused(start, end, file, parse):
    document = replaced(LUIS, ("utterances", 0, "entities", 0), LUIS_ENTITY | {"startPos": start, "endPos": end})
    with pytest.raises(DataError, match=r"a\.json: utterances 1: entities 1: span -?\d+-\d+ (is not|begins or ends)"):
        parse("luis", file("a.json", json.dumps(document)))


def test_luis_last_position_is_part_of_the_entity(file, parse):
    rows = [{"text": "abc", "intent": "", "entities": [{"entity": "x", "startPos": 2, "endPos": 2}]}]
    path = file("a.json", json.dumps({"utterances": rows}))
    assert detect_format(path).format == "luis"
    [example], defects = parse("luis", path)
    assert example.fields == {"slots": (LabelledSpan(2, 3, "x"),)}
    assert defects == {"empty class (read as unlabelled)": 1}


def test_luis_children_are_spans_of_their_own(file, parse):
    child = {"entity": "part", "startPos": 10, "endPos": 11, "children": [LUIS_ENTITY | {"endPos": 10}]}
    document = replaced(LUIS, ("utterances", 0, "entities", 0, "children"), [child])
    [example], defects = parse("luis", file("a.json", json.dumps(document)))
    assert example.fields["slots"] == (LabelledSpan(9, 13, "city", "to"),)
    assert defects == {"span that overlaps another of its field (left out; the longest is kept)": 2}
    deep = LUIS_ENTITY
    for _ in range(100):
        deep = LUIS_ENTITY | {"children": [deep]}
    document = replaced(LUIS, ("utterances", 0, "entities", 0), deep)
    with pytest.raises(DataError, match="nested at most 20 levels"):
        parse("luis", file("a.json", json.dumps(document)))


def test_clu_units_are_those_that_the_project_names(file, parse):
    points = replaced(CLU, ("stringIndexType",), "UnicodeCodePoint")
    points["assets"]["utterances"][0]["entities"][0]["offset"] = 9
    [example], _ = parse("clu", file("a.json", json.dumps(points)))
    assert example.fields["slots"] == (OSLO,)
    with pytest.raises(DataError, match='"stringIndexType" must be Utf16CodeUnit or UnicodeCodePoint, got'):
        parse("clu", file("a.json", json.dumps(replaced(CLU, ("stringIndexType",), "TextElements_v8"))))


def test_clu_list_of_utterances_is_read(file, parse):
    path = file("a.json", json.dumps([CLU_ROW, {"text": "hi", "intent": "greet"}]))
    assert detect_format(path).format == "clu"
    examples, _ = parse("clu", path)
    assert [e.fields["slots"] for e in examples] == [(OSLO,), ()]


def test_clu_test_rows_are_never_trained_on(file, parse, tmp_path):
    rows = [CLU_ROW, CLU_ROW | {"text": "b" + TEXT, "entities": [], "dataset": "test"}]
    path = file("a.json", json.dumps(replaced(CLU, ("assets", "utterances"), rows))).resolve()
    train, test = path.with_name("a.json#Train"), path.with_name("a.json#Test")
    splits, _ = find_splits(path)
    assert splits == {"train": [train], "test": [test]}
    assert detect_format(train).format == detect_format(test).format == "clu"
    assert [e.text for e in parse("clu", train)[0]] == [TEXT]
    assert [e.text for e in parse("clu", test)[0]] == ["b" + TEXT]
    _, defects = parse("clu", path)
    assert sum(defects.values()) == 1
    result = CliRunner().invoke(app, ["init", str(path)])
    assert 'train = "a.json#Train"' in result.output.replace(str(path.parent) + "/", ""), result.output
    only_train = file("b.json", json.dumps(CLU)).resolve()
    assert find_splits(only_train)[0] == {"train": [only_train]}
    with pytest.raises(DataError, match="no utterance of the data set 'Test'"):
        parse("clu", only_train.with_name("b.json#Test"))
    with pytest.raises(DataError, match="the data set must be Train or Test, got 'Dev'"):
        parse("clu", only_train.with_name("b.json#Dev"))
