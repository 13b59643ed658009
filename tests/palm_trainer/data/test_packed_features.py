"""Packed features are those that were packed, in any layout."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.types import SPECIAL, Encoding
from palm_trainer.data.example import Example
from palm_trainer.data.inputs import Feature, iterate_features
from palm_trainer.data.packed_features import PackedFeatures

TOKENS = st.lists(
    st.tuples(
        st.integers(0, 250_000),
        st.integers(0, 3),
        st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)),
        st.sampled_from([0, 1, SPECIAL]),
    ),
    max_size=8,
)


@st.composite
def rows(draw: st.DrawFn) -> Encoding:
    tokens = draw(TOKENS)
    ids, types, offsets, segments = ([token[part] for token in tokens] for part in range(4))
    return Encoding(ids, types, offsets, segments, draw(st.booleans()), draw(st.integers(0, 10_000)))


@st.composite
def features(draw: st.DrawFn) -> list[Feature]:
    count = draw(st.integers(1, 3))
    made = []
    for example in draw(st.lists(st.integers(0, 2**40), max_size=6)):
        made.append(Feature(example, tuple(draw(rows()) for _ in range(count))))
    return made


@given(features())
def test_features_come_back_as_they_were(made: list[Feature]) -> None:
    packed = PackedFeatures(iter(made))
    assert list(packed) == made
    assert packed[:] == made
    assert packed[1:-1] == made[1:-1]
    for index in range(-len(made), len(made)):
        assert packed[index] == made[index]


@given(features())
def test_lengths_and_cut_examples_are_those_of_the_rows(made: list[Feature]) -> None:
    packed = PackedFeatures(made)
    assert packed.row_lengths.tolist() == [list(map(len, feature.rows)) for feature in made]
    cut = {feature.example for feature in made if any(row.truncated for row in feature.rows)}
    assert packed.truncated_examples == sorted(cut)
    ids = []
    for feature in made:
        for row in feature.rows:
            ids += row.input_ids
    assert packed.token_ids.tolist() == ids


def test_an_index_beyond_the_end_is_an_error() -> None:
    packed = PackedFeatures([Feature(0, (Encoding([1], [0], [(0, 1)], [0]),))])
    for index in (1, -2):
        with pytest.raises(IndexError):
            packed[index]


class CountingInputs:
    """A layout that leaves out every third example, and counts how many it is given at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def features(self, examples: list[Example], tokenizer: object) -> list[Feature]:
        self.sizes.append(len(examples))
        kept = []
        for index, example in enumerate(examples):
            if int(example.text) % 3:
                kept.append(Feature(index, (Encoding([int(example.text)], [0], [(0, 1)], [0]),)))
        return kept


def test_parts_give_the_features_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palm_trainer.data.inputs._PART", 7)
    examples = [Example(str(number)) for number in range(30)]
    inputs = CountingInputs()
    found = list(iterate_features(inputs, examples, None))
    assert found == CountingInputs().features(examples, None)
    assert inputs.sizes == [7, 7, 7, 7, 2]
