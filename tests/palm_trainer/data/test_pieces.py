"""What a tokenizer makes of texts in the script of its vocabulary and in others."""

import pytest

from palm_trainer.data.example import Example
from palm_trainer.data.pieces import count_pieces
from palm_trainer.tokenization.encoder_files import locate_encoder
from palm_trainer.tokenization.learned import train_tokenizer


@pytest.fixture(scope="module")
def english() -> str:
    with open(f"{locate_encoder('minilm-l6-en')}/tokenizer.json", encoding="utf-8") as file:
        return file.read()


def test_count_pieces_row_lengths_include_special_tokens(english):
    counts = count_pieces([Example("wake me"), Example("wake me", pair="at six")], english)
    assert counts.lengths == (4, 7)
    assert (counts.pieces, counts.unknown, counts.unknown_share) == (6, 0, 0.0)
    assert counts.cut_rows(6) == [1]
    assert counts.cut_rows(7) == []


def test_count_pieces_ignores_truncation_of_tokenizer(english):
    assert count_pieces([Example("six " * 900)], english).lengths == (902,)


def test_count_pieces_names_rows_with_unknown_pieces(english):
    counts = count_pieces([Example("one"), Example("อยากกินข้าว"), Example("two 🦩 six")], english)
    assert counts.unknown_rows == (1, 2)
    assert (counts.pieces, counts.unknown) == (5, 2)
    assert counts.unknown_share == 0.4


@pytest.mark.parametrize(
    ("text", "unread"),
    [
        ("show me flights to denver", (0.0, 0.0)),
        ("einen Flug nach München buchen, bitte", (0.0, 0.1)),
        ("part no. QX-12345678/123456-ZK123 rev.3.14", (0.0, 0.0)),
        ("Tôi muốn đặt vé máy bay đến Hà Nội", (0.0, 0.1)),
        ("привет мир как дела", (1.0, 1.0)),
        ("שלום עולם מה שלומך", (1.0, 1.0)),
        ("مرحبا بالعالم كيف حالك", (1.0, 1.0)),
        ("γειά σου κόσμε", (0.6, 0.8)),
        ("नमस्ते दुनिया कैसे हो", (0.8, 1.0)),
        ("ฉันอยากกินข้าวผัด", (1.0, 1.0)),
        ("안녕하세요 세계", (1.0, 1.0)),
        ("order ข้าวผัดกะเพราไก่ now", (0.5, 0.8)),
    ],
)
def test_count_pieces_unread_share_follows_script(text, unread, english):
    low, high = unread
    assert low <= count_pieces([Example(text)], english).unread_share <= high


def test_count_pieces_characters_as_words_are_read():
    text = "ฉันอยากกินข้าวผัด"
    tokenizer = train_tokenizer([text], vocab_size=200, lowercase=False, characters=True).to_str()
    counts = count_pieces([Example(text)], tokenizer)
    assert (counts.unknown, counts.unread_share) == (0, 0.0)
    assert counts.lengths == (len(text) + 2,)
