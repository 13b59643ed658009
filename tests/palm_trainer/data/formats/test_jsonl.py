import json

import pytest

from palm_trainer.data.example import LabelledSpan
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
        ('{"intent": "a"}', '"text" is None; it must be a string'),
        ('{"text": " "}', "\"text\" is ' '"),
        ('{"text": "a", "text_pair": 3}', '"text_pair" is 3'),
        ('{"text": "a", "x": 3}', '"x" is 3; it must be "class"'),
        ('{"text": "a", "x": ""}', "\"x\" is ''; it must be"),
        ('{"text": "a", "x": ["b", 1]}', '"x" is .* it must be'),
        (
            '{"text": "ab", "x": [{"start": 0, "end": 3, "label": "l"}]}',
            "span 0-3 is not a range in a text of 2 code points",
        ),
        ('{"text": "ab", "x": [{"start": 1, "end": 1, "label": "l"}]}', "span 1-1 is not a range"),
        ('{"text": "ab", "x": [{"start": true, "end": 2, "label": "l"}]}', "span True-2 is not a range"),
        ('{"text": "ab", "x": [{"start": 0, "end": 2, "name": "l"}]}', "its keys are start, end"),
        ('{"text": "ab", "x": [{"start": 0, "end": 2}]}', "span 0-2 has no label; only those of the field 'answer'"),
        (
            '{"text": "abc", "x": [{"start": 0, "end": 2, "label": "l"}, {"start": 1, "end": 3, "label": "m"}]}',
            "spans 0-2 and 1-3 overlap; keep one of them",
        ),
        ('{"text": "ab", "words": [[0, 3]]}', '"words" are not ranges in order within 2 code points'),
        ('{"text": "ab", "words": [[1, 2], [0, 1]]}', '"words" are not ranges in order'),
        ('{"text": "ab", "words": 3}', '"words" is 3; it must be a list of'),
        ('{"text": "ab", "words": [["a", "b"]]}', '"words" is .* it must be a list of'),
    ],
)
def test_jsonl_invalid_lines_are_refused(file, parse, line, message):
    with pytest.raises(DataError, match=message):
        parse("jsonl", file("a.jsonl", line + "\n"))
