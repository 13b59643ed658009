"""Windows of a passage and the question before them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from palm_serve.tokenization import TextTokenizer
from palm_serve.types import SPECIAL, Windows

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def letters(specials: tuple[str, str], max_length: int) -> TextTokenizer:
    """A piece a letter; `specials` are the templates of one text and of two."""
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
    frame=st.sampled_from([BERT, ROBERTA, XLNET]),
)
def test_windows_cover_every_token_with_context(question, passage, max_length, max_query, stride, frame):
    tokenizer = letters(frame, max_length)
    [rows] = tokenizer.encode_windows([(question, passage)], Windows(max_query, stride))
    asked, pieces = question.split(), passage.split()
    room = max_length - sum(s == SPECIAL for s in rows[0].segments)
    kept = asked[: min(max_query, room - 1)]  # a piece of the passage always fits
    room -= len(kept)
    step = min(stride, room)
    best = [-1] * len(pieces)
    for number, row in enumerate(rows):
        assert len(row) <= max_length
        assert (row.truncated, row.seen) == (
            len(kept) < len(asked),
            len(" ".join(kept)) if len(kept) < len(asked) else len(question),
        )
        assert [question[a:b] for (a, b), s in zip(row.offsets, row.segments, strict=True) if s == 0] == kept
        inside = [(a // 2) for (a, _), s in zip(row.offsets, row.segments, strict=True) if s == 1]
        assert inside == list(range(number * step, min(number * step + room, len(pieces))))
        for i in inside:
            # pieces to the nearer edge of the window; the passage's own edges take nothing away
            left = i - inside[0] if inside[0] else room
            right = inside[-1] - i if inside[-1] < len(pieces) - 1 else room
            best[i] = max(best[i], min(left, right))
    assert all(context >= (room - step) // 2 for context in best)
    if len(rows) > 1:
        assert rows[-2].offsets != rows[-1].offsets
        assert len(pieces) > (len(rows) - 2) * step + room  # no window more than needed


@given(question=texts.filter(bool), passage=texts.filter(bool), frame=st.sampled_from([BERT, ROBERTA, XLNET]))
def test_short_passage_is_read_as_a_pair(question, passage, frame):
    tokenizer = letters(frame, 200)
    assert tokenizer.encode_rows([(question, passage)], Windows(100, 9)) == [(tokenizer.encode(question, passage),)]


def test_windows_of_many_passages_stay_separate():
    tokenizer = letters(BERT, 12)
    pairs = [("a b", "c " * 40), ("d", "e"), ("f", "")]
    together = tokenizer.encode_rows(pairs, Windows(4, 4))
    assert together == [tokenizer.encode_rows([pair], Windows(4, 4))[0] for pair in pairs]
    assert [len(rows) for rows in together] == [10, 1, 1]


@pytest.mark.parametrize("pair", [None, "b c"])
def test_input_without_windows_is_one_row(pair):
    tokenizer = letters(BERT, 12)
    assert tokenizer.encode_rows([("a", pair)]) == [(tokenizer.encode("a", pair),)]
