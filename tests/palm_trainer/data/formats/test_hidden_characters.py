"""Characters that nobody sees are removed, told or refused, and never learnt without a word."""

import json

import pytest

from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.checks import BLANK_IN_NAME, CONTROL_IN_NAME, CONTROL_IN_TEXT, NO_VISIBLE_TEXT
from palm_trainer.data.formats.text_files import (
    BYTE_ORDER_MARK,
    CR_ENDS,
    MORE_MARKS,
    Defects,
    FormatOptions,
)
from palm_trainer.errors import DataError

MARK = "\ufeff"
ROWS = (("one way", "a"), ("two ways", "b"))
PARTS = {
    "jsonl": [json.dumps({"text": text, "intent": label}) + "\n" for text, label in ROWS],
    "tsv": ["text\tintent\n", *(f"{text}\t{label}\n" for text, label in ROWS)],
    "csv": ["text,intent\n", *(f"{text},{label}\n" for text, label in ROWS)],
    "text": [f"{text}\n" for text, _ in ROWS],
    "conll": ["one O\nway O\n\n", "two O\nways O\n\n"],
    "rasa": ["## intent:a\n- one way\n", "## intent:b\n- two ways\n"],
    "json": ["[", '{"text": "one way", "intent": "a"},', '{"text": "two ways", "intent": "b"}]'],
}
"""Content of a file in pieces that may have been files of their own."""


def read(path, name):
    """Return the rows of a file, and its defects with the place of the first."""
    defects = Defects()
    examples = list(FORMATS[name](path, FormatOptions(), defects))
    rows = [(example.text, example.fields.get("intent")) for example in examples]
    return rows, {defect.kind: (defect.count, defect.first) for defect in defects}


@pytest.mark.parametrize("name", PARTS)
def test_marks_of_joined_files_are_removed_and_told(file, name):
    first, *rest = PARTS[name]
    wanted, _ = read(file("plain", "".join(PARTS[name])), name)
    path = file("joined", MARK * 2 + first + "\n" * (name == "json") + "".join(MARK + part for part in rest))
    if name == "json":
        path = file("joined", MARK * 2 + first + "\n" + MARK + "\n".join(rest))
    rows, defects = read(path, name)
    assert rows == wanted
    assert len(rows) == 2
    assert defects[BYTE_ORDER_MARK] == (1, f"{path}:1")
    count, place = defects[MORE_MARKS]
    assert count == (2 if name == "json" else 1 + len(rest))
    assert place == f"{path}:1"


@pytest.mark.parametrize("name", PARTS)
def test_lines_that_end_in_cr_alone_are_read_and_told(file, name):
    content = "".join(PARTS[name]) if name != "json" else "\n".join(PARTS[name])
    wanted, _ = read(file("plain", content), name)
    path = file("mac", content.replace("\n", "\r"))
    rows, defects = read(path, name)
    assert rows == wanted
    assert defects[CR_ENDS] == (content.count("\n"), f"{path}:1")


def test_a_mark_at_the_end_of_a_file_is_no_row(file):
    rows, defects = read(file("f.txt", f"one\n{MARK}\n{MARK}"), "text")
    assert rows == [("one", None)]
    assert defects[MORE_MARKS][0] == 2


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("beep \x07 beep", {CONTROL_IN_TEXT}),
        (f"a {MARK}mark", {CONTROL_IN_TEXT}),
        ("caf\ufffd", {CONTROL_IN_TEXT}),
        ("caf\x85", {CONTROL_IN_TEXT}),
        ("a\rb", {CONTROL_IN_TEXT}),
        ("\u200b", {NO_VISIBLE_TEXT}),
        (MARK, {NO_VISIBLE_TEXT, CONTROL_IN_TEXT}),
        ("می\u200cروم", set()),
        ("two\r\nlines\tand a tab", set()),
        ("\U0001fae8", set()),  # newer than the tables of Python 3.11
    ],
)
@pytest.mark.parametrize("side", ["text", "text_pair"])
def test_hidden_characters_of_texts_are_told(file, text, kinds, side):
    row = {"text": "x", "intent": "a", side: text}
    path = file("f.jsonl", json.dumps({"text": "first", "intent": "b"}) + "\n" + json.dumps(row) + "\n")
    _, defects = read(path, "jsonl")
    assert defects == dict.fromkeys(kinds, (1, f"{path}:2"))


LABELS = {
    "class": lambda label: {"text": "x", "intent": label},
    "classes": lambda label: {"text": "x", "topics": ["ok", label]},
    "span": lambda label: {"text": "x", "slots": [{"start": 0, "end": 1, "label": label}]},
    "role": lambda label: {"text": "x", "slots": [{"start": 0, "end": 1, "label": "city", "role": label}]},
    "field": lambda label: {"text": "x", label: "a"},
}


@pytest.mark.parametrize("label", [f"{MARK}city", f"city{MARK}", "ci\x07ty", "ci\u200bty", "\u202ecity"])
@pytest.mark.parametrize("place", LABELS)
def test_hidden_characters_of_labels_are_told(file, place, label):
    path = file("f.jsonl", json.dumps(LABELS[place](label)) + "\n")
    _, defects = read(path, "jsonl")
    assert defects == {CONTROL_IN_NAME: (1, f"{path}:1")}


@pytest.mark.parametrize("label", [" city", "city ", "\tcity"])
@pytest.mark.parametrize("place", ["span", "role", "field"])
def test_blanks_at_the_edges_of_labels_are_told(file, place, label):
    path = file("f.jsonl", json.dumps(LABELS[place](label)) + "\n")
    _, defects = read(path, "jsonl")
    kinds = {CONTROL_IN_NAME if label[0] == "\t" else BLANK_IN_NAME}
    assert defects == dict.fromkeys(kinds, (1, f"{path}:1"))


@pytest.mark.parametrize("label", [" ", MARK, "\u200b", " \t"])
@pytest.mark.parametrize("place", ["span", "role", "field"])
def test_labels_that_nobody_sees_are_refused(file, place, label):
    path = file("f.jsonl", json.dumps(LABELS[place](label)) + "\n")
    with pytest.raises(DataError, match=r"f\.jsonl:1: a label or field name must have a visible character"):
        read(path, "jsonl")


@pytest.mark.parametrize("place", LABELS)
def test_labels_that_no_bundle_holds_are_refused(file, place):
    """A training that lasts for hours would end in a model that cannot be exported."""
    read(file("f.jsonl", json.dumps(LABELS[place]("x" * 10_000)) + "\n"), "jsonl")
    path = file("f.jsonl", json.dumps(LABELS[place]("x" * 10_001)) + "\n")
    with pytest.raises(
        DataError, match=r"f\.jsonl:1: a label or field name must have at most 10,000 characters, as in"
    ):
        read(path, "jsonl")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("rasa", 'nlu:\n- intent: " "\n  examples: |\n    - one\n', "f:4"),
        ("rasa", f'nlu:\n- intent: "{MARK}"\n  examples: |\n    - one\n', "f:4"),
        ("tsv", "text\tintent\none\t\u200b\n", "f:2"),
        ("conll", "one O\ntwo B-\u200b\n", "f:1"),
        ("conll", "one O\ntwo B-\xa0\n", "f:2"),
    ],
)
def test_blank_labels_are_refused_in_other_formats(file, name, content, place):
    with pytest.raises(DataError, match=rf"{place}.*must have a visible character|{place}.*tag"):
        read(file("f", content), name)
