"""Character spans -> tags of pieces -> the server's decoder -> the same character spans."""

import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from palm_serve.decoding import Item
from palm_serve.decoding.sequence_label import SequenceLabelDecoder
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.targets.sequence_label import SequenceLabelTarget
from palm_trainer.errors import DataError
from palm_trainer.model.heads import IGNORE
from palm_trainer.tokenization.encoder_files import locate_encoder

TYPES = ("city", "time")
WORDS = [
    "boston",
    "st. louis",
    "o'clock",
    "r&b",
    "new york",
    ",",
    "unbelievable",
    "  ",
    "北京",
    "café",
    "10:30",
    "🎉",
    "e\u0301t",
    "\u200d",
    "İstanbul",
    "ﬁ",
    "\t",
    "…",
    "-",
]


@pytest.fixture(scope="module")
def tokenizer():
    """The WordPiece of the default encoder."""
    with open(f"{locate_encoder('minilm-l6-en')}/tokenizer.json", encoding="utf-8") as file:
        return TextTokenizer(file.read(), 64)


def make_target(examples=(), **options):
    if examples:
        return SequenceLabelTarget.learn("slots", "slots", examples, **options)
    return SequenceLabelTarget("slots", "slots", TYPES, **options)


def labelled(text, *spans):
    """`labelled("to boston", ("boston", "city"))`, each found after the one before."""
    found, position = [], 0
    for value, label in spans:
        start = text.index(value, position)
        position = start + len(value)
        found.append(LabelledSpan(start, position, label))
    return Example(text, {"slots": tuple(found)})


def names(target, example, encoding):
    return [None if i == IGNORE else target.info.labels[i] for i in target.encode(example, encoding)]


def is_legal_bio(tags):
    return all(
        not tag.startswith("I-") or ((before or "O")[1:] == tag[1:] and before != "O")
        for before, tag in itertools.pairwise([None, *tags])
    )


def decoded(target, example, encoding):
    """Spans that the server finds when the model is certain of exactly the gold tags."""
    gold = target.encode(example, encoding)
    tags = len(target.info.labels)
    emissions = np.zeros((1, len(encoding), tags), dtype=np.float32)
    for position, tag in enumerate(gold):
        if tag != IGNORE:
            emissions[0, position, tag] = 50.0
    arrays = {
        f"slots.{part}": np.zeros((tags, tags) if part == "transitions" else tags, np.float32)
        for part in ("start", "transitions", "end")
    }
    decoder = SequenceLabelDecoder(target.info, arrays)
    (answer,) = decoder({"slots.logits": emissions}, [Item(example.text, encoding)])
    return [(span.start, span.end, span.name) for span in answer.spans]


def check_round_trip(tokenizer, example):
    target = make_target([example])
    found = decoded(target, example, tokenizer.encode(example.text))
    assert found == [(s.start, s.end, s.label) for s in example.fields["slots"]]


@st.composite
def annotated(draw):
    """Random text and random spans that do not overlap."""
    text = draw(
        st.one_of(
            st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join), st.text(min_size=1, max_size=25)
        )
    )
    edges = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    spans = [
        LabelledSpan(a, b, draw(st.sampled_from(TYPES))) for a, b in itertools.pairwise(edges) if draw(st.booleans())
    ]
    return text, spans


@example(("0\u093e", [LabelledSpan(0, 1, "city")]))  # a vowel sign, which is a piece of its own
@given(annotated())
def test_spans_on_piece_edges_come_back(tokenizer, case):
    text, spans = case
    encoding = tokenizer.encode(text)
    assume(not encoding.truncated)
    pieces = [offset for offset, segment in zip(encoding.offsets, encoding.segments, strict=True) if segment == 0]
    kept = []
    for span in spans:  # moved to the edges of the pieces that they touch
        touched = [(a, b) for a, b in pieces if a < span.end and b > span.start]
        if touched:
            start, end = touched[0][0], touched[-1][1]
            if not kept or kept[-1].end <= start:
                kept.append(LabelledSpan(start, end, span.label))
    assume(kept)
    check_round_trip_up_to_marks(tokenizer, Example(text, {"slots": tuple(kept)}))


def check_round_trip_up_to_marks(tokenizer, example):
    """A span may grow by combining marks and joiners that follow it, most of which no piece covers: a character is not cut."""
    target = make_target([example])
    encoding = tokenizer.encode(example.text)
    found = decoded(target, example, encoding)
    gold = [(s.start, s.end, s.label) for s in example.fields["slots"]]
    assert [(start, label) for start, _, label in found] == [(start, label) for start, _, label in gold]
    for (_, end, _), (_, wanted, _) in zip(found, gold, strict=True):
        assert end >= wanted
        assert not any(
            wanted <= a < end and any(unicodedata.category(character)[0] != "M" for character in example.text[a:b])
            for (a, b), s in zip(encoding.offsets, encoding.segments, strict=True)
            if s == 0
        )


@given(annotated())
def test_tags_are_always_legal(tokenizer, case):
    text, spans = case
    target = make_target()
    encoding = tokenizer.encode(text)
    tags = names(target, Example(text, {"slots": tuple(spans)}), encoding)
    assert [tag is None for tag in tags] == [segment != 0 for segment in encoding.segments]
    assert is_legal_bio([tag for tag in tags if tag])


