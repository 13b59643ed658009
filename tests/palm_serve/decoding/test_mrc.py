"""Decoding of answers, against a search through all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from palm_serve.bundle.manifest import Calibration, Decode, TaskInfo
from palm_serve.decoding import Item
from palm_serve.decoding.mrc import MrcDecoder, null_position, passage_range
from palm_serve.types import SPECIAL, Encoding

PASSAGE = "ann sold 3 red cars to bob in may"
WORDS = [(0, 3), (4, 8), (9, 10), (11, 14), (15, 19), (20, 22), (23, 26), (27, 29), (30, 33)]


def window(first: int = 0, after: int = len(WORDS)) -> Encoding:
    """[CLS] who [SEP] words [SEP]."""
    offsets = [(0, 0), (0, 3), (0, 0), *WORDS[first:after], (0, 0)]
    segments = [SPECIAL, 0, SPECIAL, *[1] * (after - first), SPECIAL]
    return Encoding([1] * len(offsets), [0] * len(offsets), offsets, segments)


def decoder(temperature: float = 1.0, **options) -> MrcDecoder:
    task = TaskInfo(
        kind="mrc", outputs=("s", "e"), decode=Decode(**options), calibration=Calibration(temperature=temperature)
    )
    return MrcDecoder(task)


def item(*windows: Encoding, top_k: int = 0) -> Item:
    return Item("who", windows[0], PASSAGE, top_k, tuple(windows[1:]))


def answer(start, end, *windows, top_k=0, **options):
    rows = {"s": np.atleast_2d(np.float32(start)), "e": np.atleast_2d(np.float32(end))}
    [found] = decoder(**options)(rows, [item(*(windows or (window(),)), top_k=top_k)])
    return found


def logits(**places: float) -> np.ndarray:
    """A row of zeros but for the words named (`w3`) and `null`."""
    row = np.zeros(len(WORDS) + 4, dtype=np.float32)
    for name, value in places.items():
        row[0 if name == "null" else 3 + int(name[1:])] = value
    return row


def test_the_answer_runs_from_its_first_word_to_its_last():
    found = answer(logits(w2=5), logits(w4=5))
    assert (found.text, found.start, found.end, found.no_answer) == ("3 red cars", 9, 19, False)
    assert len(found.alternatives) == 19


def test_it_does_not_run_backwards_nor_too_far():
    assert answer(logits(w4=5), logits(w2=5, w5=1)).text == "cars to"
    assert answer(logits(w0=5), logits(w8=5, w1=1), max_answer_tokens=3).text == "ann sold"


def test_the_question_and_padding_are_never_chosen():
    start = np.zeros(20, dtype=np.float32)
    start[1] = start[15] = start[2] = 50
    assert answer(start, start).text in PASSAGE


@pytest.mark.parametrize(
    ("null", "threshold", "expected"),
    [(6, None, "bob"), (4, 0.0, "bob"), (6, 0.0, ""), (6, 3.0, "bob"), (4, -3.0, "")],
)
def test_no_answer_must_win_by_the_threshold(null, threshold, expected):
    found = answer(logits(w6=5, null=null), logits(w6=5, null=null), null_threshold=threshold)
    assert (found.text, found.no_answer) == (expected, expected == "")
    if threshold is not None:
        ranked = (found, *found.alternatives)
        assert sum(one.no_answer for one in ranked) == 1


def test_one_window_with_an_answer_is_enough():
    windows = window(0, 5), window(4, 9)
    width = 9
    start, end = np.zeros((2, width), dtype=np.float32), np.zeros((2, width), dtype=np.float32)
    start[0, 0] = end[0, 0] = 9  # the first window says that there is none
    start[1, 3 + 2] = end[1, 3 + 2] = 4
    found = answer(start, end, *windows, null_threshold=0.0)
    assert (found.text, found.start) == ("bob", 23)


def test_the_same_answer_in_two_windows_is_one():
    windows = window(0, 6), window(3, 9)
    start = np.zeros((2, 10), dtype=np.float32)
    start[0, 3 + 4] = 3
    start[1, 3 + 1] = 5
    found = answer(start, start, *windows)
    assert found.text == "cars"
    assert "cars" not in [other.text for other in found.alternatives]


def test_a_passage_without_pieces_has_no_answer():
    found = answer(np.zeros(4), np.zeros(4), window(0, 0))
    assert (found.text, found.no_answer, found.confidence, found.alternatives) == ("", True, 1.0, ())


def test_items_keep_their_rows():
    """Three items of two, one and two windows."""
    starts = np.zeros((5, 13), dtype=np.float32)
    for row, word in enumerate((1, 2, 3, 0, 4)):
        starts[row, 3 + word] = 5 + row
    items = [item(window(0, 6), window(0, 6)), item(window()), item(window(0, 6), window(0, 6))]
    found = decoder()({"s": starts, "e": starts}, items)
    assert [one.text for one in found] == ["3", "red", "cars"]


def test_classification_token_is_first_or_last():
    assert null_position(window()) == 0
    xlnet = Encoding([1] * 4, [0] * 4, [(0, 3), (0, 0), (0, 3), (0, 0)], [0, SPECIAL, 1, SPECIAL])
    assert null_position(xlnet) == 3
    assert passage_range(xlnet) == (2, 3)


values = st.floats(-20, 20, width=32)


@given(
    rows=arrays(np.float32, (2, 2, 9), elements=values),
    longest=st.integers(1, 8),
    count=st.integers(1, 50),
    temperature=st.floats(0.5, 3),
)
def test_answers_are_those_of_a_full_search(rows, longest, count, temperature):
    windows = window(0, 5), window(4, 9)
    found = answer(rows[0], rows[1], *windows, max_answer_tokens=longest, n_best=count, temperature=temperature)
    scores = {}
    for w, base in enumerate((0, 4)):
        for i in range(5):
            for j in range(i, min(i + longest, 5)):
                key = (WORDS[base + i][0], WORDS[base + j][1])
                scores[key] = max(scores.get(key, -99.0), float(rows[0, w, 3 + i] + rows[1, w, 3 + j]))
    ranked = (found, *found.alternatives)
    assert len(ranked) == min(count, len(scores))
    told = [scores[(one.start, one.end)] for one in ranked]
    assert told == sorted(scores.values(), reverse=True)[: len(ranked)]
    assert all(one.text == PASSAGE[one.start : one.end] for one in ranked)
    assert sum(one.confidence for one in ranked) == pytest.approx(1.0)
    again = answer(rows[0], rows[1], *windows, max_answer_tokens=longest, n_best=count, temperature=temperature)
    assert again == found
    top = answer(rows[0], rows[1], *windows, max_answer_tokens=longest, n_best=count, temperature=temperature, top_k=3)
    assert top.alternatives == found.alternatives[:2]
