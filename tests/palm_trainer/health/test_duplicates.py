from palm_trainer.data.example import LabelledSpan
from palm_trainer.health.duplicates import find_duplicates, find_leaks
from palm_trainer.health.findings import DUPLICATE, LEAK, NEAR_DUPLICATE


def lines(findings):
    return [(f.signal, f.row.split, f.row.example.source.rpartition(":")[2], f.to) for f in findings]


def test_rarer_label_of_equal_texts_is_found(intents):
    rows = intents(train=[("play it", "music"), ("play it", "alarm"), ("play it", "music"), ("stop", "alarm")])
    [finding] = find_duplicates(rows)
    assert lines([finding]) == [(DUPLICATE, "train", "2", "music")]
    assert finding.why.startswith("The same text has 'music' in 2 of 3 rows, such as ")
    assert [row.example.source.rpartition(":")[2] for row in finding.near] == ["1", "3"]


def test_texts_that_differ_in_case_and_punctuation_are_near(intents):
    rows = intents(train=[("Play  it!", "music"), ("play it", "music"), ("PLAY, it?", "alarm"), ("play it.", "alarm")])
    found = find_duplicates(rows)
    assert lines(found) == [(NEAR_DUPLICATE, "train", "3", "music"), (NEAR_DUPLICATE, "train", "4", "music")]


def test_punctuation_alone_is_no_duplicate_of_other_punctuation(intents):
    assert find_duplicates(intents(train=[("?", "ask"), ("!", "shout"), ("？", "ask")])) == []


def test_spans_are_suggested_where_they_stand_at_the_same_places(slots):
    rows = slots(
        train=["wake me at [six](time)", "wake me at [six](time)", "wake [me](who) at six", "Wake me, at six!"]
    )
    found = find_duplicates(rows)
    assert lines(found) == [
        (DUPLICATE, "train", "3", ()),
        (DUPLICATE, "train", "3", (LabelledSpan(11, 14, "time"),)),
        (NEAR_DUPLICATE, "train", "4", None),
    ]
    assert [(finding.start, finding.end) for finding in found] == [(5, 7), (11, 14), (None, None)]


def test_labels_of_test_do_not_speak_against_train(intents):
    rows = intents(train=[("play it", "alarm")], test=[("play it", "music"), ("play it", "music")])
    assert {finding.row.split for finding in find_duplicates(rows)} <= {"test"}
    rows = intents(train=[("play it", "music"), ("play it", "music")], test=[("play it", "alarm")])
    assert lines(find_duplicates(rows)) == [(DUPLICATE, "test", "1", "music")]


def test_text_of_train_in_test_is_a_leak(intents):
    rows = intents(train=[("play it", "music")], dev=[("stop", "alarm")], test=[("play it", "music"), ("go", "alarm")])
    [leak] = find_leaks(rows)
    assert lines([leak]) == [(LEAK, "test", "1", None)]
    assert leak.field == ""


def test_pairs_are_compared_as_pairs(write_rows):
    from palm_trainer.health.rows import read_rows

    train = [
        {"text": "a b", "text_pair": "c", "label": "1"},
        {"text": "a b", "text_pair": "d", "label": "0"},
        {"text": "A b", "text_pair": "C.", "label": "1"},
        {"text": "a b", "text_pair": "c", "label": "0"},
    ]
    [rows] = read_rows(write_rows("match", "label", train=train))
    assert lines(find_duplicates(rows)) == [(DUPLICATE, "train", "4", "1")]


def test_texts_are_compared_in_their_context(write_rows):
    from palm_trainer.health.rows import read_rows

    train = [
        {"text": "seven", "context": ["how many?"], "intent": "size"},
        {"text": "seven", "context": ["when?"], "intent": "time"},
        {"text": "seven", "context": ["When"], "intent": "time"},
        {"text": "seven", "context": ["when?"], "intent": "size"},
    ]
    test = [{"text": "seven", "context": ["what time?"], "intent": "time"}]
    [rows] = read_rows(write_rows("classify", "intent", train=train, test=test))
    assert lines(find_duplicates(rows)) == [(DUPLICATE, "train", "4", "time")]
    assert find_leaks(rows) == []
