"""A batch of one row is decoded in a quicker way than others, with the same answers: compared with the way of a batch."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_serve.bundle.manifest import Calibration, Decode, TaskInfo
from palm_serve.decoding import Item
from palm_serve.decoding.classify import ClassifyDecoder
from palm_serve.decoding.crf import LARGEST_LEAD, ForwardBackward, Potentials, Viterbi
from palm_serve.decoding.sequence_label import SequenceLabelDecoder
from palm_serve.types import Encoding

NAMES = "abcdefghijklmnopqrstuvwxyz"
TEXTS = ("wake me at six , please", "a", "?", "one (two) three ... four-five 6 %", " ".join(NAMES * 2))


def make_tags(types: int) -> tuple[str, ...]:
    return ("O", *(f"{part}-{name}" for name in NAMES[:types] for part in "BI"))


def encode_words(text: str) -> Encoding:
    """[CLS] one piece per blank-separated word [SEP]."""
    offsets, end = [], 0
    for word in text.split():
        start = text.index(word, end)
        end = start + len(word)
        offsets.append((start, end))
    size = len(offsets) + 2
    return Encoding([0] * size, [0] * size, [(0, 0), *offsets, (0, 0)], [-1, *[0] * (size - 2), -1])


def make_decoder(generator: np.random.Generator, types: int, temperature: float, spread: float) -> SequenceLabelDecoder:
    tags = make_tags(types)
    rules = Decode(
        scheme="BIO",
        crf=True,
        arrays={name: name for name in ("start", "transitions", "end")},
        value_punctuation="-",
    )
    task = TaskInfo(
        kind="sequence_label",
        outputs=("slots.logits",),
        labels=tags,
        decode=rules,
        calibration=Calibration(method="temperature", temperature=temperature),
    )
    shapes = {"start": len(tags), "transitions": (len(tags), len(tags)), "end": len(tags)}
    arrays = {name: generator.normal(0, spread, shape).astype(np.float32) for name, shape in shapes.items()}
    return SequenceLabelDecoder(task, arrays)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(TEXTS),
    st.sampled_from([1, 3, 20]),
    st.sampled_from([0.5, 1.0, 3.0, 12.0, 500.0]),
    st.sampled_from([0.0, 0.5, 4.0]),
    st.sampled_from([0.1, 3.0, 20.0, 300.0, 5e3]),
    st.booleans(),
)
def test_spans_of_one_row_are_those_of_a_batch(
    seed: int, text: str, types: int, temperature: float, spread: float, scale: float, is_masked: bool
) -> None:
    generator = np.random.default_rng(seed)
    decoder = make_decoder(generator, types, temperature, spread)
    item = Item(text, encode_words(text))
    tags = len(make_tags(types))
    logits = (generator.normal(0, 1, (1, len(item.encoding) + 3, tags)) * scale).astype(np.float32)
    forbidden = None
    if is_masked:
        forbidden = np.repeat(generator.random((1, types)) < 0.5, 2, axis=1)
        forbidden = np.concatenate([np.zeros((1, 1), np.bool_), forbidden], axis=1)
    before = logits.copy()
    [alone] = decoder({"slots.logits": logits}, [item], forbidden)
    np.testing.assert_array_equal(logits, before)
    [expected] = decoder._decode_rows(logits, [item], forbidden)
    assert [(s.name, s.start, s.end, s.value) for s in alone.spans] == [
        (s.name, s.start, s.end, s.value) for s in expected.spans
    ]
    for span, expected_span in zip(alone.spans, expected.spans, strict=True):
        assert span.confidence == pytest.approx(expected_span.confidence, abs=2e-5)


def leads(emissions: np.ndarray) -> np.ndarray:
    return np.maximum(emissions - emissions.max(axis=1, keepdims=True), -LARGEST_LEAD)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.sampled_from([0.3, 3.0, 8.0]),
    st.sampled_from([0.1, 3.0, 30.0, 90.0]),
)
def test_a_path_of_one_row_that_counts_as_certain_is_the_only_best_one(
    seed: int, length: int, spread: float, scale: float
) -> None:
    generator = np.random.default_rng(seed)
    tags = make_tags(1)
    learned = Potentials(*(generator.normal(0, spread, size).astype(np.float32) for size in (3, (3, 3), 3)))
    potentials = Potentials.constrained(tags, learned)
    emissions = (generator.normal(0, 1, (length, 3)) * scale).astype(np.float32)
    _, path = ForwardBackward(potentials).single(leads(emissions))
    if path is None:
        return

    def score(candidate: tuple[int, ...]) -> float:
        total = float(potentials.start[candidate[0]] + potentials.end[candidate[-1]])
        for position, tag in enumerate(candidate):
            total += float(emissions[position, tag])
        for previous, tag in itertools.pairwise(candidate):
            total += float(potentials.transitions[previous, tag])
        return total

    scores = {candidate: score(candidate) for candidate in itertools.product(range(3), repeat=length)}
    best = scores.pop(tuple(path))
    assert best > max(scores.values(), default=-math.inf)


@pytest.mark.parametrize("shift", [-30.0, 0.0, 30.0])
@pytest.mark.parametrize("length", [1, 7, 120])
def test_messages_outside_of_the_plain_range_are_scaled(shift: float, length: int) -> None:
    """Transitions far from zero make messages grow or shrink beyond float32 within some tokens."""
    generator = np.random.default_rng(0)
    tags = make_tags(3)
    size = len(tags)
    learned = Potentials(
        np.zeros(size, np.float32), np.full((size, size), shift, np.float32), np.zeros(size, np.float32)
    )
    potentials = Potentials.constrained(tags, learned)
    emissions = generator.normal(0, 1, (length, size)).astype(np.float32)
    emissions[:, 0] += 9.0
    chain = ForwardBackward(potentials)
    beliefs, path = chain.single(leads(emissions))
    expected = chain(emissions[None], np.array([length]))
    for position in {0, length // 2, length - 1}:
        for tag in range(size):
            continuing = None if tag == 0 else 2 * ((tag + 1) // 2)
            assert beliefs.segment(0, length, position, [tag], continuing) == pytest.approx(
                expected.segment(0, length, position, [tag], continuing), abs=1e-5
            )
    if path is not None:
        assert path == Viterbi(potentials)(emissions[None], np.array([length]))[0].tolist()


def test_peaked_rows_are_certain_without_a_search() -> None:
    tags = make_tags(20)
    emissions = np.zeros((9, len(tags)), np.float32)
    path = [0, 1, 2, 2, 0, 0, 5, 7, 0]
    emissions[np.arange(9), path] = 12.0
    assert ForwardBackward(Potentials.constrained(tags)).single(leads(emissions))[1] == path


def test_many_tags_are_left_to_the_way_of_a_batch() -> None:
    """A product of so many tags would be given to threads of BLAS."""
    names = [f"{part}-{number}" for number in range(150) for part in "BI"]
    assert not ForwardBackward(Potentials.constrained(("O", *names))).takes_single
    assert ForwardBackward(Potentials.constrained(make_tags(20))).takes_single


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=9),
    st.sampled_from([0.5, 1.0, 4.0, 1e6]),
    st.sampled_from(["softmax", "energy"]),
    st.integers(0, 5),
)
def test_ranking_of_one_row_is_that_of_a_batch(
    logits: list[float], temperature: float, method: str, top_k: int
) -> None:
    task = TaskInfo(
        kind="classify",
        outputs=("x.logits",),
        labels=tuple(map(str, range(len(logits)))),
        calibration=Calibration(temperature=temperature, out_of_scope=method),
    )
    values = {"x.logits": np.array([logits, logits], np.float32)}
    item = Item("t", Encoding([], [], [], []), top_k=top_k)
    decoder = ClassifyDecoder(task, {})
    [alone], [expected, _] = decoder(values, [item]), decoder(values, [item, item])
    assert alone.out_of_scope_score == pytest.approx(expected.out_of_scope_score, abs=2e-5)
    assert len(alone.ranking) == len(expected.ranking)
    confidences = {label.name: label.confidence for label in decoder(values, [Item("t", item.encoding)] * 2)[0].ranking}
    for label, expected_label in zip(alone.ranking, expected.ranking, strict=True):
        assert label.confidence == pytest.approx(expected_label.confidence, abs=1e-5)
        # Labels whose float32 probabilities are equal may come in another order.
        assert label.confidence == pytest.approx(confidences[label.name], abs=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_give_what_a_batch_gives(value: float) -> None:
    task = TaskInfo(kind="classify", outputs=("x.logits",), labels=("a", "b"))
    values = {"x.logits": np.array([[value, 1.0], [value, 1.0]], np.float32)}
    item = Item("t", Encoding([], [], [], []))
    decoder = ClassifyDecoder(task, {})
    with np.errstate(invalid="ignore"):
        assert repr(decoder(values, [item])) == repr(decoder(values, [item, item])[:1])
