"""A tokenizer that one text can hold up, or that makes a long text of a short one, never serves."""

import base64
import json

import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from palm_serve.bundle.loader import load_bundle
from palm_serve.errors import BundleError
from palm_serve.pipeline import Pipeline
from palm_serve.tokenization import TextTokenizer
from palm_serve.tokenization.trial import open_tokenizer, try_texts


@pytest.fixture
def tiny(tiny_bundle):
    return Tokenizer.from_file(str(tiny_bundle / "tokenizer.json"))


def replace(pattern, content):
    return normalizers.Replace(pattern, content)


@pytest.mark.parametrize(
    ("normalizer", "growth"),
    [
        (normalizers.Sequence([replace("q", "q" * 32)] * 4), "1,048,576"),
        (replace("q", "q" * 65), "65"),
        (replace(Regex("."), "q" * 65), "65"),
        (normalizers.Sequence([normalizers.Sequence([replace("q", "qqq")])] * 4), "81"),
        (normalizers.Sequence([normalizers.Prepend("abcdefgh")] * 2), "81"),
    ],
)
def test_normalizers_that_make_a_text_long_are_refused(tiny, normalizer, growth):
    tiny.normalizer = normalizer
    with pytest.raises(ValueError, match=f"may make at most 64 characters of one, got {growth}"):
        open_tokenizer(tiny.to_str(), 24)


def test_charsmap_that_makes_a_text_long_is_refused(tiny):
    table = json.loads(tiny.to_str())
    charsmap = (4).to_bytes(4, "little") + b"\0" * 4 + b"x" * 500 + b"\0"
    table["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    with pytest.raises(ValueError, match=r"characters of one, got 500|is no tokenizer"):
        open_tokenizer(json.dumps(table), 24)


@pytest.mark.parametrize("expression", [r"\s+", r" {2,}", r"[,;]\s*|x"])
def test_sound_expressions_are_taken(tiny, expression):
    tiny.pre_tokenizer = pre_tokenizers.Split(Regex(expression), "isolated")
    assert open_tokenizer(tiny.to_str(), 24).encode("hello boston").input_ids


@pytest.mark.parametrize("expression", [r"(x|xx)+y", r"(x+x+)+y"])
def test_expressions_that_backtrack_are_refused(tiny, expression):
    for part in ("normalizer", "pre_tokenizer"):
        content = json.loads(tiny.to_str())
        pattern = {"Regex": expression}
        content["normalizer"] = (
            content["normalizer"] if part != "normalizer" else {"type": "Replace", "pattern": pattern, "content": ""}
        )
        if part == "pre_tokenizer":
            content["pre_tokenizer"] = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        with pytest.raises(ValueError, match="its regular expressions must take a text in time"):
            open_tokenizer(json.dumps(content), 24)


def test_word_length_without_limit_is_refused(tiny):
    content = json.loads(tiny.to_str())
    content["model"]["max_input_chars_per_word"] = 10**9
    with pytest.raises(ValueError, match="max_input_chars_per_word must be at most 1,000, got 1,000,000,000"):
        open_tokenizer(json.dumps(content), 24)


def test_slow_texts_are_refused(tiny, monkeypatch):
    monkeypatch.setattr("palm_serve.tokenization.trial._TEXT_LIMIT_S", 0.0)
    with pytest.raises(ValueError, match=r"it may take 0 s for a text, and took 0\.0 s for 1 times 'a'"):
        try_texts(TextTokenizer(tiny.to_str(), 24), "a")


def test_text_that_was_slow_once_is_tried_again(tiny, monkeypatch):
    times = iter([0.0, 0.8, 1.0, 1.002, *range(2, 10_000)])
    monkeypatch.setattr("palm_serve.tokenization.trial.time.thread_time", lambda: next(times))
    with pytest.raises(ValueError, match=r"took 1\.0 s for 1 times 'a'"):
        try_texts(TextTokenizer(tiny.to_str(), 24), "a")


@pytest.mark.parametrize("content", ["{}", "[]", "3", "[" * 100_000, '{"model": {"type": "WordPiece"}}', ""])
def test_other_json_is_no_tokenizer(content):
    with pytest.raises(ValueError, match="is no tokenizer"):
        open_tokenizer(content, 24)


def test_special_tokens_that_leave_no_room_are_refused(tiny_bundle, tiny):
    content = json.loads(tiny.to_str())
    special = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [special] * 50 + [text],
        "pair": [special] * 50 + [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
    }
    with pytest.raises(ValueError, match=r"must have at most max_length = 24 tokens, got 5\d for 1 times"):
        open_tokenizer(json.dumps(content), 24)


def test_pipeline_names_the_file_of_a_refused_tokenizer(tmp_path, make_tiny_bundle, reseal_bundle, tiny):
    path = make_tiny_bundle(tmp_path / "b")
    tiny.normalizer = normalizers.Sequence([replace("q", "q" * 32)] * 4)
    (path / "tokenizer.json").write_text(tiny.to_str(), encoding="utf-8")
    with pytest.raises(BundleError, match=r"b/tokenizer\.json cannot be used: its normalizers may make at most"):
        Pipeline(load_bundle(reseal_bundle(path)), None)
