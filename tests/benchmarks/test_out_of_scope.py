"""The benchmark of refusals counts what a server would refuse, and its sentences are in no file that a model learns with."""

import json
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = ROOT / "examples/data/out_of_scope"


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def bare(texts: list[str]) -> set[str]:
    """Texts without case and punctuation; those of punctuation alone as they are."""
    words = {text: "".join(filter(str.isalnum, text.lower())) for text in texts}
    return {word or text for text, word in words.items()}


def test_benchmark_counts_refusals(monkeypatch, capsys, tmp_path):
    import out_of_scope

    stored = ROOT / "tests/compatibility/before_0_2/bundle"
    shutil.copytree(stored, tmp_path / "bundle")
    manifest = json.loads((stored / "manifest.json").read_text(encoding="utf-8"))
    texts = tmp_path / "texts.txt"
    texts.write_text("water the lawn\nmow\n", encoding="utf-8")
    arguments = ["--outside", str(texts), "--inside", str(texts), "--json", str(tmp_path / "result.json")]
    monkeypatch.setattr(sys, "argv", ["out_of_scope.py", "--bundle", str(tmp_path / "bundle"), *arguments])
    out_of_scope.main()
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["version"] == manifest["version"]
    for name, refused in (("outside", True), ("inside", False)):
        figures = result[name]
        assert sum(figures["reasons"].values()) == figures["texts"] == 2
        accepted = figures["reasons"].get("none", 0)
        assert figures["refused"] == 50 * (2 - accepted)
        assert len(figures["wrong"]) == (accepted if refused else 2 - accepted)
    assert "outside: " in capsys.readouterr().out


def test_benchmark_without_a_bundle_tells_how_to_make_it(monkeypatch, tmp_path):
    import out_of_scope

    monkeypatch.setattr(sys, "argv", ["out_of_scope.py", "--bundle", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="make demo"):
        out_of_scope.main()


def test_benchmark_sentences_are_in_no_other_file():
    forty = lines(ROOT / "benchmarks/texts/out_of_scope.txt")
    assert len(bare(forty)) == len(forty) == 40
    for path in TEXTS.glob("*.txt"):
        assert not bare(forty) & bare(lines(path)), path.name
    for split in ("train", "dev", "test"):
        rows = lines(ROOT / f"examples/data/assistant/{split}.jsonl")
        assert not bare(forty) & bare([json.loads(row)["text"] for row in rows])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_out_of_scope_texts_of_two_splits_differ(language):
    train, dev, test = (bare(lines(TEXTS / f"general_{language}{part}.txt")) for part in ("_train", "", "_test"))
    assert not train & dev
    assert not test & (train | dev)
    sample = {"en": "assistant", "zh": "assistant_zh"}[language]
    for split in ("train", "dev", "test"):
        rows = lines(ROOT / f"examples/data/{sample}/{split}.jsonl")
        assert not (train | dev | test) & bare([json.loads(row)["text"] for row in rows])


@pytest.mark.parametrize("part", ["", "_train", "_test"])
def test_packaged_texts_are_those_of_the_examples(part):
    packaged = ROOT / "palm_trainer/data/out_of_scope" / f"general-en{part.replace('_', '-')}.txt"
    assert packaged.read_bytes() == (TEXTS / f"general_en{part}.txt").read_bytes()
