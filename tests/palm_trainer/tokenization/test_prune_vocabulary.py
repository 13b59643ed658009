"""Vocabularies that are cut to the pieces of some texts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram
from tokenizers.processors import BertProcessing, TemplateProcessing

from palm_trainer.errors import ConfigError
from palm_trainer.tokenization.learned import train_tokenizer
from palm_trainer.tokenization.prune_vocabulary import count_changed, prune_vocabulary

CORPUS = [f"{verb} {place} {day}" for verb in ("fly", "list") for place in ("Boston", "北京", "denver") for day in "ab"]
WORDPIECE = train_tokenizer(CORPUS, vocab_size=160, lowercase=True, characters=False).to_str()


def unigram() -> str:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁fly", "▁list", "▁bo", "ston", "s", "t", "o", "n", "▁denver"]
    tokenizer = Tokenizer(Unigram([(piece, -float(number)) for number, piece in enumerate(pieces)], unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer.to_str()


def ids_and_tokens(tokenizer_json: str, text: str) -> list[str]:
    """Tokens of a text, each read back from its id."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    encoding = tokenizer.encode(text)
    assert [tokenizer.id_to_token(index) for index in encoding.ids] == encoding.tokens
    return encoding.tokens


@pytest.mark.parametrize("tokenizer_json", [WORDPIECE, unigram()], ids=["wordpiece", "unigram"])
def test_texts_are_divided_as_before(tokenizer_json):
    texts = ["fly boston"]
    cut = prune_vocabulary(tokenizer_json, texts)
    assert ids_and_tokens(cut.tokenizer_json, "fly boston") == ids_and_tokens(tokenizer_json, "fly boston")
    kept = Tokenizer.from_str(cut.tokenizer_json).get_vocab()
    before = Tokenizer.from_str(tokenizer_json)
    assert len(kept) == len(cut.old_ids) < before.get_vocab_size()
    assert sorted(kept.values()) == list(range(len(kept)))
    for piece, index in kept.items():
        assert before.token_to_id(piece) == cut.old_ids[index]
    assert not any("denver" in piece for piece in kept)
    assert cut == prune_vocabulary(tokenizer_json, reversed(texts))
    assert count_changed(tokenizer_json, cut.tokenizer_json, [*texts, "list denver"]) == 1


@given(st.lists(st.sampled_from(CORPUS), max_size=4), st.sampled_from(CORPUS))
def test_reachable_texts_never_change(kept_texts, text):
    cut = prune_vocabulary(WORDPIECE, [*kept_texts, text])
    assert count_changed(WORDPIECE, cut.tokenizer_json, [text]) == 0


def test_special_pieces_and_single_characters_stay():
    cut = prune_vocabulary(WORDPIECE, [])
    kept = Tokenizer.from_str(cut.tokenizer_json).get_vocab()
    assert {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"} <= kept.keys()
    assert {piece for piece in kept if not piece.startswith("[")} == {
        piece for piece in Tokenizer.from_str(WORDPIECE).get_vocab() if len(piece.removeprefix("##")) == 1
    }
    assert ids_and_tokens(cut.tokenizer_json, "fly")[0] == "[CLS]"


def test_ids_of_other_processors_and_of_padding_are_changed():
    tokenizer = Tokenizer.from_str(WORDPIECE)
    ids = tokenizer.get_vocab()
    tokenizer.post_processor = BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.enable_padding(pad_id=ids["[PAD]"])
    settings = json.loads(tokenizer.to_str())
    first, *others = sorted(settings["model"]["vocab"], key=settings["model"]["vocab"].__getitem__)
    assert first == "[PAD]"
    moved = [
        *[piece for piece in others if not piece.startswith("[")],
        *[p for p in others if p.startswith("[")],
        first,
    ]
    new = {piece: index for index, piece in enumerate(moved)}
    settings["model"]["vocab"] = new
    settings["padding"]["pad_id"] = new["[PAD]"]
    settings["post_processor"] |= {"sep": ["[SEP]", new["[SEP]"]], "cls": ["[CLS]", new["[CLS]"]]}
    for token in settings["added_tokens"]:
        token["id"] = new[token["content"]]
    cut = prune_vocabulary(json.dumps(settings), ["fly"])
    assert ids_and_tokens(cut.tokenizer_json, "fly")[0] == "[CLS]"
    kept = Tokenizer.from_str(cut.tokenizer_json)
    assert kept.padding["pad_id"] == kept.token_to_id("[PAD]") < new["[PAD]"]


def test_other_models_are_refused():
    tokenizer = Tokenizer(BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])).to_str()
    with pytest.raises(
        ConfigError, match=r"needs a tokenizer with WordPiece or Unigram pieces, got BPE\. Leave it out"
    ):
        prune_vocabulary(tokenizer, ["ab"])


def test_special_piece_outside_the_vocabulary_is_refused():
    settings = json.loads(WORDPIECE)
    settings["added_tokens"].append({**settings["added_tokens"][0], "id": 160, "content": "[TURN]"})
    with pytest.raises(ConfigError, match=r"got '\[TURN\]', which is not. To cut it would drop a special piece."):
        prune_vocabulary(json.dumps(settings), ["fly"])