@given(st.data())
def test_tags_are_legal_whatever_the_pieces(data):
    """Other tokenizers give pieces that share a character, cover none, or cover blanks; overlapping spans are cut, never broken."""
    edges = data.draw(st.lists(st.integers(0, 12), min_size=2, max_size=24).map(sorted))
    offsets = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    text = data.draw(st.text("ab ", min_size=12, max_size=12))
    bounds = data.draw(
        st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.sampled_from((*TYPES, "unseen"))), max_size=4)
    )
    spans = tuple(LabelledSpan(min(a, b), max(a, b), label) for a, b, label in bounds if a != b)
    encoding = Encoding([1] * len(offsets), [0] * len(offsets), offsets, [0] * len(offsets))
    assert is_legal_bio(names(make_target(), Example(text, {"slots": spans}), encoding))


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("from st. louis to boston", [("st. louis", "city"), ("boston", "city")]),
        ("at 5 o'clock please", [("5 o'clock", "time")]),
        ("play r&b now", [("r&b", "city")]),
        ("to boston, please", [("boston", "city")]),
        ("boston,denver", [("boston", "city"), ("denver", "city")]),
        ("play 音乐 in 北京", [("音乐", "city"), ("北京", "city")]),
        ("🎉 in são paulo!", [("são paulo", "city")]),
        ("in e\u0301vian now", [("e\u0301vian", "city")]),
    ],
)
def test_words_that_the_pre_tokenizer_splits(tokenizer, text, spans):
    check_round_trip(tokenizer, labelled(text, *spans))


def test_neighbours_with_the_same_label_stay_two(tokenizer):
    example = labelled("boston denver", ("boston", "city"), ("denver", "city"))
    check_round_trip(tokenizer, example)
    check_round_trip(tokenizer, labelled("北京上海", ("北京", "city"), ("上海", "city")))
    target = make_target()
    assert names(target, example, tokenizer.encode(example.text)) == [None, "B-city", "B-city", None]


def test_first_piece_begins_and_the_others_follow(tokenizer):
    example = labelled("to st. louis,", ("st. louis", "city"))
    tags = names(make_target(), example, tokenizer.encode(example.text))
    assert tags == [None, "O", "B-city", "I-city", "I-city", "O", None]


def test_blanks_around_a_value_do_not_matter(tokenizer):
    example = Example("fly  to  boston  ", {"slots": (LabelledSpan(7, 17, "city"),)})
    assert decoded(make_target(), example, tokenizer.encode(example.text)) == [(9, 15, "city")]


def test_a_value_cut_by_the_length_limit_is_tagged_as_far_as_it_is_seen():
    with open(f"{locate_encoder('minilm-l6-en')}/tokenizer.json", encoding="utf-8") as file:
        short = TextTokenizer(file.read(), 5)
    example = labelled("to st. louis or boston", ("st. louis", "city"), ("boston", "city"))
    encoding = short.encode(example.text)
    assert encoding.truncated
    assert names(make_target(), example, encoding) == [None, "O", "B-city", "I-city", None]
    assert decoded(make_target(value_punctuation="."), example, encoding) == [(3, 6, "city")]


def test_unlabelled_is_not_the_same_as_no_span(tokenizer):
    encoding = tokenizer.encode("to boston")
    target = make_target()
    assert target.encode(Example("to boston"), encoding) == [IGNORE] * 4
    assert names(target, Example("to boston", {"slots": ()}), encoding) == [None, "O", "O", None]


def test_labels_never_seen_are_outside(tokenizer):
    example = labelled("to oz and boston", ("oz", "planet"), ("boston", "city"))
    assert names(make_target(), example, tokenizer.encode(example.text)) == [None, "O", "O", "O", "B-city", None]


def test_empty_text_has_no_tags(tokenizer):
    assert make_target().encode(Example("", {"slots": ()}), tokenizer.encode("")) == [IGNORE, IGNORE]


def test_only_the_first_text_of_a_pair_is_tagged(tokenizer):
    example = Example("to boston", {"slots": (LabelledSpan(3, 9, "city"),)}, pair="from boston")
    assert names(make_target(), example, tokenizer.encode(example.text, example.pair)) == [
        None,
        "O",
        "B-city",
        None,
        None,
        None,
        None,
    ]


def test_learns_types_and_the_punctuation_of_values():
    target = make_target(
        [labelled("at 5 o'clock, to st. louis!", ("5 o'clock", "time"), ("st. louis", "city")), Example("none")]
    )
    assert target.info.labels == ("O", "B-city", "I-city", "B-time", "I-time")
    assert target.info.decode.value_punctuation == "'."


def test_collate_pads_with_ignore():
    assert make_target().collate([[1, 2], [0]], 3).tolist() == [[1, 2, IGNORE], [0, IGNORE, IGNORE]]


def test_no_span_at_all_is_an_error():
    with pytest.raises(DataError, match="task 'slots': the training data holds no span in the field 'slots'"):
        make_target([Example("a", {"intent": "x"}, source="f:1")])


def test_a_class_field_cannot_be_tagged():
    with pytest.raises(
        DataError, match=r"f:1: task 'slots' tags spans and needs them in 'slots', not 'x'. Choose kind"
    ):
        make_target([Example("a", {"slots": "x"}, source="f:1")])
