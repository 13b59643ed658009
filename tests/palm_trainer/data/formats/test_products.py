"""Data of other products: detection, offsets in UTF-16, and values of a wrong type, one message each with its place."""

import copy
import json
import re
import sys
import zipfile
import zlib

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
LUIS_LIST = {"name": "towns", "subLists": [{"canonicalForm": "Oslo", "list": ["oslo"]}]}
LUIS_NAMED = {"name": "city", "features": [{"modelName": "towns"}]}
LUIS = {
    "luis_schema_version": "7.0.0",
    "entities": [LUIS_NAMED],
    "closedLists": [LUIS_LIST],
    "regex_entities": [{"name": "zip", "regexPattern": "[0-9]{5}"}],
    "utterances": [{"text": TEXT, "intent": "fly", "entities": [LUIS_ENTITY]}],
}
CLU_ENTITY = {"category": "city", "offset": 10, "length": 4}
CLU_ROW = {"text": TEXT, "intent": "fly", "language": "en", "dataset": "Train", "entities": [CLU_ENTITY]}
CLU_LIST = {"sublists": [{"listKey": "OSL", "synonyms": [{"values": ["oslo"]}]}]}
CLU_NAMED = {"category": "city", "list": CLU_LIST, "regex": {"expressions": [{"regexPattern": "[0-9]"}]}}
CLU = {
    "projectFileVersion": "2022-10-01-preview",
    "stringIndexType": "Utf16CodeUnit",
    "assets": {"intents": [], "entities": [CLU_NAMED], "utterances": [CLU_ROW]},
}

ES_PART = {"text": "oslo", "alias": "city", "userDefined": True}
ES = [{"id": "1", "data": [{"text": "fly 😀 to "}, ES_PART], "isTemplate": False, "count": 0, "updated": 1}]
CX_PHRASE = {"parts": [{"text": "fly 😀 to "}, {"text": "oslo", "parameterId": "city"}], "repeatCount": 1}
CX = {"intents": [{"displayName": "fly", "trainingPhrases": [CX_PHRASE], "isFallback": False}]}
ALEXA_TYPE = {"name": "places", "values": [{"id": "1", "name": {"value": "oslo", "synonyms": ["oslo"]}}]}
ALEXA_INTENT = {"name": "fly", "slots": [{"name": "city", "type": "places"}], "samples": ["fly 😀 to {city}"]}
ALEXA = {"interactionModel": {"languageModel": {"intents": [ALEXA_INTENT], "types": [ALEXA_TYPE]}}}
SNIPS_PARTS = [{"text": "fly 😀 to "}, {"text": "oslo", "slot_name": "city", "entity": "places"}]
SNIPS_ENTITY = {"data": [{"value": "oslo", "synonyms": ["oslo"]}]}
SNIPS = {"intents": {"fly": {"utterances": [{"data": SNIPS_PARTS}]}}, "entities": {"places": SNIPS_ENTITY}}
WIT_ENTITY = {"entity": "city:to", "start": 9, "end": 13, "body": "oslo", "role": "to"}
WIT_TRAIT = {"trait": "mood", "value": "good"}
WIT = {"utterances": [{"text": TEXT, "intent": "fly", "entities": [WIT_ENTITY], "traits": [WIT_TRAIT]}]}

STUDIO_SPAN = {"start": 9, "end": 13, "text": "oslo", "labels": ["city"]}
STUDIO_CHOICE = {"from_name": "intent", "to_name": "text", "type": "choices", "value": {"choices": ["fly"]}}
STUDIO_REGION = {"from_name": "slots", "to_name": "text", "type": "labels", "value": STUDIO_SPAN}
STUDIO_ANNOTATION = {"was_cancelled": False, "result": [STUDIO_REGION, STUDIO_CHOICE]}
STUDIO = [{"data": {"text": TEXT, "text_pair": "b"}, "annotations": [STUDIO_ANNOTATION]}]

