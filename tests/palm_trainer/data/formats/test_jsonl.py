import json

import pytest

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.checks import BLANK_EDGE, INVISIBLE
from palm_trainer.data.formats.jsonl import OVERLAPPING
from palm_trainer.data.formats.text_files import Defect, Defects, FormatOptions
from palm_trainer.errors import DataError


def test_jsonl_reads_every_kind_of_field(file, parse):
    row = {
        "text": "to 北京 or Bonn",
        "text_pair": "a passage",
        "intent": "fly",
        "topics": ["x", "y"],
        "none": [],
        "unlabelled": None,
        "slots": [
            {"start": 9, "end": 13, "label": "city", "role": "to", "group": "2"},
            {"start": 3, "end": 5, "label": "city"},
        ],
        "answer": [{"start": 2, "end": 9, "label": ""}, {"start": 0, "end": 9}],
        "words": [[0, 2], [3, 5], [6, 8], [9, 13]],
    }
    (example, plain), defects = parse("jsonl", file("a.jsonl", json.dumps(row) + '\n\n{"text": "x"}\n'))
    assert example.text[3:5] == "北京"
    assert example.pair == "a passage"
    assert example.fields == {
        "intent": "fly",
        "topics": ("x", "y"),
        "none": (),
        "slots": (LabelledSpan(3, 5, "city"), LabelledSpan(9, 13, "city", "to", "2")),
        "answer": (LabelledSpan(0, 9, ""), LabelledSpan(2, 9, "")),
    }
    assert example.words == ((0, 2), (3, 5), (6, 8), (9, 13))
    assert (plain.fields, plain.pair, plain.words) == ({}, None, None)
    assert plain.source.endswith("a.jsonl:3")
    assert defects == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', r"a\.jsonl:1:13: not JSON: .*; write one object a line"),
        ('["a"]', "a.jsonl:1: list, not an object"),
        ('{"intent": "a"}', "no text among the columns intent; rename one to `text`"),
        ('{"text": null}', '"text" is None; it must be a string'),
        ('{"text": " "}', "\"text\" is ' '"),
        ('{"text": "a", "text_pair": [3]}', '"text_pair" is \\[3\\]'),
        ('{"text": "a", "x": {}}', '"x" is {}; it must be "class"'),
        ('{"text": "a", "x": ["b", ""]}', '"x" is .* it must be'),
        (
            '{"text": "ab", "x": [{"start": 0, "end": 3, "label": "l"}]}',
            "span 0-3 is not a range in a text of 2 code points",
        ),
        ('{"text": "ab", "x": [{"start": 1, "end": 1, "label": "l"}]}', "span 1-1 is not a range"),
        ('{"text": "ab", "x": [{"start": true, "end": 2, "label": "l"}]}', "span True-2 is not a range"),
        ('{"text": "ab", "x": [{"start": 0, "end": 2, "name": "l"}]}', "its keys are start, end"),
        ('{"text": "ab", "x": [{"start": 0, "end": 2}]}', "span 0-2 has no label; only those of the field 'answer'"),
        ('{"text": "a", "x": "b", "x": "c"}', r"a\.jsonl:1: key 'x' stands twice"),
        ('{"text": "hi \\ud83d there"}', r"a\.jsonl:1: U\+D83D is half of a surrogate pair"),
        ('{"text": "hi", "x": [{"start": 0, "end": 1, "label": "\\ude01"}]}', r"a\.jsonl:1: U\+DE01 is half"),
        ('{"text": "hi", "\\ude01": "x"}', r"a\.jsonl:1: U\+DE01 is half"),
        ("[" * 100_000, r"a\.jsonl:1: JSON nested too deeply"),
        ('{"text": "a", "x": ' + "9" * 5000 + "}", r"a\.jsonl:1: a number has too many digits"),
        ('{"text": "ab", "words": [[Infinity, 2]]}', '"words" is .* it must be a list of'),
        ('{"text": "ab", "words": [[0, 3]]}', '"words" are not ranges in order within 2 code points'),
        ('{"text": "ab", "words": [[1, 2], [0, 1]]}', '"words" are not ranges in order'),
        ('{"text": "ab", "words": 3}', '"words" is 3; it must be a list of'),
        ('{"text": "ab", "words": [["a", "b"]]}', '"words" is .* it must be a list of'),
    ],
)
def test_jsonl_invalid_lines_are_refused(file, parse, line, message):
    with pytest.raises(DataError, match=message):
        parse("jsonl", file("a.jsonl", line + "\n"))


def test_jsonl_overlapping_spans_are_counted_and_one_is_kept(file, parse):
    spans = [
        {"start": 1, "end": 3, "label": "m"},
        {"start": 0, "end": 1, "label": "short"},
        {"start": 0, "end": 2, "label": "l"},
    ]
    rows = [{"text": "a", "y": "b"}, {"text": "abc", "x": spans}, {"text": "abc", "x": spans[:2]}]
    path = file("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    defects = Defects()
    examples = list(FORMATS["jsonl"](path, FormatOptions(), defects))
    assert examples[1].fields["x"] == (LabelledSpan(0, 2, "l"),)
    assert examples[2].fields["x"] == (LabelledSpan(0, 1, "short"), LabelledSpan(1, 3, "m"))
    assert list(defects) == [Defect(OVERLAPPING, 2, f'{path}:2: "x"')]


def test_jsonl_reads_the_keys_of_columns(file, parse):
    path = file("a.jsonl", '{"sentence": "a", "id": 3, "x": "b"}\n{"sentence": "c", "id": 4, "text_b": "d"}\n')
    examples, _ = parse("jsonl", path, columns=("sentence", "x", "text_b"))
    assert [(e.text, e.pair, e.fields) for e in examples] == [("a", None, {"x": "b"}), ("c", "d", {})]
    with pytest.raises(DataError, match=r"a\.jsonl: no row has the key 'y'; change `columns`"):
        parse("jsonl", path, columns=("sentence", "y"))


def test_spans_that_cannot_be_learnt_are_told(file, parse):
    spans = [
        {"start": 1, "end": 4, "label": "b"},
        {"start": 4, "end": 6, "label": "c"},
        {"start": 7, "end": 8, "label": "d"},
    ]
    row = {"text": "a   b c\u200b\u200b", "slots": [*spans[:2], {"start": 7, "end": 9, "label": "d"}]}
    _, defects = parse("jsonl", file("a.jsonl", json.dumps(row) + "\n"))
    assert defects == {INVISIBLE: 2, BLANK_EDGE: 1}
    answer = {"text": "who", "text_pair": "a  b", "answer": [{"start": 0, "end": 2}, {"start": 1, "end": 3}]}
    assert parse("jsonl", file("b.jsonl", json.dumps(answer) + "\n"))[1] == {INVISIBLE: 1, BLANK_EDGE: 1}
