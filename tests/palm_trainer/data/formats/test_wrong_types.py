"""A value of the wrong type in a field of JSON is one message with its place and field, and is never changed."""

import json

import pytest

from palm_trainer.errors import DataError

NUMBERS = ("true", "false", "1e999", "-1e999")
OBJECTS = ("{}", '{"a": 1}', "[[]]", "[{}]", "[null]")
SCALARS = ("5", "1.5", *NUMBERS)


def cases(template, values):
    """Return the template with each value in place of VALUE."""
    return [template.replace("VALUE", value) for value in values]


ROW = [
    ("text", cases('{"text": VALUE, "intent": "a"}', (*NUMBERS, *OBJECTS, "1.5", "NaN", "null"))),
    ("text_pair", cases('{"text": "a", "text_pair": VALUE}', (*NUMBERS, *OBJECTS, "1.5", "NaN"))),
    ("context", cases('{"text": "a", "context": VALUE}', ("[1, 2]", "[null]", '["a", {"role": "user"}]', "[[]]"))),
    ("requested_slots", cases('{"text": "a", "requested_slots": VALUE}', ("[1]", '[{"name": "city"}]'))),
    ("intent", cases('{"text": "a", "intent": VALUE}', (*NUMBERS, *OBJECTS, "[true]", "[1e999]"))),
    ("slots", cases('{"text": "a", "slots": VALUE}', (*SCALARS, *OBJECTS, "[5]", "[true]", "[1e999]", '"a"', '["a"]'))),
    ("tags", cases('{"text": "a b", "tags": VALUE}', ('"O B-x"', '["O", "B-x"]', '["B-x", "O"]', '["O", "S-x"]'))),
    ("tags", cases('{"tokens": ["a", "b"], "tags": VALUE}', ('"O B-x"', '["O"]', '["B-x"]', '["O", "B-x", "I-x"]'))),
    ("tags", cases('{"tokens": ["a"], "tags": VALUE}', (*SCALARS, "{}", '{"a": 1}'))),
    ("tokens", cases('{"tokens": VALUE, "tags": ["O"]}', (*SCALARS, *OBJECTS, "null", '"a"'))),
    ("words", cases('{"text": "ab", "words": VALUE}', (*SCALARS, *OBJECTS, '"a"', "[[0, true]]", "[[0, 1.0]]"))),
    ("answer", cases('{"text": "a", "text_pair": "b", "answer": VALUE}', (*SCALARS, *OBJECTS, "[5]"))),
]
for key in ("start", "end", "label", "role", "group"):
    span = {"start": 0, "end": 1, "label": "x", "role": "", "group": ""} | {key: "VALUE"}
    line = json.dumps({"text": "ab", "slots": [span]}).replace('"VALUE"', "VALUE")
    ROW.append(("slots", cases(line, (*SCALARS, *OBJECTS, *(["5"] if key != "end" else [])))))
for key in ("text", "answer_start"):
    line = json.dumps({"text": "a", "text_pair": "b", "answers": {"text": ["b"], "answer_start": [0]} | {key: "VALUE"}})
    values = (*SCALARS, "{}", '{"a": 1}', "[true]", "[1.5]", "[null]", "[1e999]", '" "', "[]")
    ROW.append(("answers", cases(line.replace('"VALUE"', "VALUE"), values)))
ROWS = [(field, line) for field, lines in ROW for line in lines]


@pytest.mark.parametrize(("field", "line"), ROWS)
@pytest.mark.parametrize("name", ["jsonl", "json"])
def test_rows_with_a_wrong_type_are_refused(file, parse, name, field, line):
    content = f'{{"text": "first"}}\n{line}\n' if name == "jsonl" else f'[{{"text": "first"}}, {line}]'
    place = ":2:" if name == "jsonl" else ": element 2:"
    with pytest.raises(DataError, match=rf"f{place}.*['\"]{field}['\"]"):
        parse(name, file("f", content))


