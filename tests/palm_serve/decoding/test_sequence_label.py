"""Emissions over pieces -> spans: legality, offsets in any text, punctuation, padding, confidences."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from palm_serve.bundle.manifest import Calibration, Decode, TaskInfo
from palm_serve.bundle.span_types import parse_span_label, span_label
from palm_serve.decoding import DecoderTable, Item, label_names, make_decoder
from palm_serve.decoding.crf import Potentials, Viterbi
from palm_serve.decoding.sequence_label import SequenceLabelDecoder, is_punctuation, trim
from palm_serve.errors import BundleError
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding

TAGS = ("O", "B-x", "I-x", "B-y", "I-y")
OUT, BX, IX, BY, IY = range(5)
EMPTY = Encoding([2, 3], [0, 0], [(0, 0), (0, 0)], [-1, -1])


def task(**decode):
    rules = Decode(scheme="BIO", **decode)
    return TaskInfo(kind="sequence_label", outputs=("slots.logits",), labels=TAGS, decode=rules)


def decoder(**decode):
    return SequenceLabelDecoder(task(**decode), {})


def encode_words(text):
    """[CLS] one piece per blank-separated word [SEP]."""
    offsets, end = [], 0
    for word in text.split():
        start = text.index(word, end)
        end = start + len(word)
        offsets.append((start, end))
    size = len(offsets) + 2
    return Encoding([0] * size, [0] * size, [(0, 0), *offsets, (0, 0)], [-1, *[0] * (size - 2), -1])


def peaked(tags, lead=9.0, width=0):
    """Logits [1, S, T] of [CLS] tags [SEP], `width` tokens long at least."""
    logits = np.zeros((1, max(len(tags) + 2, width), len(TAGS)), np.float32)
    logits[0, np.arange(len(tags)) + 1, tags] = lead
    return logits


def decode(text, tags, lead=9.0, **options):
    return decoder(**options)({"slots.logits": peaked(tags, lead)}, [Item(text, encode_words(text))])[0].spans


def found(spans):
    return [(span.name, span.value) for span in spans]


def test_spans_of_a_plain_sentence():
    spans = decode("from new york to boston", [OUT, BX, IX, OUT, BX])
    assert found(spans) == [("x", "new york"), ("x", "boston")]
    assert [(span.start, span.end) for span in spans] == [(5, 13), (17, 23)]
    assert all(0.9 < span.confidence <= 1.0 for span in spans)


def test_neighbouring_spans_stay_apart():
    assert found(decode("boston denver monday", [BX, BX, BY])) == [("x", "boston"), ("x", "denver"), ("y", "monday")]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 10.0, 1e3, 1e6]))
def test_spans_are_legal_ordered_and_apart_whatever_the_logits(seed, scale):
    generator = np.random.default_rng(seed)
    text = "a bb c dd e"
    logits = (generator.normal(0, 1, (1, 7, 5)) * scale).astype(np.float32)
    spans = decoder(value_punctuation="")({"slots.logits": logits}, [Item(text, encode_words(text))])[0].spans
    assert all(before.end <= after.start for before, after in itertools.pairwise(spans))
    for span in spans:
        assert span.name in ("x", "y")
        assert span.value == text[span.start : span.end]
        assert 0.0 <= span.confidence <= 1.0


def test_span_confidence_against_enumeration():
    """Sum over all legal tag sequences that hold exactly this span."""
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 2, (1, 6, 5)).astype(np.float32)
    text = "a b c d"
    spans = decoder()({"slots.logits": logits}, [Item(text, encode_words(text))])[0].spans
    assert spans
    total, mass = 0.0, dict.fromkeys(spans, 0.0)
    for path in itertools.product(range(5), repeat=4):
        if any(
            tag in (IX, IY) and before not in (tag, tag - 1) for before, tag in zip([OUT, *path], path, strict=False)
        ):
            continue
        weight = float(np.exp(sum(logits[0, 1 + t, tag] for t, tag in enumerate(path))))
        total += weight
        for span in spans:
            first, last = span.start // 2, (span.end - 1) // 2
            begin = TAGS.index("B-" + span.name)
            exact = path[first] == begin and all(tag == begin + 1 for tag in path[first + 1 : last + 1])
            mass[span] += weight * (exact and (last == 3 or path[last + 1] != begin + 1))
    for span, weight in mass.items():
        assert span.confidence == pytest.approx(weight / total, abs=1e-5)


def test_temperature_lowers_confidence_and_changes_no_span():
    warm = SequenceLabelDecoder(task().model_copy(update={"calibration": Calibration(temperature=4.0)}), {})
    item, logits = Item("from boston", encode_words("from boston")), {"slots.logits": peaked([OUT, BX])}
    hot, cold = warm(logits, [item])[0].spans[0], decoder()(logits, [item])[0].spans[0]
    assert (hot.start, hot.end) == (cold.start, cold.end)
    assert hot.confidence < cold.confidence


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [(None, [("x", "boston , denver")]), ("", [("x", "boston"), ("x", "denver")]), (",", [("x", "boston , denver")])],
)
def test_punctuation_that_no_training_value_holds_ends_a_span(allowed, expected):
    text, logits = "boston , denver", peaked([BX, IX, IX])
    logits[0, 3, BX] = 5.0  # the next best tag of "denver"
    spans = decoder(value_punctuation=allowed)({"slots.logits": logits}, [Item(text, encode_words(text))])[0].spans
    assert found(spans) == expected


@pytest.mark.parametrize("mark", [",", "，", "?", "…", "€", "»"])
def test_punctuation_of_any_script_is_recognized(mark):
    assert is_punctuation(mark)
    assert found(decode(f"boston {mark}", [BX, IX], value_punctuation="'")) == [("x", "boston")]


def test_a_piece_with_letters_is_no_punctuation():
    assert found(decode("st. louis", [BX, IX], value_punctuation="")) == [("x", "st. louis")]


def test_no_pieces_no_spans():
    logits = {"slots.logits": np.ones((2, 4, 5), np.float32)}
    answers = decoder()(logits, [Item("\u200b", EMPTY), Item("boston", encode_words("boston"))])
    assert answers[0].spans == ()
    assert decoder()(logits, [Item("\u200b", EMPTY)])[0].spans == ()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_row_of_a_batch_equals_the_row_alone(seed, sizes):
    generator = np.random.default_rng(seed)
    texts = [" ".join("abcdefghi"[:size]) for size in sizes]
    logits = generator.normal(0, 4, (len(sizes) + 1, 14, 5)).astype(np.float32)  # a row and tokens of padding
    items = [Item(text, encode_words(text)) for text in texts]
    together = decoder(value_punctuation="")({"slots.logits": logits}, items)
    for row, item in enumerate(items):
        size = len(item.encoding)
        alone = decoder(value_punctuation="")({"slots.logits": logits[row : row + 1, :size]}, [item])[0]
        assert [(s.name, s.value) for s in together[row].spans] == [(s.name, s.value) for s in alone.spans]
        for one, other in zip(together[row].spans, alone.spans, strict=True):
            assert one.confidence == pytest.approx(other.confidence, abs=1e-6)


def word_pieces():
    """A BERT tokenizer that knows little, so that texts become [UNK], characters and pieces."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##a", "b", "##b", ",", "'", "京", "北", "é", "e", "ש", "ם"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return TextTokenizer(tokenizer.to_str(), 64)


