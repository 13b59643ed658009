"""A tiny encoder of every family, with a tokenizer of the family's own kind, in the directory that transformers saves."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import (
    AlbertTokenizer,
    AutoConfig,
    AutoModel,
    BertTokenizer,
    DebertaV2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
    XLNetTokenizer,
)
from transformers.utils import logging

from palm_trainer.tokenization.learned import train_tokenizer

MAX_LENGTH = 32
CORPUS = [
    f"{verb} {place} {day}"
    for verb in ("fly to", "what is the weather in", "list hotels in", "where is anna ? she lives in", "about")
    for place in ("boston", "new york", "St. Louis", "Denver", "北京", "São Paulo", "o'clock 🙂", "boats and cakes")
    for day in ("", "on monday, please", "and bob lives in rome", "all on trains")
]


def word_piece() -> PreTrainedTokenizerBase:
    """BERT's, also of ERNIE, DistilBERT and ELECTRA."""
    return BertTokenizer(vocab=train_tokenizer(CORPUS, vocab_size=160, lowercase=True, characters=False).get_vocab())


def byte_level() -> PreTrainedTokenizerBase:
    """RoBERTa's: pieces of bytes, the blank before a word is its first byte, no blank before the text."""
    learned = Tokenizer(BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    learned.train_from_iterator(CORPUS, trainer)
    model = json.loads(learned.to_str())["model"]
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def modern() -> PreTrainedTokenizerBase:
    """ModernBERT's: pieces of bytes whose offsets keep the blank, BERT's special tokens, no types."""
    learned = Tokenizer(BPE())
    learned.normalizer = normalizers.NFC()
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    learned.train_from_iterator(
        CORPUS, BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    learned.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:0 [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = dict(zip(("unk_token", "cls_token", "sep_token", "pad_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=learned, **names)


def unigram(kind: type[PreTrainedTokenizerBase], special: list[str], unk: str) -> PreTrainedTokenizerBase:
    """SentencePiece's: ALBERT, DeBERTa-v2, XLM-R and XLNet, each with its own frame of special tokens."""
    learned = Tokenizer(Unigram())
    learned.normalizer = normalizers.NFKC()
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = UnigramTrainer(vocab_size=160, special_tokens=special, unk_token=unk, show_progress=False)
    learned.train_from_iterator(CORPUS, trainer)
    pieces = [(piece, score) for piece, score in json.loads(learned.to_str())["model"]["vocab"]]
    tokenizer = kind(vocab=pieces)
    # The real ones normalize by a table inside the SentencePiece file, which for the most part is NFKC: lengths change.
    own = tokenizer.backend_tokenizer.normalizer
    steps = [normalizers.NFKC()] if own is None else [own, normalizers.NFKC()]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "wordpiece": word_piece,
    "byte-level": byte_level,
    "modern": modern,
    "albert": lambda: unigram(AlbertTokenizer, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], "<unk>"),
    "deberta": lambda: unigram(DebertaV2Tokenizer, ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], "[UNK]"),
    "xlm-r": lambda: unigram(XLMRobertaTokenizer, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<unk>"),
    "xlnet": lambda: unigram(
        XLNetTokenizer, ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"], "<unk>"
    ),
}
"""What splits text, by kind."""


@dataclass(frozen=True)
class Family:
    """How to build a tiny encoder: `model_type` of transformers, its tokenizer, and what its configuration says differently."""

    model_type: str
    tokenizer: str
    settings: dict[str, Any]


_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": MAX_LENGTH,
    "initializer_range": 0.3,  # so large that attention tells the pieces apart
}
_ROBERTA = {**_BERT, "max_position_embeddings": MAX_LENGTH + 2, "type_vocab_size": 1}  # positions begin behind pad's
FAMILIES = {
    "bert": Family("bert", "wordpiece", _BERT),
    "ernie": Family("ernie", "wordpiece", {**_BERT, "use_task_id": True, "task_type_vocab_size": 3}),
    "roberta": Family("roberta", "byte-level", _ROBERTA),
    "xlnet": Family(
        "xlnet", "xlnet", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "initializer_range": 0.3}
    ),
    "albert": Family("albert", "albert", {**_BERT, "embedding_size": 8}),
    "distilbert": Family(
        "distilbert",
        "wordpiece",
        {
            "dim": 16,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 32,
            "max_position_embeddings": MAX_LENGTH,
            "initializer_range": 0.3,
        },
    ),
    "electra": Family("electra", "wordpiece", {**_BERT, "embedding_size": 8}),
    "deberta-v2": Family(
        "deberta-v2",
        "deberta",
        {
            **_BERT,
            "type_vocab_size": 0,
            "relative_attention": True,
            "max_relative_positions": -1,
            "pos_att_type": ["p2c", "c2p"],
            "conv_kernel_size": 3,
            "conv_act": "gelu",
        },
    ),
    "deberta-v3": Family(
        "deberta-v2",
        "deberta",
        {
            **_BERT,
            "type_vocab_size": 0,
            "relative_attention": True,
            "max_relative_positions": -1,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
        },
    ),
    "xlm-roberta": Family("xlm-roberta", "xlm-r", _ROBERTA),
    "modernbert": Family(
        "modernbert",
        "modern",
        {**_BERT, "num_hidden_layers": 3, "local_attention": 8, "global_attn_every_n_layers": 2},
    ),
}


def build(family: Family, tokenizer: PreTrainedTokenizerBase) -> torch.nn.Module:
    """The encoder with random weights; everything that a family sets to zero at first (ERNIE's task embedding, biases) is not."""
    ids = {"pad_token_id": tokenizer.pad_token_id, "cls_token_id": tokenizer.cls_token_id}
    ids |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(family.model_type, vocab_size=len(tokenizer), **{**ids, **family.settings})
    torch.manual_seed(7)
    encoder = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return encoder


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[[str], PreTrainedTokenizerBase]:
    """`tokenizer_of("byte-level")`: one of TOKENIZERS, built once."""
    built: dict[str, PreTrainedTokenizerBase] = {}

    def _of(kind: str) -> PreTrainedTokenizerBase:
        if kind not in built:
            built[kind] = TOKENIZERS[kind]()
        return built[kind]

    return _of


@pytest.fixture(scope="session")
def directory_of(tmp_path_factory, tokenizer_of) -> Callable[[str], Path]:
    """`directory_of("xlnet")`: a directory with encoder and tokenizer, as `save_pretrained` leaves it; never written to."""
    saved: dict[str, Path] = {}

    def _of(name: str) -> Path:
        if name not in saved:
            family = FAMILIES[name]
            tokenizer = tokenizer_of(family.tokenizer)
            saved[name] = tmp_path_factory.mktemp(name)
            logging.set_verbosity_error()
            build(family, tokenizer).save_pretrained(saved[name])
            tokenizer.save_pretrained(saved[name])
        return saved[name]

    return _of