def test_whole_numbers_are_texts_and_classes(file, parse):
    examples, defects = parse("jsonl", file("f", '{"text": 911, "intent": 5, "topics": [1, "b"], "note": NaN}\n'))
    assert [(e.text, e.fields) for e in examples] == [("911", {"intent": "5", "topics": ("1", "b")})]
    assert defects == {"empty class (read as unlabelled)": 1}


@pytest.mark.parametrize("value", ['"sports"', '["sports", "news"]', '["B-12", "B-6"]', '"B-12"', '"O"'])
def test_strings_called_tags_are_classes(file, parse, value):
    examples, _ = parse("jsonl", file("f", f'{{"text": "a", "tags": {value}}}\n'))
    classes = json.loads(value)
    assert examples[0].fields == {"tags": tuple(classes) if isinstance(classes, list) else classes}


SPANS = '{"text": "ab", "kinds": [{"start": 0, "end": 1, "label": "x"}]}'


@pytest.mark.parametrize("value", ['"a"', '["a", "b"]'])
@pytest.mark.parametrize("name", ["jsonl", "json"])
def test_spans_and_classes_in_one_field_are_refused(file, parse, name, value):
    rows = [SPANS, '{"text": "b"}', '{"text": "c", "kinds": []}', f'{{"text": "d", "kinds": {value}}}']
    separator, first, last = ("\n", "f:1", "f:4") if name == "jsonl" else (",", "element 1", "element 4")
    for order in (rows, rows[::-1]):
        content = separator.join(order)
        path = file("f", content if name == "jsonl" else f"[{content}]")
        with pytest.raises(DataError, match=rf"{last}.*'kinds' must hold .*, as in .*{first}.*, got .*Correct one of"):
            parse(name, path)


SQUAD = '{"data": [{"paragraphs": [{"context": "b c", "qas": [{"id": "q", "question": "what", "answers": ANSWERS}]}]}]}'
ANSWERS = '[{"text": "b", "answer_start": 0}]'
KEYS = {
    "data": ('{"data": VALUE}', (*SCALARS, "{}", "null", '"a"', "[5]", "[[]]")),
    "paragraphs": ('{"data": [{"paragraphs": VALUE}]}', (*SCALARS, "{}", "null", '"a"', "[5]", "[null]")),
    "context": (SQUAD.replace('"b c"', "VALUE").replace("ANSWERS", ANSWERS), (*SCALARS, "{}", "[]", "null")),
    "qas": ('{"data": [{"paragraphs": [{"context": "b c", "qas": VALUE}]}]}', (*SCALARS, "{}", "null", '""', "[5]")),
    "id": (SQUAD.replace('"q"', "VALUE").replace("ANSWERS", ANSWERS), (*NUMBERS, "1.5", "{}", "[]", "null")),
    "question": (SQUAD.replace('"what"', "VALUE").replace("ANSWERS", ANSWERS), (*SCALARS, "{}", "[]", "null")),
    "answers": (SQUAD.replace("ANSWERS", "VALUE"), (*SCALARS, "{}", '""', "null", "[5]", "[null]")),
    "text": (SQUAD.replace("ANSWERS", ANSWERS.replace('"b"', "VALUE")), (*SCALARS, "{}", "[]", "null")),
    "answer_start": (SQUAD.replace("ANSWERS", ANSWERS.replace("0", "VALUE")), (*NUMBERS, "1.5", "{}", '"0"', "null")),
    "is_impossible": (
        SQUAD.replace("ANSWERS", f'{ANSWERS}, "is_impossible": VALUE'),
        ("5", "1e999", "{}", "[]", '"false"'),
    ),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, (_, values) in KEYS.items() for value in values])
def test_squad_with_a_wrong_type_is_refused(file, parse, key, value):
    with pytest.raises(DataError, match=rf'/f.*"?{key}"?'):
        parse("squad", file("f", KEYS[key][0].replace("VALUE", value)))


