"""Reviews applied to data: relabel, drop, merge, and what is refused."""

import json
from dataclasses import replace

import pytest

from palm_trainer.config.schema import data_config
from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.review_file import row_digest, split_source
from palm_trainer.data.splits import Splits
from palm_trainer.errors import DataError

ROWS = (
    {"text": "wake me at six", "intent": "alarm", "slots": [{"start": 11, "end": 14, "label": "time"}]},
    {"text": "play jazz", "intent": "music", "slots": []},
    {"text": "🎷 play 爵士", "intent": "songs", "slots": [{"start": 7, "end": 9, "label": "genre"}]},
)


@pytest.fixture
def data(tmp_path):
    """The data set of ROWS as train and test, and a function that reads it with the lines of a review."""

    class Data:
        file = tmp_path / "bank" / "train.jsonl"
        review = tmp_path / "review.jsonl"

        def write(self, rows=ROWS):
            self.file.parent.mkdir(exist_ok=True)
            self.file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

        def line(self, number, field, decision, **values):
            example = self.read("train")[number - 1]
            line = {"data": "bank", "split": "train", "file": "train.jsonl", "line": number}
            return {**line, "digest": row_digest(example, field), "field": field, "decision": decision, **values}

        def split(self, split, *lines, reviews=1):
            options = {"format": "jsonl", "train": str(self.file), "test": str(self.file)}
            if lines:
                self.review.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
                copies = []
                for number in range(reviews):
                    copy = self.review.with_name(f"review{number}.jsonl")
                    copy.write_bytes(self.review.read_bytes())
                    copies.append(str(copy))
                options["review"] = copies
            return Splits({"bank": data_config(options)}).read("bank", split)

        def read(self, split, *lines):
            return self.split(split, *lines).examples

    made = Data()
    made.write()
    return made


def test_decisions_relabel_drop_and_merge(data):
    merge = {"data": "bank", "field": "intent", "merge": "songs", "to": "music", "decision": "merge"}
    lines = (data.line(1, "intent", "drop"), data.line(2, "intent", "relabel", to="songs"), merge)
    split = data.split("train", *lines)
    assert [(e.text, e.fields["intent"]) for e in split.examples] == [("play jazz", "music"), ("🎷 play 爵士", "music")]
    assert [(defect.kind, defect.count, defect.first) for defect in split.defects] == [
        ("row that the review removed (drop)", 1, f"{data.file}:1"),
        ("row whose intent the review changed (relabel)", 1, f"{data.file}:2"),
        ("row whose intent 'songs' the review made 'music' (merge)", 2, f"{data.file}:2"),
    ]


def test_merge_holds_for_all_splits_and_rows_for_theirs_alone(data):
    merge = {"data": "bank", "field": "slots", "merge": "genre", "to": "style", "decision": "merge"}
    test = data.read("test", data.line(1, "intent", "drop"), merge)
    assert len(test) == 3
    assert test[2].fields["slots"] == (LabelledSpan(7, 9, "style"),)


def test_span_decisions_replace_spans_of_their_range_only(data):
    genre = {"start": 5, "end": 9, "label": "genre"}
    lines = (
        data.line(1, "slots", "relabel", start=5, end=7, to=[{"start": 5, "end": 7, "label": "who"}]),
        data.line(2, "slots", "relabel", start=5, end=9, to=[genre]),
        data.line(3, "slots", "relabel", start=7, end=9, to=[]),
    )
    slots = [example.fields["slots"] for example in data.read("train", *lines)]
    assert slots == [
        (LabelledSpan(5, 7, "who"), LabelledSpan(11, 14, "time")),
        (LabelledSpan(5, 9, "genre"),),
        (),
    ]


def test_open_and_ignored_lines_change_nothing_even_if_their_row_is_gone(data):
    ignored = data.line(1, "intent", "ignore", to="music")
    open_line = data.line(2, "intent", None, to="alarm")
    gone = {**open_line, "file": "gone.jsonl", "line": 99}
    split = data.split("train", ignored, open_line, gone)
    assert split.examples == data.read("train")
    assert split.defects == []


def test_review_applied_twice_changes_rows_once(data):
    lines = (data.line(1, "intent", "relabel", to="music"), data.line(2, "intent", "drop"))
    once = data.split("train", *lines)
    twice = data.split("train", *lines, *lines, reviews=2)
    assert (twice.examples, twice.defects) == (once.examples, once.defects)
    assert len(once.examples) == 2


@pytest.mark.parametrize("decision", ["relabel", "drop"])
def test_changed_row_is_refused_with_its_place(data, decision):
    line = data.line(2, "intent", decision, to="alarm")
    data.write((ROWS[0], {**ROWS[1], "intent": "songs"}, ROWS[2]))
    with pytest.raises(DataError) as error:
        data.read("train", line)
    assert str(error.value) == (
        f"{data.file}:2 has changed since the review ({data.review.with_name('review0.jsonl')}:1). "
        "Run `palm-train health` again, or remove the line from the review."
    )


def test_change_of_another_field_does_not_matter(data):
    line = data.line(2, "intent", "relabel", to="alarm")
    data.write((ROWS[0], {**ROWS[1], "slots": [{"start": 5, "end": 9, "label": "genre"}]}, ROWS[2]))
    assert data.read("train", line)[1].fields["intent"] == "alarm"


