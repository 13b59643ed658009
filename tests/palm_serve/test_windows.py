"""Rows of an input: windows of a passage, what they cover and the question before each, and the context of a text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from palm_serve.tokenization import TextTokenizer
from palm_serve.types import SPECIAL, InputTexts, RowLayout, Windows

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def letters(specials: tuple[str, str], max_length: int) -> TextTokenizer:
    """Make a tokenizer of one token a letter. `specials` are the templates of one text and of two."""
    names = ["[PAD]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate([*names, *LETTERS])}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=specials[0], pair=specials[1], special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return TextTokenizer(tokenizer.to_str(), max_length)


BERT = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
ROBERTA = ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]")
XLNET = ("$A [SEP] [CLS]:2", "$A [SEP] $B:1 [SEP]:1 [CLS]:2")

texts = st.lists(st.sampled_from(LETTERS), max_size=60).map(" ".join)


@example("a a a a a a a a", "", 12, 8, 1, ROBERTA)
@given(
    question=texts,
    passage=texts,
    max_length=st.integers(12, 30),
    max_query=st.integers(1, 8),
    stride=st.integers(1, 40),
    template=st.sampled_from([BERT, ROBERTA, XLNET]),
)
def test_windows_cover_every_token_with_context(question, passage, max_length, max_query, stride, template):
    tokenizer = letters(template, max_length)
    [rows] = tokenizer.encode_windows([(question, passage)], Windows(max_query, stride))
    question_tokens, pieces = question.split(), passage.split()
    room = max_length - sum(s == SPECIAL for s in rows[0].segments)
    read_tokens = question_tokens[: min(max_query, room - 1)]  # a piece of the passage always fits
    room -= len(read_tokens)
    step = min(stride, room)
    best = [-1] * len(pieces)
    for number, row in enumerate(rows):
        assert len(row) <= max_length
        assert (row.truncated, row.seen) == (
            len(read_tokens) < len(question_tokens),
            len(" ".join(read_tokens)) if len(read_tokens) < len(question_tokens) else len(question),
        )
        assert [question[a:b] for (a, b), s in zip(row.offsets, row.segments, strict=True) if s == 0] == read_tokens
        inside = [(a // 2) for (a, _), s in zip(row.offsets, row.segments, strict=True) if s == 1]
        assert inside == list(range(number * step, min(number * step + room, len(pieces))))
        for i in inside:
            # pieces to the nearer edge of the window; the passage's own edges take nothing away
            before = i - inside[0] if inside[0] else room
            after = inside[-1] - i if inside[-1] < len(pieces) - 1 else room
            best[i] = max(best[i], min(before, after))
    assert all(context >= (room - step) // 2 for context in best)
    if len(rows) > 1:
        assert rows[-2].offsets != rows[-1].offsets
        assert len(pieces) > (len(rows) - 2) * step + room  # no window more than needed


@given(question=texts.filter(bool), passage=texts.filter(bool), template=st.sampled_from([BERT, ROBERTA, XLNET]))
def test_short_passage_is_encoded_like_any_pair(question, passage, template):
    tokenizer = letters(template, 200)
    assert tokenizer.encode_rows([InputTexts(question, passage)], RowLayout(Windows(100, 9))) == [
        (tokenizer.encode(question, passage),)
    ]


def test_several_passages_keep_their_windows_apart():
    tokenizer = letters(BERT, 12)
    pairs = [InputTexts("a b", "c " * 40), InputTexts("d", "e"), InputTexts("f", "")]
    together = tokenizer.encode_rows(pairs, RowLayout(Windows(4, 4)))
    assert together == [tokenizer.encode_rows([pair], RowLayout(Windows(4, 4)))[0] for pair in pairs]
    assert [len(rows) for rows in together] == [10, 1, 1]


@pytest.mark.parametrize("pair", [None, "b c"])
def test_rows_without_windows_are_one_for_each_input(pair):
    tokenizer = letters(BERT, 12)
    assert tokenizer.encode_rows([InputTexts("a", pair)]) == [(tokenizer.encode("a", pair),)]


@given(
    text=texts.filter(bool),
    context=texts,
    max_length=st.integers(4, 30),
    template=st.sampled_from([BERT, ROBERTA, XLNET]),
)
def test_context_takes_the_room_that_the_text_leaves(text, context, max_length, template):
    tokenizer = letters(template, max_length)
    [(row,)] = tokenizer.encode_rows([InputTexts(text, None, context)])
    plain = tokenizer.encode(text)
    text_tokens = [token for token, segment in zip(row.input_ids, row.segments, strict=True) if segment == 0]
    context_tokens = [offsets for offsets, segment in zip(row.offsets, row.segments, strict=True) if segment == 1]
    assert len(row) <= max_length
    assert (row.truncated, row.seen) == (plain.truncated, plain.seen)
    assert text_tokens == [
        token for token, segment in zip(plain.input_ids, plain.segments, strict=True) if segment == 0
    ]
    assert [context[start:end] for start, end in context_tokens] == context.split()[: len(context_tokens)]
    if len(context_tokens) < len(context.split()):
        pair_specials = tokenizer.encode("a", "a").segments.count(SPECIAL)
        assert not context_tokens or len(row) == max_length
        assert context_tokens or len(text.split()) + pair_specials >= max_length
    elif context:
        assert row == tokenizer.encode(text, context)
    assert tokenizer.encode_rows([InputTexts(text, None, context)], RowLayout()) == [(plain,)]


def test_rows_keep_their_order():
    tokenizer = letters(BERT, 12)
    inputs = [
        InputTexts("a"),
        InputTexts("b", None, "c d"),
        InputTexts("e", "f", "ignored"),
        InputTexts("g", None, "h"),
    ]
    together = tokenizer.encode_rows(inputs)
    assert together == [tokenizer.encode_rows([texts])[0] for texts in inputs]
    assert together[2] == (tokenizer.encode("e", "f"),)
