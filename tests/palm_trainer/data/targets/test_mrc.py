"""Where answers stand in the windows, and that decoding finds them there again."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.bundle.manifest import Decode
from palm_serve.decoding import Item
from palm_serve.decoding.mrc import MrcDecoder
from palm_serve.tokenization import TextTokenizer
from palm_trainer.config.schema import data_config
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.splits import read_split
from palm_trainer.data.targets.mrc import MrcTarget, Place, longest_answer
from palm_trainer.errors import DataError
from palm_trainer.tensors import IGNORE
from palm_trainer.tokenization.learned import train_tokenizer

WORDS = (
    "anna",
    "lives",
    "in",
    "oslo",
    ",",
    "norway's",
    "capital.",
    "3.5%",
    "naïve",
    "北京",
    "東京都",
    "e\u0301te\u0301",
)


@cache
def tokenizer(characters: bool = False) -> TextTokenizer:
    found = train_tokenizer(WORDS, vocab_size=80, lowercase=True, characters=characters)
    return TextTokenizer(found.to_str(), 24)


def target(**options) -> MrcTarget:
    return MrcTarget("t", "answer", Decode(pairs=True, max_query_tokens=6, doc_stride_tokens=5, **options))


def answered(passage: str, *spans: tuple[int, int]) -> Example:
    return Example("who?", {"answer": tuple(LabelledSpan(*span, "") for span in spans)}, pair=passage)


@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=30),
    where=st.tuples(st.integers(0, 99), st.integers(1, 4)),
    characters=st.booleans(),
    joiner=st.sampled_from([" ", "  "]),
)
def test_decoding_finds_what_was_encoded(words, where, characters, joiner):
    """Logits that say what the targets say give back the very span, out of whichever windows hold it."""
    passage = joiner.join(words)
    bounds = [0]
    for word in words:
        bounds.append(bounds[-1] + len(word) + len(joiner))
    first = where[0] % len(words)
    last = min(first + where[1], len(words)) - 1
    start, end = bounds[first], bounds[last] + len(words[last])
    task = target(max_answer_tokens=99, null_threshold=0.0)
    example = answered(passage, (start, end))
    features = task.inputs.features([example], tokenizer(characters))
    places = [task.encode(example, feature.rows[0]) for feature in features]
    logits = np.zeros((2, len(features), 24), dtype=np.float32)
    for row, (place, feature) in enumerate(zip(places, features, strict=True)):
        logits[0, row, place.start] = logits[1, row, place.end] = 9
        assert place.null == 0
        assert feature.rows[0].segments[place.first : place.after] == [1] * (place.after - place.first)
    rows = [feature.rows[0] for feature in features]
    found = MrcDecoder(task.info)(
        {task.info.outputs[0]: logits[0], task.info.outputs[1]: logits[1]},
        [Item("who?", rows[0], passage, more=tuple(rows[1:]))],
    )[0]
    whole = any(place.start != place.null for place in places)
    assert whole or last > first  # only an answer of several words may be longer than a window
    assert (found.text, found.start, found.end) == ((passage[start:end], start, end) if whole else ("", 0, 0))


def test_the_first_answer_that_a_window_holds_counts():
    example = answered("anna lives in oslo", (0, 4), (14, 18))
    [feature] = target().inputs.features([example], tokenizer())
    place = target().encode(example, feature.rows[0])
    row = feature.rows[0]
    assert (row.offsets[place.start][0], row.offsets[place.end][1]) == (0, 4)


def test_without_an_answer_the_null_place_is_meant_and_without_a_label_nothing():
    unanswerable, unlabelled = Example("who?", {"answer": ()}, pair="oslo"), Example("who?", {}, pair="oslo")
    task = target()
    rows = [feature.rows[0] for feature in task.inputs.features([unanswerable, unlabelled], tokenizer())]
    first = task.encode(unanswerable, rows[0])
    assert (first.start, first.end) == (0, 0)
    second = task.encode(unlabelled, rows[1])
    assert (second.start, second.end) == (IGNORE, IGNORE)
    assert task.collate([first, second], 24).shape == (2, len(Place._fields))


def test_a_white_answer_and_an_empty_passage_are_no_answer():
    example = answered("anna  lives", (4, 6))
    [feature] = target().inputs.features([example], tokenizer())
    assert target().encode(example, feature.rows[0])[:2] == (0, 0)
    control = answered("\x01\x02", (0, 1))
    [feature] = target().inputs.features([control], tokenizer())
    assert target().encode(control, feature.rows[0]) == (0, 0, *target().encode(control, feature.rows[0])[2:])


def test_lengths_follow_from_the_windows():
    decode = MrcTarget.learn("t", "answer", [answered("a b", (0, 1))], max_length=384).info.decode
    assert (decode.max_query_tokens, decode.doc_stride_tokens, decode.null_threshold) == (64, 128, None)
    both = [answered("a b", (0, 1)), Example("q", {"answer": ()}, pair="p")]
    decode = MrcTarget.learn("t", "answer", both, max_length=96, null_threshold=-1.0).info.decode
    assert (decode.max_query_tokens, decode.doc_stride_tokens, decode.null_threshold) == (32, 32, -1.0)


def test_classes_are_no_answers():
    with pytest.raises(DataError, match="needs spans of the passage in 'answer', not 'oslo'"):
        MrcTarget.learn("t", "answer", [Example("q", {"answer": "oslo"}, pair="oslo")], max_length=64)


@pytest.mark.parametrize(
    ("name", "characters"),
    [
        ("squad_tiny/squad_tiny.json", False),
        ("xquad/xquad.en.json", False),
        ("xquad/xquad.zh.json", True),
        ("cmrc2018/squad-style/cmrc2018_trial.json", True),
    ],
)
def test_answers_of_public_data_come_back(palm_data, name, characters):
    """Nearly all answers stand whole in a window of 128 pieces (Chinese ones are long), and the pieces there cut them out exactly."""
    path = palm_data / name
    if not path.exists():
        pytest.skip(f"PALM_DATA holds no {name}")
    examples = read_split(data_config({"format": "squad", "train": str(path)}), "train").examples[:150]
    texts = [text for e in examples for text in (e.text, e.pair)]
    own = TextTokenizer(train_tokenizer(texts, vocab_size=2000, lowercase=True, characters=characters).to_str(), 128)
    task = MrcTarget.learn("t", "answer", examples, max_length=128)
    found = {}
    for feature in task.inputs.features(examples, own):
        example, row = examples[feature.example], feature.rows[0]
        place = task.encode(example, row)
        if place.start > place.null:
            text = example.pair[row.offsets[place.start][0] : row.offsets[place.end][1]]
            found.setdefault(feature.example, set()).add(text)
    right = [
        i for i, e in enumerate(examples) if {e.pair[s.start : s.end] for s in e.fields["answer"]} & found.get(i, set())
    ]
    answerable = [e for e in examples if e.fields["answer"]]
    assert len(right) > 0.9 * len(answerable) > 0


@pytest.mark.parametrize(
    ("lengths", "wanted"), [([3] * 200, 30), ([40] * 200, 40), ([5] * 199 + [90], 30), ([5] * 198 + [90] * 2, 90)]
)
def test_longest_answer_of_nearly_all(lengths, wanted):
    """99.5 % of the answers, in pieces: one fault in 200 is left out."""
    long = TextTokenizer(train_tokenizer(WORDS, vocab_size=80, lowercase=True, characters=True).to_str(), 128)
    assert longest_answer(["北" * length for length in lengths], long) == wanted
    assert longest_answer(["北" * length for length in lengths], None) == 30
