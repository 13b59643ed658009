"""The scripts that a model reads, learnt from its training text and its vocabulary."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from palm_serve.types import TextRequest
from palm_trainer.data.example import Example
from palm_trainer.evaluation.scripts import VOCABULARY_IDEOGRAPHS, VOCABULARY_PIECES, with_scripts
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.tokenization.encoder_files import locate_encoder, read_tokenizer
from palm_trainer.tokenization.learned import train_tokenizer

ENGLISH = ["book a flight to Łódź", "play some jazz by Björk", "what's the weather in Paris"]
CHINESE = ["今天天气怎么样", "播放周杰伦的歌", "打开WiFi"]

TABLES = """
[data.garden]
format = "jsonl"
train = "train.jsonl"

[tasks.intent]
kind = "classify"
role = "intent"
data = ["garden"]
"""


@pytest.fixture(scope="module")
def trained(finished_run):
    return load_trained(finished_run)


def scripts_of(trained, tokenizer_json, texts):
    changed = with_scripts(replace(trained, tokenizer_json=tokenizer_json), "intent", list(map(Example, texts)))
    return changed.tasks["intent"].thresholds.scripts


def vocabulary(pieces):
    return Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(["[UNK]", *pieces])}, unk_token="[UNK]"))


def test_english_encoder_reads_latin_letters_alone(trained):
    tokenizer_json = read_tokenizer(Path(locate_encoder("minilm-l6-en")))
    assert scripts_of(trained, tokenizer_json, ENGLISH) == ("latin",)


def test_scripts_of_the_training_text_are_read(trained):
    tokenizer = train_tokenizer(CHINESE, vocab_size=100, lowercase=True, characters=True)
    assert scripts_of(trained, tokenizer.to_str(), CHINESE) == ("cjk", "latin")


def test_few_letters_of_a_script_in_the_training_text_are_chance(trained):
    tokenizer_json = read_tokenizer(Path(locate_encoder("minilm-l6-en")))
    assert scripts_of(trained, tokenizer_json, [*ENGLISH * 100, "call Ян"]) == ("latin",)


def test_scripts_of_the_vocabulary_are_read_without_training_text(trained):
    cyrillic = [f"слово{'аб'[i % 2]}{i}" for i in range(VOCABULARY_PIECES)]
    greek = [f"λόγος{i}" for i in range(VOCABULARY_PIECES - 1)]
    ideographs = map(chr, range(0x4E00, 0x4E00 + VOCABULARY_IDEOGRAPHS))
    tokenizer = vocabulary([*cyrillic, *greek, *ideographs, "play"])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert scripts_of(trained, tokenizer.to_str(), ["play"]) == ("cjk", "cyrillic", "latin")


def test_bytes_of_a_vocabulary_are_read_as_letters(trained):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = [f"{a}{b}{c}" for a in "бвгджзк" for b in "аеиоу" for c in "лмнпрст"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(words * 3, trainer)
    assert scripts_of(trained, tokenizer.to_str(), ["play"]) == ("cyrillic", "latin")


def test_no_check_where_it_would_refuse_training_text(trained):
    tokenizer = vocabulary(["play", "jazz"])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert scripts_of(trained, tokenizer.to_str(), ["play jazz", "xyzzy plugh"]) == ()


@pytest.mark.parametrize("dev", ["", 'dev = "train.jsonl"'])
def test_run_learns_and_serves_the_scripts_with_and_without_dev(kind, dev):
    rows = [
        {"text": text, "intent": name} for name in ("water", "mow") for text in (f"{name} the lawn", f"please {name}")
    ]
    kind.rows("train.jsonl", rows)
    kind.train(TABLES.replace("[tasks", f"{dev}\n[tasks", 1))
    saved = json.loads((kind.run / "best/model.json").read_text(encoding="utf-8"))
    assert saved["tasks"]["intent"]["thresholds"]["scripts"] == ["latin"]
    if dev:
        pipeline = kind.serve()
        unknown = [pipeline.predict([TextRequest(text, ())])[0].unknown_language for text in ("水をやる", "mow")]
        assert unknown == [True, False]
