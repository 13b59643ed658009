"""The files of `e5-small-zh` in small: packages of the same layout, with the pieces of a few words."""

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palm_trainer.model.encoders import e5_small_zh
from palm_trainer.tokenization import e5_files
from palm_trainer.tokenization.e5_files import PackageFile

HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 32, 2, 2, 64, 64
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
WORDS = ("北京", "天气", "明天", "播放", "▁play", "▁song", "▁При", "вет", "re")
LETTERS = "北京天气明播放的歌怎么样abcdefghijklmnopqrstuvwxyz.,Приветмир"


def unigram_json() -> str:
    """The tokenizer of XLM-R in small: its ids, special tokens and settings, fewer pieces."""
    pieces = [(word, -5.0) for word in ("▁", *WORDS)] + [(letter, -9.0) for letter in dict.fromkeys(LETTERS)]
    vocabulary = [*((token, 0.0) for token in SPECIAL), *pieces, ("<mask>", 0.0)]
    metaspace = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    added = []
    for index, (piece, _) in enumerate(vocabulary):
        if piece in (*SPECIAL, "<mask>"):
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            added.append({"id": index, "content": piece, **flags, "special": True})
    first, last = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>"))
    text, pair = ({"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B"))
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]},
            "pre_tokenizer": metaspace,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [first, text, last],
                "pair": [first, text, last, last, pair, last],
                "special_tokens": {
                    "<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
                    "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]},
                },
            },
            "decoder": metaspace,
            "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary},
        }
    )


def q4_bytes(vocabulary: int, seed: int = 0) -> tuple[bytes, dict[str, Any]]:
    """A file of weights, and its matrices as they were written: (factors, four-bit numbers) or numbers of float32."""
    generator = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"emb.word": (vocabulary, HIDDEN)}
    shapes |= {"emb.pos": (POSITIONS, HIDDEN), "emb.type": (2, HIDDEN), "emb.ln.w": (HIDDEN,), "emb.ln.b": (HIDDEN,)}
    for layer in range(LAYERS):
        for key, height, width in (
            *((key, HIDDEN, HIDDEN) for key in ("q", "k", "v", "ao")),
            ("fi", INNER, HIDDEN),
            ("fo", HIDDEN, INNER),
        ):
            shapes |= {f"l{layer}.{key}.w": (height, width), f"l{layer}.{key}.b": (height,)}
        for key in ("aln", "oln"):
            shapes |= {f"l{layer}.{key}.w": (HIDDEN,), f"l{layer}.{key}.b": (HIDDEN,)}
    written: dict[str, Any] = {}
    parts: list[bytes] = []
    for name, shape in shapes.items():
        if name == "emb.word" or (len(shape) == 2 and not name.startswith("emb")):
            blocks = shape[0] * shape[1] // 32
            factors = generator.uniform(0.01, 0.02, blocks).astype(np.float16)
            numbers = generator.integers(0, 16, (blocks, 32), dtype=np.uint8)
            halves = numbers[:, :16] | numbers[:, 16:] << 4
            parts.append(b"".join(f.tobytes() + h.tobytes() for f, h in zip(factors, halves, strict=True)))
            values = (numbers.astype(np.float32) - 8) * factors.astype(np.float32)[:, None]
            written[name] = values.reshape(shape)
        else:
            written[name] = generator.normal(0.0, 0.1, shape).astype(np.float32)
            parts.append(written[name].tobytes())
    pieces = b"".join(b"x" for _ in range(3))
    head = struct.pack(
        "<4sI7if i", b"NE5Q", 1, HIDDEN, LAYERS, HEADS, INNER, vocabulary, POSITIONS, 2, 1e-5, 32
    ) + struct.pack("<5iQ", 3, 0, 2, 1, 3, len(pieces))
    head += np.arange(4, dtype="<u4").tobytes() + np.zeros(3, "<f4").tobytes() + pieces
    head += struct.pack("<iI", 1, 4) + b"norm" + struct.pack("<i", len(shapes))
    directory_bytes = sum(2 + len(name) + struct.calcsize("<BIQQ") for name in shapes)
    offset, directory = len(head) + directory_bytes, b""
    for name, part in zip(shapes, parts, strict=True):
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", 0, 0, offset, len(part))
        offset += len(part)
    return head + directory + b"".join(parts), written


def install(folder: Path, file: PackageFile, contents: bytes) -> PackageFile:
    """Install a package with one file in a folder of packages, and return its description."""
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)
    info = folder / f"{file.package.replace('-', '_')}-{file.version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {file.package}\nVersion: {file.version}\n")
    return replace(file, sha256=hashlib.sha256(contents).hexdigest())


@pytest.fixture
def small_e5(tmp_path, monkeypatch):
    """Small packages in the place of the real ones; gives the folder that they are installed in."""
    folder = tmp_path / "packages"
    tokenizer = unigram_json()
    size = len(json.loads(tokenizer)["model"]["vocab"]) + 5  # as the real table, with rows that no piece has
    for name, contents in (("WEIGHTS", q4_bytes(size)[0]), ("TOKENIZER", tokenizer.encode())):
        file = install(folder, getattr(e5_files, name), contents)
        for module in (e5_files, e5_small_zh):
            monkeypatch.setattr(module, name, file)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def q4():
    """A file of weights with seven pieces, and the numbers that it was made from."""
    return q4_bytes(7)


@pytest.fixture
def unigram():
    """Contents of the `tokenizer.json` of the small package."""
    return unigram_json()