COLUMNS = [
    *cases("a b\twhat\tVALUE\t[0]", (*SCALARS, "null", "{}", "[5]")),
    *cases("a b\twhat\t[VALUE]\t[0]", (*SCALARS, "null", "{}", "[5]")),
    *cases('a b\twhat\t["b"]\tVALUE', (*SCALARS, "null", "{}")),
    *cases('a b\twhat\t["b"]\t[VALUE]', ("1.5", *NUMBERS, "null", "{}", "[5]", '"0"')),
]


@pytest.mark.parametrize("line", COLUMNS)
def test_squad_rows_with_a_wrong_type_are_refused(file, parse, line):
    with pytest.raises(DataError, match=r"f\.tsv:1:"):
        parse("squad", file("f.tsv", line + "\n"))


RASA = '{"rasa_nlu_data": {"common_examples": [{"text": "ab", "intent": "i", "entities": [ENTITY]}]}}'
ENTITY = '{"start": 0, "end": 1, "entity": "x", "role": "r", "group": "g"}'
RASA_KEYS = {
    "common_examples": ('{"rasa_nlu_data": {"common_examples": VALUE}}', (*SCALARS, "{}", '""')),
    "text": (RASA.replace('"ab"', "VALUE").replace("ENTITY", ENTITY), (*SCALARS, "{}", "[]", "null")),
    "intent": (RASA.replace('"i"', "VALUE").replace("ENTITY", ENTITY), (*SCALARS, "{}", "[]")),
    "entities": (RASA.replace("[ENTITY]", "VALUE"), (*SCALARS, "{}", '""', "[5]", "[null]")),
    "start": (RASA.replace("ENTITY", ENTITY.replace("0", "VALUE")), (*NUMBERS, "1.5", "{}", '"0"', "null")),
    "end": (RASA.replace("ENTITY", ENTITY.replace("1", "VALUE")), (*NUMBERS, "1.5", "{}", '"1"', "null")),
    "entity": (RASA.replace("ENTITY", ENTITY.replace('"x"', "VALUE")), (*NUMBERS, "1.5", "{}", "[]", "null")),
    "role": (RASA.replace("ENTITY", ENTITY.replace('"r"', "VALUE")), (*NUMBERS, "1.5", "NaN", "{}", "[]")),
    "group": (RASA.replace("ENTITY", ENTITY.replace('"g"', "VALUE")), (*NUMBERS, "1.5", "NaN", "{}", "[]")),
}


@pytest.mark.parametrize(("key", "value"), [(k, value) for k, (_, values) in RASA_KEYS.items() for value in values])
def test_rasa_json_with_a_wrong_type_is_refused(file, parse, key, value):
    with pytest.raises(DataError, match=r"f\.json: (common_examples|no object)"):
        parse("rasa", file("f.json", RASA_KEYS[key][0].replace("VALUE", value)))


@pytest.mark.parametrize("value", [*NUMBERS, "1.5", "NaN", "[1]"])
@pytest.mark.parametrize("key", ["entity", "role", "group"])
def test_rasa_annotation_with_a_wrong_type_is_refused(file, parse, key, value):
    keys = {"entity": '"x"', "role": '"r"', "group": '"g"'} | {key: value}
    annotation = "[a]{" + ", ".join(f'"{name}": {content}' for name, content in keys.items()) + "}"
    with pytest.raises(DataError, match=r"f\.yml:4: "):
        parse("rasa", file("f.yml", f"nlu:\n- intent: i\n  examples: |\n    - {annotation}\n"))


VALUES = (*SCALARS, "{}", "[5]", "[null]", "null")
SPLITS = [
    *cases('{"train": VALUE}', (*VALUES, '"a"')),
    *cases('{"train": [VALUE]}', (*VALUES, '"a"')),
    *cases('{"train": [[VALUE, "i"]]}', VALUES),
    *cases('{"train": [["a", VALUE]]}', VALUES),
]


@pytest.mark.parametrize("document", SPLITS)
def test_clinc_with_a_wrong_type_is_refused(file, parse, document):
    path = file("f", document)
    with pytest.raises(DataError, match=r"f#train"):
        parse("clinc", path.with_name("f#train"))
