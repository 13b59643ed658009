"""Defects of the splits of a data set taken together."""

from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.statistics import LEAKED, RELABELLED, find_split_defects


def example(text, number, **fields):
    return Example(text, fields, source=f"f:{number}")


def faults(splits, *fields):
    return {
        split: [(d.kind, d.count, d.first) for d in found]
        for split, found in find_split_defects(splits, list(fields)).items()
    }


def test_find_split_defects_lists_unseen_labels():
    train = [example("a", 1, intent="x", slots=(LabelledSpan(0, 1, "city"),)), example("b", 2, intent="y", tags=("p",))]
    dev = [
        example("c", 3, intent="x", slots=(LabelledSpan(0, 1, "day"), LabelledSpan(0, 1, "city"))),
        example("d", 4, intent="z", tags=("p", "q")),
        example("e", 5, intent="w"),
    ]
    assert faults({"train": train, "dev": dev}, "intent", "slots", "tags") == {
        "train": [],
        "dev": [
            ("row with intent that train does not have (w, z)", 2, "f:4"),
            ("row with slots that train does not have (day)", 1, "f:3"),
            ("row with tags that train does not have (q)", 1, "f:4"),
        ],
    }


def test_find_split_defects_counts_many_unseen_labels():
    dev = [example(f"t{i}", i, intent=f"new{i}") for i in range(9)]
    [(kind, count, _)] = faults({"train": [example("a", 1, intent="x")], "dev": dev}, "intent")["dev"]
    assert (count, kind.endswith("(new0, new1, new2, new3, new4, new5 and 3 more)")) == (9, True)


def test_find_split_defects_counts_leaked_texts():
    train = [example("a", 1, intent="x"), example("b", 2, intent="x"), example("c", 3, intent="y")]
    test = [example("a", 4, intent="x"), example("a", 5, intent="x"), example("b", 6, intent="y")]
    assert faults({"train": train, "test": test})["test"] == [(LEAKED, 1, "f:4"), (RELABELLED, 1, "f:6")]


def test_find_split_defects_reports_skewed_class():
    rows = [example(f"t{i}", i, intent="play" if i else "stop", only="one") for i in range(8)]
    kind = "row whose intent is 'play', 88% of all (a constant answer is as accurate)"
    assert faults({"train": rows}, "intent", "only")["train"] == [(kind, 7, "f:1")]
    assert faults({"train": [*rows[:4], example("u", 9, intent="stop")]}, "intent", "only")["train"] == []


def test_find_split_defects_tells_fields_without_a_task():
    rows = [
        example("a", 1, intent="x", domain="d"),
        example("b", 2, intent="y"),
        example("c", 3, domain="d", stars="5"),
    ]
    assert faults({"train": rows}, "intent")["train"] == [
        ("row with the field 'domain', which no task learns", 2, "f:1"),
        ("row with the field 'stars', which no task learns", 1, "f:3"),
    ]


def test_answers_are_learnt_though_they_are_no_labels():
    rows = [example("a", 1, answer="x", domain="d")]
    defects = find_split_defects({"train": rows}, [], ["answer"])["train"]
    assert [defect.kind for defect in defects] == ["row with the field 'domain', which no task learns"]
