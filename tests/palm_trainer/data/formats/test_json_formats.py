"""Formats json, clinc, squad and text."""

import json
import time
from dataclasses import replace

import pytest

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.columns import NO_CLASS
from palm_trainer.data.formats.detect import detect_format
from palm_trainer.data.formats.squad import ABSENT, MOVED, NO_START, NO_TEXT, SAME_ANSWER, UNANSWERED
from palm_trainer.data.formats.text_files import FormatOptions
from palm_trainer.errors import DataError


def test_json_list_reads_rows(file, parse):
    rows = [{"id": 1, "text_a": "x", "text_b": "y", "text_c": "", "label": 1}]
    path = file("a.json", json.dumps(rows))
    (example,), defects = parse("json", path)
    assert (example.text, example.pair, example.fields) == ("x", "y", {"label": "1"})
    assert defects == {NO_CLASS: 1, "'id' (passed over)": 1}
    unread = "'id', which `columns` does not name (passed over)"
    assert parse("json", path, columns=("text_a", "text_b", "label"))[1] == {unread: 1}


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("{}", {}, "a JSON dict, not an array of objects"),
        ("[1]", {}, "element 1: 1 is not an object"),
        ('[{"text": "a"}]', {"columns": ("text", "label")}, "no row has the key 'label'; change `columns`"),
        ('[{"label": "a"}]', {}, "element 1: no text among the columns label"),
        ('[{"text": ""}]', {}, "element 1: \"text\" is ''"),
        ("[\n1,]", {}, r"a\.json:2:\d: not JSON"),
    ],
)
def test_json_list_invalid_rows_are_refused(file, parse, content, options, message):
    with pytest.raises(DataError, match=message):
        parse("json", file("a.json", content), **options)


def test_clinc_path_names_the_split(file, parse):
    path = file("d.json", json.dumps({"train": [["a", "x"]], "oos_train": [["b", "oos"]]}))
    (example,), _ = parse("clinc", path.with_name("d.json#oos_train"))
    assert (example.text, example.fields) == ("b", {"intent": "oos"})
    for name in ("d.json", "d.json#dev"):
        with pytest.raises(DataError, match=r"the file holds: train, oos_train\); write the path as d\.json#SPLIT"):
            parse("clinc", path.with_name(name))
    with pytest.raises(DataError, match=r"row 1: \['a'\] is not \[text, intent\]"):
        parse("clinc", file("e.json", '{"train": [["a"]]}').with_name("e.json#train"))


TITLE = "'title' of SQuAD's article (passed over)"


def squad(*questions, context="one two one"):
    qas = [{"id": str(i), "question": "what?", **question} for i, question in enumerate(questions)]
    return json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]})


def test_squad_answers_are_spans_of_the_pair(file, parse):
    one, two = {"text": "one", "answer_start": 0}, {"text": "two", "answer_start": 4}
    path = file(
        "a.json",
        squad({"answers": [two, one, one]}, {"answers": [], "is_impossible": True}, {}, {"answers": []}),
    )
    examples, defects = parse("squad", path)
    assert examples[0].text == "what?"
    assert examples[0].pair == "one two one"
    assert [e.fields for e in examples] == [
        {"answer": (LabelledSpan(0, 3, ""), LabelledSpan(4, 7, ""))},
        {"answer": ()},
        {},
        {"answer": ()},
    ]
    assert examples[1].source == f"{path}#1"
    assert defects == {SAME_ANSWER: 1, TITLE: 1}


def test_squad_wrong_offsets_are_corrected(file, parse):
    def answers(*pairs):
        return {"answers": [{"text": text, "answer_start": start} for text, start in pairs]}

    path = file(
        "a.json", squad(answers(("one", 7)), answers(("one", -1)), answers(("six", 0), ("two", 4)), answers(("", 2)))
    )
    examples, defects = parse("squad", path)
    assert [e.fields.get("answer") for e in examples] == [
        (LabelledSpan(8, 11, ""),),
        (LabelledSpan(0, 3, ""),),
        (LabelledSpan(4, 7, ""),),
        None,
    ]
    assert defects == {MOVED: 2, ABSENT: 2, NO_START: 1, UNANSWERED: 1, TITLE: 1}


def test_squad_without_text_or_structure_is_refused(file, parse):
    assert parse("squad", file("a.json", squad({"question": " "}))) == ([], {NO_TEXT: 1, TITLE: 1})
    with pytest.raises(DataError, match='no "data" array'):
        parse("squad", file("b.json", "[]"))
    with pytest.raises(DataError, match=r'c\.json: data 1: "paragraphs" must be a list, got none'):
        parse("squad", file("c.json", '{"data": [{}]}'))


def test_text_reads_one_example_a_line(file, parse):
    path = file("a.txt", "one\n\n  \ntwo words\n")
    examples, _ = parse("text", path)
    assert [(e.text, e.source) for e in examples] == [("one", f"{path}:1"), ("two words", f"{path}:4")]


def test_json_array_holds_lists_as_jsonl_does(file, parse):
    rows = [
        {"text": "a new pin please", "intents": ["pin", "new"], "slots": [{"start": 2, "end": 5, "label": "age"}]},
        {"text": "b", "words": [[0, 1]], "intents": [], "topic": "x"},
        {"text": "who", "text_pair": "a b", "answer": [{"start": 0, "end": 3}, {"start": 2, "end": 3}]},
    ]
    lines = file("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    array = file("a.json", json.dumps(rows))
    found = detect_format(array)
    assert (found.format, found.options) == ("json", FormatOptions())
    (examples, defects), (expected, _) = parse("json", array), parse("jsonl", lines)
    assert [replace(e, source="") for e in examples] == [replace(e, source="") for e in expected]
    assert defects == {}
    with pytest.raises(DataError, match=r'element 1: "x" is .* it must be "class"'):
        parse("json", file("b.json", '[{"text": "a", "x": {"b": 1}}]'))


def test_json_keys_of_later_rows_are_detected(file, parse):
    path = file("a.json", '[{"text": "a"}, {"text": "b", "intent": "x"}]')
    examples, _ = parse("json", path, columns=detect_format(path).options.columns)
    assert examples[1].fields == {"intent": "x"}
    assert detect_format(file("b.json", '[{"text": "a"}, 3]')).format == "json"


def test_squad_repeated_wrong_answers_are_located_in_linear_time(file, parse):
    answers = [{"text": "a", "answer_start": 300_000}] * 12_000
    path = file("a.json", squad({"answers": answers}, context="a" * 300_000 + "b" * 100_000))
    start = time.process_time()
    [example], _ = parse("squad", path)
    assert time.process_time() - start < 2
    assert example.fields["answer"] == (LabelledSpan(299_999, 300_000, ""),)