def test_row_that_is_gone_is_refused(data):
    line = data.line(3, "intent", "drop")
    data.write(ROWS[:2])
    with pytest.raises(DataError, match=r"train\.jsonl:3 is no row of the split 'train' any more"):
        data.read("train", line)


def test_all_rows_removed_is_refused(data):
    with pytest.raises(DataError, match="removes all rows of the split 'train'"):
        data.read("train", *(data.line(number, "intent", "drop") for number in (1, 2, 3)))


def test_moved_folder_keeps_the_review(data):
    line = data.line(2, "intent", "relabel", to="alarm")
    moved = data.file.parent.with_name("elsewhere")
    data.file.parent.rename(moved)
    data.file = moved / "train.jsonl"
    assert data.read("train", line)[1].fields["intent"] == "alarm"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decision": "maybe"}, "\"decision\" must be null, relabel, drop or ignore, got 'maybe'"),
        ({"to": None}, '"to" must be the new value of the field, got None'),
        ({"data": "other"}, "\"data\" must be a data set of the configuration (bank), got 'other'"),
        ({"split": "dev"}, "\"split\" must be a split of the data set 'bank', got 'dev'"),
        ({"line": "2"}, "\"line\" must be a whole number, got '2'"),
        ({"field": "", "to": "x"}, '"field" must be a string with at least one character'),
        ({"to": 7}, '"to" is 7; it must be "class"'),
    ],
)
def test_faulty_line_is_refused_with_its_place(data, changes, message):
    line = {**data.line(2, "intent", "relabel", to="alarm"), **changes}
    with pytest.raises(DataError) as error:
        data.read("train", line)
    assert f"review0.jsonl:1: {message}" in str(error.value)


def test_contradicting_decisions_are_refused(data):
    first = data.line(2, "intent", "relabel", to="alarm")
    with pytest.raises(DataError, match=r"review0\.jsonl:2 and .*review0\.jsonl:1 relabel the same part"):
        data.read("train", first, {**first, "to": "songs"})


def test_drop_prevails_over_relabel(data):
    relabel = data.line(2, "intent", "relabel", to="alarm")
    assert len(data.read("train", relabel, data.line(2, "intent", "drop"))) == 2


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((("a", "b"), ("a", "c")), "merge 'a' with two classes"),
        ((("a", "b"), ("b", "a")), "leads back to"),
        ((("a", "a"),), "leads back to 'a'"),
    ],
)
def test_merges_that_contradict_are_refused(data, pairs, message):
    lines = []
    for merged, to in pairs:
        lines.append({"data": "bank", "field": "intent", "merge": merged, "to": to, "decision": "merge"})
    with pytest.raises(DataError, match=message):
        data.read("train", *lines)


def test_span_over_another_is_refused(data):
    line = data.line(1, "slots", "relabel", start=0, end=4, to=[{"start": 0, "end": 12, "label": "who"}])
    with pytest.raises(DataError, match="must not overlap other spans"):
        data.read("train", line)


def test_empty_review_changes_nothing(data):
    data.review.write_text("")
    settings = data_config({"format": "jsonl", "train": str(data.file), "review": str(data.review)})
    assert Splits({"bank": settings}).examples("bank", "train") == data.read("train")


def test_source_is_divided_into_file_and_line():
    assert split_source("/a/b.jsonl:12") == ("/a/b.jsonl", 12)
    assert split_source("/a/squad.json#q:x") == ("/a/squad.json#q:x", None)
    assert split_source("/a/b.jsonl:²") == ("/a/b.jsonl:²", None)


def test_digest_depends_on_text_pair_and_field(data):
    example = data.read("train")[0]
    digests = {
        row_digest(example, "intent"),
        row_digest(example, "slots"),
        row_digest(example, ""),
        row_digest(replace(example, text="wake me at 6"), "intent"),
        row_digest(replace(example, pair=""), "intent"),
    }
    assert len(digests) == 5


def test_classes_of_several_are_relabelled_and_merged(tmp_path):
    path = tmp_path / "topics.jsonl"
    path.write_text('{"text": "a", "topics": ["x", "y"]}\n{"text": "b", "topics": []}\n')
    plain = data_config({"format": "jsonl", "train": str(path)})
    first, second = Splits({"d": plain}).examples("d", "train")
    place = {"data": "d", "split": "train", "file": "topics.jsonl", "field": "topics"}
    lines = [
        {**place, "line": 1, "digest": row_digest(first, "topics"), "to": ["y", "z"], "decision": "relabel"},
        {**place, "line": 2, "digest": row_digest(second, "topics"), "to": ["x"], "decision": "relabel"},
        {"data": "d", "field": "topics", "merge": "z", "to": "y", "decision": "merge"},
    ]
    review = tmp_path / "review.jsonl"
    review.write_text("".join(json.dumps(line) + "\n" for line in lines))
    reviewed = Splits({"d": plain.model_copy(update={"review": (review,)})}).examples("d", "train")
    assert [example.fields["topics"] for example in reviewed] == [("y",), ("x",)]