DOCUMENTS = {
    "label_studio": STUDIO,
    "luis": LUIS,
    "clu": CLU,
    "dialogflow_es": ES,
    "dialogflow_cx": CX,
    "alexa": ALEXA,
    "snips": SNIPS,
    "wit": WIT,
}
UNCHECKED = {"luis_schema_version", "projectFileVersion", "id", "updated", "userDefined", "to_name"}
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
            if value is None and path[-1] in ("count", "repeatCount"):
                continue  # these may be null
            document = replaced(DOCUMENTS[name], path, value)
            with pytest.raises(DataError, match=r"/a\.json: ") as refused:
                print(path, value, parse(name, file("a.json", json.dumps(document))))
            keys = [str(key) for key in path if isinstance(key, str)]
            assert not keys or keys[-1] in str(refused.value)
            checked += 1
    assert checked > 15


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("content", ["[", "5", "null", '"a"', "[5]", "{}", '[{"data": 5}]', '{"a": {"a": 1}}'])
def test_another_structure_is_one_message(name, content, file, parse):
    with pytest.raises(DataError, match=r"/a\.json"):
        parse(name, file("a.json", content))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_emoji_before_a_slot_does_not_move_it(name, file, parse):
    path = file("fly_usersays_en.json" if name == "dialogflow_es" else "a.json", json.dumps(DOCUMENTS[name]))
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
    row, *_ = (tmp_path / "a.jsonl").read_text().splitlines()
    assert json.loads(row)["text"] == TEXT


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


ES_AGENT = {
    "agent.json": {"language": "en"},
    "intents/fly.json": {"name": "fly away", "auto": True},
    "intents/fly_usersays_en.json": ES,
    "intents/fly_usersays_de.json": [{"data": [{"text": "flieg"}], "isTemplate": False}],
}
CX_AGENT = {
    "agent.json": {"displayName": "a"},
    "intents/fly/fly.json": {"displayName": "fly away"},
    "intents/fly/trainingPhrases/en.json": {"trainingPhrases": [CX_PHRASE]},
    "intents/fly/trainingPhrases/de.json": {"trainingPhrases": [{"parts": [{"text": "flieg"}]}]},
}
LEX_FOLDER = "Bot/BotLocales/en_US/"
LEX_BOT = {
    "manifest.json": {"metadata": {}},
    LEX_FOLDER + "Intents/Fly/Intent.json": {
        "name": "fly away",
        "sampleUtterances": [{"utterance": "fly 😀 to {city}"}],
    },
    LEX_FOLDER + "Intents/Fly/Slots/city/Slot.json": {"name": "city", "slotTypeName": "places"},
    LEX_FOLDER + "SlotTypes/places/SlotType.json": {
        "name": "places",
        "slotTypeValues": [{"sampleValue": {"value": "oslo"}, "synonyms": []}],
    },
    "Bot/BotLocales/de_DE/Intents/Fly/Intent.json": {
        "name": "fly away",
        "sampleUtterances": [{"utterance": "flieg"}],
    },
}
WIT_APP = {
    "flights/app.json": {"name": "flights"},
    "flights/utterances/utterances-1.json": {
        "utterances": [
            {"text": TEXT, "intent": "fly away", "entities": [WIT_ENTITY | {"entity": "city:city", "role": ""}]},
            {"text": "flieg", "intent": "fly away", "entities": [], "traits": []},
        ]
    },
}
PROJECTS = {"dialogflow_es": ES_AGENT, "dialogflow_cx": CX_AGENT, "lex": LEX_BOT, "wit": WIT_APP}


def put_project(folder, files, *, as_zip):
    path = folder / ("export.zip" if as_zip else "export")
    folder.mkdir(parents=True, exist_ok=True)
    if as_zip:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, json.dumps(content))
        return path
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("as_zip", [False, True], ids=["directory", "zip"])
@pytest.mark.parametrize("name", PROJECTS)
def test_projects_are_read_as_directory_and_as_zip(name, as_zip, tmp_path, parse):
    path = put_project(tmp_path, PROJECTS[name], as_zip=as_zip)
    assert detect_format(path).format == name
    examples, _ = parse(name, path)
    found = {example.text: example.fields for example in examples}
    assert found == {
        TEXT: {"intent": "fly away", "slots": (OSLO,)},
        "flieg": {"intent": "fly away", "slots": ()},
    }
    result = CliRunner().invoke(app, ["init", str(path)])
    assert result.exit_code == 0, result.output
    assert f'format = "{name}"' in result.output


