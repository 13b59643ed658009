"""Confident learning and neighbours on vectors with known errors."""

import numpy as np

from palm_trainer.data.example import LabelledSpan
from palm_trainer.health.findings import CONFIDENT, NEIGHBOURS
from palm_trainer.health.model_checks import check_classes, check_spans, find_neighbours, label_words
from palm_trainer.health.out_of_fold import find_label_issues, out_of_fold_probabilities, wrong_scores
from palm_trainer.health.vectors import Vectors


def clusters(labels, width=8, spread=0.05):
    """A vector near the unit vector of each label."""
    numbers = np.random.default_rng(3)
    return (np.eye(width)[labels] + spread * numbers.normal(size=(len(labels), width))).astype(np.float32)


def test_confident_joint_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]], np.float32)
    # Thresholds are 0.6 and 0.683: the third row is confident for class 1, the last for none.
    assert find_label_issues(labels, probabilities).tolist() == [False, False, True, False, False, False]
    assert np.allclose(wrong_scores(labels, probabilities), [0.1, 0.2, 0.9, 0.2, 0.3, 0.45])


def test_probabilities_of_a_row_do_not_depend_on_its_label():
    labels = np.repeat([0, 1, 2], 20)
    vectors = clusters(labels)
    flipped = labels.copy()
    flipped[5] = 1
    groups = list(range(60))
    first = out_of_fold_probabilities(vectors, labels, groups, 3, 13)
    second = out_of_fold_probabilities(vectors, flipped, groups, 3, 13)
    assert np.allclose(first[5], second[5], atol=1e-5)
    assert np.allclose(first.sum(axis=1), 1, atol=1e-5)
    assert (first.argmax(axis=1) == labels).mean() > 0.95


def test_equal_texts_come_into_one_fold():
    labels = np.repeat([0, 1], 20)
    vectors = np.random.default_rng(5).normal(size=(40, 4)).astype(np.float32)
    vectors[1] = vectors[0]
    labels[1] = 1
    groups = ["same", "same", *range(38)]
    probabilities = out_of_fold_probabilities(vectors, labels, groups, 2, 13)
    assert np.allclose(probabilities[0], probabilities[1], atol=1e-6)


def test_flipped_classes_are_found_with_the_right_suggestion(intents):
    truth = np.repeat([0, 1, 2], 30)
    names = np.array(["alarm", "music", "weather"])
    given = names[truth].tolist()
    flipped = {3: "music", 40: "weather", 70: "alarm"}
    for number, name in flipped.items():
        given[number] = name
    rows = intents(train=[(f"text {number}", name) for number, name in enumerate(given)])
    findings, _ = check_classes(rows, Vectors(clusters(truth), []), 13)
    for signal in (CONFIDENT, NEIGHBOURS):
        found = {int(f.row.example.text.split()[1]): f.to for f in findings if f.signal == signal}
        assert found == {number: names[truth[number]] for number in flipped}
    assert all(len(finding.near) == 3 for finding in findings)


def test_classes_in_one_place_may_be_merged(intents):
    places = np.repeat([0, 0, 1], 20)
    names = ["pay"] * 20 + ["payment"] * 20 + ["weather"] * 20
    rows = intents(train=[(f"text {number}", name) for number, name in enumerate(names)])
    _, merges = check_classes(rows, Vectors(clusters(places), []), 13)
    assert [{merge.merged, merge.to} for merge in merges] == [{"pay", "payment"}]


def test_neighbours_are_the_nearest_without_the_row_itself():
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    assert find_neighbours(vectors)[:, 0].tolist() == [1, 0, 3, 2]


def test_wrong_and_missing_spans_are_found(slots):
    cities = ["oslo", "bonn", "riga", "kyiv", "bern"]
    texts = [f"fly to [{cities[number % 5]}](city) number{number} now" for number in range(60)]
    texts[7] = texts[7].replace("(city)", "(date)")
    texts[11] = "fly to bonn number11 now"
    texts[20] = "fly [to](date) [oslo](city) number20 now"
    texts += [f"on [monday](date) number{number} now" for number in range(60, 100)]
    rows = slots(train=texts)
    words = label_words(rows)
    kinds = []
    for row, word in zip(words.rows.tolist(), words.words.tolist(), strict=True):
        text = rows.rows["train"][row].example.text.split()[word]
        kinds.append(1 if text in cities else 2 if text == "monday" else 0)
    findings = check_spans(rows, clusters(np.array(kinds)), 13)
    found = {int(f.row.example.source.rpartition(":")[2]) - 1: (f.start, f.end, f.to) for f in findings}
    assert found == {
        7: (7, 11, (LabelledSpan(7, 11, "city"),)),
        11: (7, 11, (LabelledSpan(7, 11, "city"),)),
        20: (4, 6, ()),
    }


def test_few_rows_are_not_checked(intents):
    rows = intents(train=[("a", "x"), ("b", "y")])
    assert check_classes(rows, Vectors(clusters(np.array([0, 1])), []), 13) == ([], [])