def byte_pieces():
    """A byte-level tokenizer: a character may be several pieces, each with the whole character's offsets."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TextTokenizer(tokenizer.to_str(), 64)


TOKENIZERS = {"word pieces": word_pieces(), "byte level": byte_pieces()}
SCRIPTS = [
    *(
        "a",
        "b a",
        "👩‍👩‍👧",
        "👍🏽",
        "é",
        "e\u0301",
        "n\u0303\u0303",
        "北京",
        "שלום",
        "مرحبا",
        "हिन्दी",
        "🇩🇪",
        "ﬁ",
        "İ",
        "ß",
    ),
    *(" ", "\t", "\u00a0", "\u200d", ",", "'"),
]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=80, deadline=None)
@given(parts=st.lists(st.sampled_from(SCRIPTS) | st.text(max_size=4), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_value_is_the_text_between_the_offsets(name, parts, seed):
    text = "".join(parts)
    encoding = TOKENIZERS[name].encode(text)
    logits = np.random.default_rng(seed).normal(0, 5, (1, len(encoding) + 1, 5)).astype(np.float32)
    for punctuation in (None, "'"):
        spans = decoder(value_punctuation=punctuation)({"slots.logits": logits}, [Item(text, encoding)])[0].spans
        for span in spans:
            assert span.value == text[span.start : span.end]
            assert span.value
            assert span.value == span.value.strip()
        assert all(before.end <= after.start for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ("text", "start", "end", "expected"),
    [
        (" boston ", 0, 8, "boston"),
        ("cafe\u0301 x", 0, 4, "cafe\u0301"),
        ("👍\ufe0f!", 0, 1, "👍\ufe0f"),
        ("   ", 0, 3, ""),
        ("नमस्ते", 0, 1, "न"),
        ("नि", 0, 1, "नि"),
    ],
)
def test_trim(text, start, end, expected):
    first, last = trim(text, start, end)
    assert text[first:last] == expected


def test_a_missing_array_is_named():
    names = {"start": "s", "transitions": "t", "end": "e"}
    with pytest.raises(BundleError, match=r"task 'slots': decode\.npz lacks the array 's'"):
        make_decoder("slots", task(crf=True, arrays=names), {})


def test_an_unknown_kind_is_named():
    with pytest.raises(BundleError, match="task 'm' is of kind 'masked_lm', which this version cannot decode"):
        DecoderTable.of({"m": TaskInfo(kind="masked_lm", outputs=())}, {})


ROLE_LABELS = ("city", "city (role from)", "city (role to)", "city (role to, group 1)")
ROLE_TAGS = ("O", *(f"{prefix}-{label}" for label in ROLE_LABELS for prefix in "BI"))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 10.0, 100.0]), st.booleans())
def test_spans_with_roles_keep_one_type_whatever_the_logits(seed, scale, crf):
    """The BIO rules tell types apart by name, role and group: no span changes its role on the way."""
    generator = np.random.default_rng(seed)
    size = len(ROLE_TAGS)
    arrays = {name: name for name in ("start", "transitions", "end")} if crf else {}
    types = {label: parse_span_label(label) for label in ROLE_LABELS}
    rules = Decode(scheme="BIO", crf=crf, arrays=arrays, span_types=types)
    info = TaskInfo(kind="sequence_label", outputs=("slots.logits",), labels=ROLE_TAGS, decode=rules)
    learned = generator.normal(0, 3, (size + 2, size)).astype(np.float32)
    scores = {"transitions": learned[2:], "start": learned[0], "end": learned[1]}
    logits = (generator.normal(0, 1, (1, 8, size)) * scale).astype(np.float32)
    text = "a bb c dd e f"
    answerer = SequenceLabelDecoder(info, scores)
    [answer] = answerer({"slots.logits": logits}, [Item(text, encode_words(text))])
    potentials = Potentials.constrained(ROLE_TAGS, Potentials(learned[0], learned[2:], learned[1]) if crf else None)
    [path] = Viterbi(potentials)(logits[:, 1:-1], np.array([6]))
    tags = [ROLE_TAGS[i] for i in path]
    assert [tag[2:] for tag in tags if tag.startswith("B-")] == [
        span_label(span.name, span.role, span.group) for span in answer.spans
    ]
    for before, tag in itertools.pairwise(["O", *tags]):
        assert not tag.startswith("I-") or before[2:] == tag[2:]
    assert answer.has_roles
    assert all(span.name == "city" for span in answer.spans)
    assert label_names(info) == ("city",)


def test_tasks_without_roles_answer_none():
    [answer] = decoder()({"slots.logits": peaked([BX])}, [Item("boston", encode_words("boston"))])
    assert not answer.has_roles
    assert [(span.role, span.group) for span in answer.spans] == [("", "")]
