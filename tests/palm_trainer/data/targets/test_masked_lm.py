"""What is masked: how much, how, and always the same for the same seed, epoch and example."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from palm_serve.tokenization import TextTokenizer
from palm_serve.types import SPECIAL
from palm_trainer.data.example import Example
from palm_trainer.data.targets.masked_lm import MaskedLMTarget, MaskVocabulary
from palm_trainer.errors import ConfigError
from palm_trainer.tensors import IGNORE
from palm_trainer.tokenization.learned import train_tokenizer

WORDS = ("alpha", "beta", "gamma", "delta,", "e-mail", "北京", "42nd", "undo", "redo")


@cache
def tokenizer_json() -> str:
    # no room for more than characters: every word has several pieces
    return train_tokenizer(WORDS, vocab_size=5, lowercase=True, characters=False).to_str()


def tokenizer() -> TextTokenizer:
    return TextTokenizer(tokenizer_json(), 512)


def target(**options) -> MaskedLMTarget:
    return MaskedLMTarget("words", MaskVocabulary.of("words", tokenizer_json()), **options)


def drawn(text: str, epoch: int = 0, feature: int = 0, **options):
    task, row = target(**options), tokenizer().encode(text)
    units = task.encode(Example(text), row)
    return row, units, *task.draw(row, units, epoch, feature)


def test_shares_are_those_of_bert():
    """15 % chosen; of these 80 % the mask, 10 % another piece, 10 % as they were. Bounds are over 5 standard deviations wide."""
    text = " ".join(WORDS * 8)
    chosen = masked = kept = total = 0
    mask = MaskVocabulary.of("words", tokenizer_json()).mask
    for feature in range(300):
        row, _, seen, targets = drawn(text, feature=feature)
        total += sum(segment != SPECIAL for segment in row.segments)
        for before, after, wanted in zip(row.input_ids, seen.input_ids, targets, strict=True):
            if wanted == IGNORE:
                assert before == after
                continue
            assert wanted == before
            chosen += 1
            masked += after == mask
            kept += after == before
    assert chosen / total == pytest.approx(0.15, abs=0.005)
    assert masked / chosen == pytest.approx(0.8, abs=0.03)
    assert kept / chosen == pytest.approx(0.1, abs=0.03)  # and now and then the random piece is the same one


texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join)


@given(
    text=texts, epoch=st.integers(0, 9), feature=st.integers(0, 9), whole_word=st.booleans(), share=st.floats(0.05, 0.9)
)
def test_masking_is_a_pure_function_and_spares_special_tokens(text, epoch, feature, whole_word, share):
    options = {"whole_word": whole_word, "share": share, "seed": 5}
    row, units, seen, targets = drawn(text, epoch, feature, **options)
    assert drawn(text, epoch, feature, **options)[2:] == (seen, targets)
    chosen = {i for i, wanted in enumerate(targets) if wanted != IGNORE}
    assert chosen
    assert all(row.segments[i] != SPECIAL for i in chosen)
    assert all(set(unit) <= chosen or not set(unit) & chosen for unit in units)
    ordinary = set(MaskVocabulary.of("words", tokenizer_json()).ordinary.tolist())
    mask = MaskVocabulary.of("words", tokenizer_json()).mask
    assert all(seen.input_ids[i] in ordinary | {mask, row.input_ids[i]} for i in chosen)
    assert len(chosen) <= max(round(share * sum(map(len, units))), max(map(len, units)))
    assert (seen.offsets, seen.segments, seen.type_ids) == (row.offsets, row.segments, row.type_ids)


def test_every_epoch_and_example_is_masked_anew():
    text = " ".join(WORDS * 4)
    seen = {tuple(drawn(text, epoch, feature)[3]) for epoch in range(5) for feature in range(5)}
    assert len(seen) == 25
    assert drawn(text, seed=1)[3] != drawn(text, seed=2)[3]


def test_whole_words():
    text = "undo e-mail 北京 42nd redo,"
    row, units, *_ = drawn(text, whole_word=True)
    words = [text[row.offsets[unit[0]][0] : row.offsets[unit[-1]][1]] for unit in units]
    assert words == ["undo", "e", "-", "mail", "北", "京", "42nd", "redo", ","]
    _, pieces, *_ = drawn(text)
    assert len(pieces) > len(units)


def test_a_pair_is_masked_on_both_sides_and_no_word_spans_them():
    task = target(whole_word=True, share=0.5)
    row = tokenizer().encode("undo", "redo")
    units = task.encode(Example("undo", pair="redo"), row)
    assert [{row.segments[i] for i in unit} for unit in units] == [{0}, {1}]


def test_a_text_without_pieces_has_nothing_to_guess():
    row, units, seen, targets = drawn("\x01")
    assert (units, seen) == ([], row)
    assert set(targets) == {IGNORE}


def test_random_pieces_are_ordinary():
    ordinary = MaskVocabulary.of("words", tokenizer_json()).ordinary
    assert ordinary.min() >= 5  # behind [PAD] [UNK] [CLS] [SEP] [MASK]
    assert len(np.unique(ordinary)) == len(ordinary) == Tokenizer.from_str(tokenizer_json()).get_vocab_size() - 5


def test_a_tokenizer_without_mask_is_refused():
    bare = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).to_str()
    with pytest.raises(
        ConfigError, match=r"tasks.words: the encoder's tokenizer has no mask token \(\[MASK\] or <mask>\)"
    ):
        MaskVocabulary.of("words", bare)


@cache
def byte_level() -> TextTokenizer:
    """RoBERTa's way, with no merges: a piece is a byte, and the blank before a word is the word's first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", "<mask>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return TextTokenizer(tokenizer.to_str(), 512)


def words_of(tokenizer: TextTokenizer, text: str) -> list[str]:
    """What is masked together, as text; what has no place of its own (a blank's piece) left out."""
    row = tokenizer.encode(text)
    units = target(whole_word=True).encode(Example(text), row)
    found = [text[row.offsets[unit[0]][0] : row.offsets[unit[-1]][1]] for unit in units]
    return [word for word in found if word]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the naïve cat", ["the", "naïve", "cat"]),
        ("don't e-mail 42nd", ["don", "'", "t", "e", "-", "mail", "42nd"]),
        ("北京 is big", ["北", "京", "is", "big"]),
        ("cafe\u0301 नमस्ते x", ["cafe\u0301", "नमस्ते", "x"]),
    ],
)
def test_words_of_bytes(text, words):
    """Bytes of one character, and characters of one word, are masked together; Chinese characters are words by themselves."""
    assert words_of(byte_level(), text) == words


@pytest.mark.parametrize("characters", [False, True])
def test_words_of_wordpiece(characters):
    pieces = train_tokenizer(["the cats sat 北京 undoing"], vocab_size=5, lowercase=True, characters=characters)
    assert words_of(TextTokenizer(pieces.to_str(), 512), "the cats sat, 北京") == [
        "the",
        "cats",
        "sat",
        ",",
        "北",
        "京",
    ]