@pytest.mark.parametrize("name", PROJECTS)
def test_files_of_projects_with_wrong_types_are_one_message(name, tmp_path, parse):
    for file in PROJECTS[name]:
        if file.endswith(("agent.json", "app.json", "manifest.json")):
            continue
        for number, content in enumerate([5, None, "a", [5], {"name": 5, "displayName": 5, "utterances": 5}]):
            path = put_project(tmp_path / str(number), PROJECTS[name] | {file: content}, as_zip=True)
            with pytest.raises(DataError, match=re.escape(f"{path}/{file}")):
                parse(name, path)
            path.unlink()


@pytest.mark.parametrize("name", PROJECTS)
def test_zip_files_that_cannot_be_read_are_one_message(name, tmp_path, parse):
    whole = put_project(tmp_path, PROJECTS[name], as_zip=True).read_bytes()
    path = tmp_path / "b.zip"
    damaged = [b"", b"PK", whole[:40], whole[: len(whole) // 2], whole[20:]]
    for position in range(0, len(whole), 41):
        damaged.append(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
    for content in damaged:
        path.write_bytes(content)
        for read in (lambda: parse(name, path), lambda: detect_format(path)):
            try:
                message = f"{path}: {read()}"
            except DataError as error:
                message = str(error)
            assert str(path) in message


def test_a_zip_file_that_swells_is_refused(tmp_path, parse):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("intents/a_usersays_en.json", b" " * (130 << 20))
    with pytest.raises(DataError, match=r"bomb\.zip/intents/a_usersays_en\.json: .* at most 128 MiB"):
        parse("dialogflow_es", path)


def test_intents_may_be_called_as_directories_of_programs(tmp_path, parse):
    files = {}
    for name in ("build", "models", "env", ".hidden", "node_modules"):
        files[f"intents/{name}/{name}.json"] = {"displayName": name}
        files[f"intents/{name}/trainingPhrases/en.json"] = {"trainingPhrases": [CX_PHRASE]}
    for as_zip in (False, True):
        examples, _ = parse("dialogflow_cx", put_project(tmp_path, files, as_zip=as_zip))
        assert [e.fields["intent"] for e in examples] == ["build", "env", "models"]


def test_a_zip_file_is_opened_once_for_all_its_files(tmp_path, parse, monkeypatch):
    """Its directory is read each time it is opened: with thousands of intents that took minutes."""
    opened = []
    plain_open = zipfile.ZipFile.__init__
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *a, **k: opened.append(a) or plain_open(*a, **k))
    path = put_project(tmp_path, ES_AGENT, as_zip=True)
    opened.clear()
    assert len(parse("dialogflow_es", path)[0]) == 2
    assert len(opened) == 1


def test_zip_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(DataError, match="a zip file of no known product"):
        detect_format(put_project(tmp_path, {"a.json": {}}, as_zip=True))


def test_directories_of_splits_stay_splits(tmp_path):
    """Two agents side by side are no project: the test split is not trained on."""
    for split in ("train", "test"):
        put_project(tmp_path / split, ES_AGENT, as_zip=False).rename(tmp_path / split / "agent")
    with pytest.raises(DataError, match="no known format"):
        detect_format(tmp_path)


def test_blanks_at_the_seams_are_no_part_of_a_slot(file, parse):
    parts = [{"text": "to"}, {"text": " oslo ", "alias": "city"}, {"text": "now"}, {"text": " ", "alias": "x"}]
    path = file("fly_usersays_en.json", json.dumps([{"data": parts, "isTemplate": False}]))
    [example], defects = parse("dialogflow_es", path)
    assert (example.text, example.fields["slots"]) == ("to oslo now ", (LabelledSpan(3, 7, "city"),))
    assert defects == {
        "slot that begins or ends with a blank (its span is without)": 1,
        "slot without a value (passed over)": 1,
    }


def test_dialogflow_templates_are_written_out(tmp_path, parse):
    phrase = {"data": [{"text": "@city:from to @city:to"}], "isTemplate": True}
    files = {
        "entities/city_entries_en.json": [{"value": "Oslo", "synonyms": ["Oslo"]}, {"value": "Rome", "synonyms": []}],
        "intents/fly_usersays_en.json": [phrase],
    }
    examples, defects = parse("dialogflow_es", put_project(tmp_path, files, as_zip=True))
    assert [e.text for e in examples] == ["Oslo to Rome", "Rome to Oslo"]
    assert examples[1].fields["slots"] == (LabelledSpan(0, 4, "from"), LabelledSpan(8, 12, "to"))
    assert list(defects) == ["template (written out with values of its slots, at most 25 rows)"]


def test_templates_are_bounded_and_the_same_at_each_reading(file, parse):
    values = [{"name": {"value": f"city {n}", "synonyms": []}} for n in range(60)]
    intent = ALEXA_INTENT | {"samples": ["to {city}", "from {city}", "{city} to {city}", "home {", "{} home"]}
    model = {"intents": [intent], "types": [{"name": "places", "values": values}]}
    path = file("a.json", json.dumps({"languageModel": model}))
    examples, defects = parse("alexa", path)
    assert examples == parse("alexa", path)[0]
    texts = [example.text for example in examples]
    assert len(texts) == 25 * 3 + 2
    assert texts[:2] == ["to city 0", "to city 1"]
    assert texts[25:27] == ["from city 25", "from city 26"]
    assert texts[50:52] == ["city 50 to city 51", "city 51 to city 52"]
    assert len(set(texts)) == len(texts)
    for example in examples:
        for span in example.fields["slots"]:
            assert example.text[span.start : span.end].startswith("city ")
    assert defects == {
        "template (written out with values of its slots, at most 25 rows)": 3,
        "brace that encloses no slot (kept as text)": 2,
    }


def test_snips_slot_without_text_is_written_out(file, parse):
    parts = [{"text": "to "}, {"slot_name": "city", "entity": "places", "text": ""}]
    document = replaced(SNIPS, ("intents", "fly", "utterances", 0, "data"), parts)
    document["entities"]["places"]["data"][0]["synonyms"] = ["Oslo town"]
    examples, _ = parse("snips", file("a.json", json.dumps(document)))
    assert [e.text for e in examples] == ["to oslo", "to Oslo town"]
    assert examples[1].fields["slots"] == (LabelledSpan(3, 12, "city"),)


@pytest.mark.parametrize(
    ("start", "end", "kind"),
    [
        (10, 14, "offsets that fit their value in UTF-16 units only (read so)"),
        (12, 16, "offsets that fit their value in bytes of UTF-8 only (read so)"),
        (0, 4, "value that is not at its offsets (moved to where it stands)"),
        (-3, 400, "value that is not at its offsets (moved to where it stands)"),
    ],
)
def test_wit_body_tells_the_unit_of_offsets(start, end, kind, file, parse):
    entity = WIT_ENTITY | {"start": start, "end": end}
    document = replaced(WIT, ("utterances", 0, "entities", 0), entity)
    [example], defects = parse("wit", file("a.json", json.dumps(document)))
    assert example.fields["slots"] == (LabelledSpan(9, 13, "city", "to"),)
    assert defects == {kind: 1}
    document = replaced(WIT, ("utterances", 0, "entities", 0), entity | {"body": "rome"})
    with pytest.raises(DataError, match="'rome' does not stand in the text"):
        parse("wit", file("a.json", json.dumps(document)))


def test_wit_intent_may_be_an_object(file, parse):
    [example], _ = parse("wit", file("a.json", json.dumps(replaced(WIT, ("utterances", 0, "intent"), {"name": "fly"}))))
    assert example.fields["intent"] == "fly"
    assert example.fields["mood"] == "good"


DOCCANO = {"text": TEXT, "entities": [{"start_offset": 9, "end_offset": 13, "label": "city"}], "cats": ["fly"]}
DOCCANO_LISTS = {"text": TEXT, "label": [[9, 13, "city"]]}
PRODIGY_SPAN = {"start": 9, "end": 13, "label": "city"}
PRODIGY_TOKEN = {"start": 9, "end": 13, "text": "oslo"}
PRODIGY = {"text": TEXT, "spans": [PRODIGY_SPAN], "tokens": [PRODIGY_TOKEN], "label": "fly", "answer": "accept"}
LINES = [
    ("doccano", DOCCANO),
    ("doccano", DOCCANO_LISTS),
    ("prodigy", PRODIGY),
    ("prodigy", {"text": "a", "accept": ["b"], "answer": "accept"}),
]


@pytest.mark.parametrize(("name", "row"), LINES)
def test_a_line_with_a_wrong_type_is_one_message_with_its_place(name, row, file, parse):
    path = file("a.jsonl", json.dumps(row))
    assert detect_format(path).format == name
    assert len(parse(name, path)[0]) == 1
    for place, item in places(row):
        if place[-1] == "text" and len(place) > 1:
            continue  # the text of a token is that of its range
        for value in WRONG[type(item)]:
            if (place[-1] == "cats" and value == "a") or (
                place[0] == "accept" and value in (5, [5]) and value is not True
            ):
                continue  # one class, and a whole number as the name of a class
            content = json.dumps(row) + "\n" + json.dumps(replaced(row, place, value))
            with pytest.raises(DataError, match=r"a\.jsonl:2") as refused:
                print(place, value, parse(name, file("a.jsonl", content)))
            assert place[0] in str(refused.value)


def test_label_studio_task_without_regions_has_no_spans(file, parse):
    empty = {"data": {"text": "hi"}, "annotations": [{"result": []}]}
    tasks = [*STUDIO, empty, {"data": {"text": "ho"}}]
    examples, defects = parse("label_studio", file("a.json", json.dumps(tasks)))
    assert [e.fields for e in examples] == [{"slots": (OSLO,), "intent": "fly"}, {"slots": ()}, {}]
    assert defects == {"task without an annotation (read as unlabelled)": 1}


@pytest.mark.parametrize("to", ["label_studio", "doccano", "prodigy"])
def test_annotation_tools_get_the_same_rows_back(to, file, parse, tmp_path):
    rows = [
        {"text": TEXT, "intent": "fly", "slots": [{"start": 9, "end": 13, "label": "city"}]},
        {"text": "hi", "intent": ["greet", "talk"], "slots": []},
    ]
    source = file("a.jsonl", "\n".join(map(json.dumps, rows)))
    target = tmp_path / f"out.{'json' if to == 'label_studio' else 'jsonl'}"
    result = CliRunner().invoke(app, ["convert", str(source), str(target), "--to", to])
    assert result.exit_code == 0, result.output
    assert detect_format(target).format == to
    intent = "label" if to == "prodigy" else "intent"
    examples, _ = parse(to, target)
    expected = [{intent: "fly", "slots": (OSLO,)}, {intent: ("greet", "talk"), "slots": ()}]
    assert [(e.text, dict(e.fields)) for e in examples] == [(TEXT, expected[0]), ("hi", expected[1])]


SPACY_ROWS = [
    {"text": "  fly 😀\tto oslo, now ", "label": "fly", "slots": [{"start": 11, "end": 15, "label": "city"}]},
    {"text": "hi", "label": ["greet", "talk"], "slots": []},
]


def test_spacy_that_is_not_installed_is_told(file, parse, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(DataError, match=r"a\.spacy: format 'spacy' needs the package spacy; to install it, run"):
        parse("spacy", file("a.spacy", b"x"))


def test_spacy_documents_hold_the_same_rows(file, parse, tmp_path):
    pytest.importorskip("spacy")
    source = file("a.jsonl", "\n".join(map(json.dumps, SPACY_ROWS)))
    target = tmp_path / "out.spacy"
    result = CliRunner().invoke(app, ["convert", str(source), str(target)])
    assert result.exit_code == 0, result.output
    assert detect_format(target).format == "spacy"
    examples, defects = parse("spacy", target)
    originals, _ = parse("jsonl", source)
    assert [(e.text, e.fields) for e in examples] == [(e.text, e.fields) for e in originals]
    assert defects == {}
    for content in (b"", b"x", target.read_bytes()[:50], zlib.compress(b"x"), zlib.compress(b"\x80")):
        with pytest.raises(DataError, match=r"b\.spacy: not documents of spaCy"):
            parse("spacy", file("b.spacy", content))
