"""Every kind of tokenizer: what it calls a piece's place is a place in the raw text, whatever it does to blanks, bytes and Unicode."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from palm_serve.bundle.manifest import Decode, TaskInfo
from palm_serve.decoding import Item
from palm_serve.decoding.sequence_label import SequenceLabelDecoder, tagged_range, trim
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Windows
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.targets.masked_lm import MaskedLMTarget, MaskVocabulary
from palm_trainer.data.targets.sequence_label import SequenceLabelTarget

KINDS = ("wordpiece", "byte-level", "modern", "albert", "deberta", "xlm-r", "xlnet")
# Blanks of several kinds, characters of several bytes, ligatures and wide forms that normalization makes longer or shorter, marks that it drops.
PARTS = (
    "fly",
    "to",
    "St.",
    "Louis",
    "北",
    "京",
    "São",
    "e\u0301",
    "ﬁeld",
    "Ａ１",
    "㎏",
    "🙂",
    "👩\u200d🚀",
    "o'clock",
    "``",
    "\u200b",
)
BLANKS = (" ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u3000")
TEXTS = st.lists(st.sampled_from([*PARTS, *BLANKS]), min_size=1, max_size=12).map("".join).filter(str.strip)
TAGS = ("O", "B-city", "I-city", "B-day", "I-day")


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tokenizer_of):
    return TextTokenizer(tokenizer_of(request.param).backend_tokenizer.to_str(), 128)


def decode(text, encoding, tags):
    """Spans of tags, a name each, of the text's pieces."""
    decoder = SequenceLabelDecoder(
        TaskInfo(kind="sequence_label", outputs=("x",), labels=TAGS, decode=Decode(scheme="BIO")), {}
    )
    logits = np.zeros((1, len(encoding), len(TAGS)), dtype=np.float32)
    for position, tag in zip(range(*tagged_range(encoding)), tags, strict=True):
        logits[0, position, TAGS.index(tag)] = 9.0
    return decoder({"x": logits}, [Item(text, encoding)])[0].spans


@given(text=TEXTS, data=st.data())
def test_a_value_is_a_piece_of_the_text_without_blanks_around(tokenizer, text, data):
    """Whatever the model says of the pieces."""
    encoding = tokenizer.encode(text)
    first, after = tagged_range(encoding)
    assert all(0 <= start <= end <= len(text) for start, end in encoding.offsets[first:after])
    tags = data.draw(st.lists(st.sampled_from(TAGS), min_size=after - first, max_size=after - first))
    spans = decode(text, encoding, tags)
    for span in spans:
        assert span.value == text[span.start : span.end] == span.value.strip() != ""
    assert all(one.end <= other.start for one, other in pairwise(spans))


@given(text=TEXTS, data=st.data())
def test_spans_come_back_from_their_tags(tokenizer, text, data):
    """A span that begins and ends where pieces do; what the training is told is what the server says."""
    encoding = tokenizer.encode(text)
    first, after = tagged_range(encoding)
    offsets = encoding.offsets[first:after]
    edges = [i for i in range(1, len(offsets)) if offsets[i - 1][1] <= offsets[i][0]]
    cuts = sorted(data.draw(st.sets(st.sampled_from([0, *edges, len(offsets)]), min_size=2)))  # ranges of pieces
    ranges = [trim(text, offsets[i][0], offsets[j - 1][1]) for i, j in pairwise(cuts)]
    spans = [
        LabelledSpan(*found, data.draw(st.sampled_from(("city", "day")))) for found in ranges if found[0] < found[1]
    ]
    assume(all(one.end <= other.start for one, other in pairwise(spans)))
    target = SequenceLabelTarget("slots", "slots", ["city", "day"])
    encoded = target.encode(Example(text, fields={"slots": tuple(spans)}), encoding)
    found = decode(text, encoding, [target.info.labels[tag] for tag in encoded[first:after]])
    assert [(s.name, s.start, s.end) for s in found] == [(s.label, s.start, s.end) for s in spans]


@given(question=TEXTS, passage=TEXTS)
def test_a_window_that_holds_the_whole_passage_is_the_pair_itself(tokenizer, question, passage):
    """Special tokens and types of windows are those of the tokenizer's own pairs, XLNet's last token and RoBERTa's double one included."""
    [[window]] = tokenizer.encode_windows([(question, passage)], Windows(64, 64))
    pair = tokenizer.encode(question, passage)
    for name in ("input_ids", "type_ids", "offsets", "segments"):
        assert list(getattr(window, name)) == list(getattr(pair, name)), name


def test_words_are_masked_whole(tokenizer):
    """No piece of a word stays to tell it: neither SentencePiece's mark of its beginning, nor some of a character's bytes."""
    text = "fly to Louis  São o'clock"
    encoding = tokenizer.encode(text)
    target = MaskedLMTarget("words", MaskVocabulary(4, np.arange(5, 20)), whole_word=True)
    units = target.encode(Example(text), encoding)
    assert sorted(i for unit in units for i in unit) == list(range(*tagged_range(encoding)))
    ranges = [trim(text, encoding.offsets[unit[0]][0], encoding.offsets[unit[-1]][1]) for unit in units]
    words = [text[start:end] for start, end in ranges if start < end]
    assert words in (["fly", "to", "Louis", "São", "o", "'", "clock"], ["fly", "to", "Louis", "São", "o'clock"])
    blank = [unit for unit, (start, end) in zip(units, ranges, strict=True) if start >= end]
    assert all(
        encoding.offsets[unit[0]][0] == encoding.offsets[unit[-1]][1] for unit in blank
    )  # a second blank, of bytes
