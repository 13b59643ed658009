import os
from pathlib import Path

import pytest

from palm_trainer.config.loader import load_config
from palm_trainer.data.example import LabelledSpan
from palm_trainer.health.contexts import NO_SPAN, find_contexts
from palm_trainer.health.findings import OTHER_LABEL, UNMARKED
from palm_trainer.health.rows import read_rows

ROOT = Path(__file__).parents[3]


def lines(findings):
    return [(f.signal, f.row.example.source.rpartition(":")[2], f.start, f.end, f.to) for f in findings]


def test_missing_span_is_suggested(slots):
    rows = slots(train=["book a [table](what) in rome", "so book a [table](what) in oslo", "book a table in bonn"])
    found, kinds = find_contexts(rows)
    assert lines(found) == [(UNMARKED, "3", 7, 12, (LabelledSpan(7, 12, "what"),))]
    [kind] = kinds
    assert (kind.before, kind.string, kind.after) == ("book a", "table", "in")
    assert kind.counts == {"what": 2, NO_SPAN: 1}
    assert found[0].why == "'table' after 'book a' before 'in' is what in 2 rows, and no span in 1."


def test_rare_span_is_suggested_to_go(slots):
    rows = slots(train=["[show](what) the film", "show the play", "show the song"])
    found, _ = find_contexts(rows)
    assert lines(found) == [(UNMARKED, "1", 0, 4, ())]
    assert found[0].why.startswith("'show' at the beginning before 'the' is no span in 2 rows")
    assert round(found[0].score, 2) == 0.67


def test_rarer_of_two_labels_is_found(slots):
    rows = slots(
        train=["fly in the [morning](depart)", "fly in the [morning](depart)", "land in the [morning](arrive)"]
    )
    found, _ = find_contexts(rows)
    assert lines(found) == [(OTHER_LABEL, "3", 12, 19, (LabelledSpan(12, 19, "depart"),))]


def test_other_words_around_are_another_context(slots):
    found, kinds = find_contexts(
        slots(train=["book a [table](what) in rome", "under the table in bonn", "a table for two"])
    )
    assert (found, kinds) == ([], [])


def test_part_of_another_span_is_not_compared(slots):
    found, _ = find_contexts(
        slots(train=["play [jazz](genre) now", "play [jazz now](song)", "play [all jazz](song) now"])
    )
    assert found == []


def test_chinese_words_are_characters(slots):
    found, _ = find_contexts(slots(train=["明天[北京](city)天气", "明天北京天气"]))
    assert lines(found) == [(UNMARKED, "2", 2, 4, (LabelledSpan(2, 4, "city"),))]


def test_labels_of_test_are_not_read(slots):
    rows = slots(train=["book a [table](what) in rome"], test=["book a table in rome"])
    assert find_contexts(rows) == ([], [])


@pytest.mark.skipif("PALM_DATA" not in os.environ, reason="PALM_DATA names no folder of public data sets")
@pytest.mark.parametrize(
    ("name", "kinds", "unmarked", "two_labels", "first"),
    [("snips", 26, 179, 3, "show"), ("atis", 7, 14, 62, "am")],
)
def test_kinds_of_public_sets(name, kinds, unmarked, two_labels, first):
    """The figures of docs/how-to/train/find_label_errors.md."""
    for rows in read_rows(load_config(ROOT / "examples" / f"{name}.toml")):
        if rows.kind == "spans":
            _, found = find_contexts(rows)
    with_none = [kind for kind in found if NO_SPAN in kind.counts]
    assert len(with_none) == kinds
    assert sum(kind.counts[NO_SPAN] for kind in with_none) == unmarked
    assert sum(len(set(kind.counts) - {NO_SPAN}) > 1 for kind in found) == two_labels
    assert max(with_none, key=lambda kind: kind.counts[NO_SPAN]).string == first


def test_strings_are_compared_in_what_was_said_before(write_rows):
    from palm_trainer.health.rows import read_rows

    rows = []
    for question, label in (("where to?", "to"), ("where to?", "to"), ("where from?", "from")):
        rows.append({"text": "oslo", "context": [question], "slots": [{"start": 0, "end": 4, "label": label}]})
    [task_rows] = read_rows(write_rows("sequence_label", "slots", train=rows))
    assert find_contexts(task_rows) == ([], [])
    rows[2]["context"] = ["where to?"]
    [task_rows] = read_rows(write_rows("sequence_label", "slots", train=rows))
    findings, _ = find_contexts(task_rows)
    assert [finding.row.example.source.rpartition(":")[2] for finding in findings] == ["3"]
