"""Texts that a model cannot read: what counts as such, and what callers are told."""

import json
import subprocess
import sys

import grpc
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from palm_serve.client import Client
from palm_serve.oip import inference_pb2 as oip
from palm_serve.oip import inference_pb2_grpc as oip_grpc
from palm_serve.tokenization import TextTokenizer, find_unknown_id
from palm_serve.tokenization.scripts import is_unknown_language, script_of
from palm_serve.v1 import palm_pb2 as pb

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# A vocabulary as the English one of BERT: letters of every alphabet alone, words of English, some ideographs.
PIECES = ("[PAD]", "[UNK]", "call", "my", "play", "jazz", *LETTERS, *"абвгдежзиклмнопрстуыья", *"天今中国")
CONTINUED = (f"##{letter}" for letter in (*LETTERS, *"абвгдежзиклмнопрстуыья"))


@pytest.fixture(scope="module")
def english() -> TextTokenizer:
    vocabulary = {piece: number for number, piece in enumerate((*PIECES, *CONTINUED))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return TextTokenizer(tokenizer.to_str(), 64)


def unread(tokenizer: TextTokenizer, text: str, *scripts: str) -> bool:
    return is_unknown_language(text, tokenizer.encode(text), tokenizer.unknown_id, scripts)


def test_script_of_is_the_first_word_of_the_unicode_name():
    scripts = [script_of(letter) for letter in "aÉßｐ𝐩жΩ天㐀あ한ع"]
    assert scripts == [*["latin"] * 5, "cyrillic", "greek", "cjk", "cjk", "hiragana", "hangul", "arabic"]
    assert [script_of(character) for character in "7 .👍_٣"] == [""] * 6


@pytest.mark.parametrize(
    "text",
    [
        "今天天气怎么样",
        "天今中国",
        "включи музыку",
        "今天 12:30",
        "ｐｌａｙ",
        "👍👍",
        "!?",
        "αβγ δεζ",
        "call вася пупкин",
    ],
)
def test_text_that_the_model_cannot_read_is_unknown(english, text):
    assert unread(english, text, "latin")


@pytest.mark.parametrize(
    "text",
    [
        "call Владимир",
        "call 李明",
        "play Ænima by Björk",
        "paly jzaz plaese",
        "play jazz 🎉🎉🎉🎉🎉🎉",
        "😂😂 ok",
        "1234567",
        "7:30 👍",
        "",
        "asdf qwerty zxcv",
    ],
)
def test_text_with_names_typos_emoji_or_digits_is_read(english, text):
    assert not unread(english, text, "latin")


def test_letters_of_a_script_that_is_read_count_where_their_piece_is_known(english):
    assert not unread(english, "天今中国", "latin", "cjk")
    assert unread(english, "怎么样", "latin", "cjk")  # their pieces are unknown


def test_only_the_part_that_the_model_sees_counts():
    vocabulary = {"[UNK]": 0, "a": 1, "##a": 2}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    short = TextTokenizer(tokenizer.to_str(), 3)
    assert not unread(short, "a a a 天 天 天 天 天", "latin")
    assert unread(short, "天 天 天 a a a a a", "latin")


def test_find_unknown_id_reads_every_model():
    model = '{"version": "1.0", "added_tokens": [], "model": %s}'
    unigram = '{"type": "Unigram", "unk_id": 1, "vocab": [["a", 0.0], ["<unk>", -9.0]]}'
    byte_pairs = '{"type": "BPE", "unk_token": null, "vocab": {"a": 0}, "merges": []}'
    words = '{"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"a": 0, "[UNK]": 1}}'
    ids = [find_unknown_id(Tokenizer.from_str(model % part)) for part in (unigram, byte_pairs, words)]
    assert ids == [1, None, 1]


@pytest.fixture
def bundle(make_tiny_bundle, reseal_bundle, tmp_path):
    path = make_tiny_bundle(tmp_path / "tiny")
    tasks = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["tasks"]
    tasks["intent"]["thresholds"] |= {"scripts": ["latin"], "out_of_scope": -1.0}
    return reseal_bundle(path, tasks=tasks)


def infer_fallbacks(target: str, *texts: str) -> list[bytes]:
    """Ask through the Open Inference Protocol."""
    contents = oip.InferTensorContents(bytes_contents=[text.encode() for text in texts])
    tensor = oip.ModelInferRequest.InferInputTensor(
        name="text", datatype="BYTES", shape=[len(texts)], contents=contents
    )
    output = oip.ModelInferRequest.InferRequestedOutputTensor(name="intent.fallback")
    request = oip.ModelInferRequest(model_name="tiny", inputs=[tensor], outputs=[output])
    with grpc.insecure_channel(target) as channel:
        answer = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    return list(answer.outputs[0].contents.bytes_contents)


def test_server_tells_unknown_language_before_any_other_reason(bundle, start_server):
    target = start_server(bundle, "--port", "0").target()
    with Client(target) as palm:
        answers = [palm.parse(text) for text in ("北京 怎么样", "please play a song")]
        batch = palm.parse_batch(["play a song", "怎么样"])
    reasons = [pb.Fallback.UNKNOWN_LANGUAGE, pb.Fallback.OUT_OF_SCOPE]
    assert [answer.fallback.reason for answer in answers] == reasons
    assert [answer.fallback.triggered for answer in answers] == [True, True]
    assert answers[0].intent.name  # the highest ranked, as with every fallback
    assert [answer.fallback.reason for answer in batch] == reasons[::-1]
    assert infer_fallbacks(target, "怎么样", "play a song") == [b"unknown_language", b"out_of_scope"]
    command = [sys.executable, "-m", "palm_serve.cli", "call", "怎么样", "--target", target]
    printed = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True, timeout=120)
    assert "(fallback: unknown_language)" in printed.stdout


def test_bundle_without_scripts_answers_as_before(tiny_bundle, start_server):
    target = start_server(tiny_bundle, "--port", "0").target()
    with Client(target) as palm:
        assert not palm.parse("怎么样").fallback.triggered
