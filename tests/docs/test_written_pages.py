"""Pages of the reference that people write name files and tests that exist."""

import re
from pathlib import Path

import pytest
from markdown_pages import ROOT

from palm_serve.bundle import files as bundle_files
from palm_serve.bundle import loader
from palm_trainer.export import compact
from palm_trainer.model import checkpoint
from palm_trainer.runs import event_log, file_names, weight_averaging
from palm_trainer.runs.dev_rows import DEV_ROWS
from palm_trainer.tasks import registry

REFERENCE = ROOT / "docs" / "reference"


def first_cells(page: str, heading: str) -> list[str]:
    """Return what is code in the first column of the tables below a heading of the second level."""
    text = (REFERENCE / f"{page}.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text.split(f"## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return [
        name for cell in re.findall(r"^\| ([^|]*) \|", section, re.MULTILINE) for name in re.findall(r"`(.+?)`", cell)
    ]


def test_files_of_a_run_are_those_that_are_written() -> None:
    run = {file_names.CONFIG, file_names.EVENTS, file_names.METRICS, file_names.REPORT, file_names.VALUES, DEV_ROWS}
    folders = {"best/", "last/", "best-TASK/", f"{weight_averaging.CANDIDATES}/", f"{event_log.TENSORBOARD}/"}
    inside = {checkpoint.WEIGHTS, checkpoint.DESCRIPTION, checkpoint.TOKENIZER, checkpoint.TRAINING}
    assert set(first_cells("run_directory", "Files")) == run | folders | inside


def test_files_of_a_bundle_are_those_that_are_read() -> None:
    named = {bundle_files.MANIFEST, bundle_files.SIGNATURE, loader.TOKENIZER, loader.ARRAYS, loader.GOLDEN}
    more = {loader.PROOF, loader.VALUES, "model.onnx", "variants/", compact.WEIGHTS, "README.md"}
    assert set(first_cells("bundle", "Files")) == named | more


@pytest.mark.parametrize("kind", [kind for kind in registry._BUILT_IN if kind.is_answered], ids=lambda kind: kind.name)
def test_metrics_of_a_kind_are_those_that_are_computed(kind: object) -> None:
    text = (REFERENCE / "run_directory.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{kind.name}` \| (.+) \|$", text, re.MULTILINE)
    assert row is not None
    assert set(kind.metrics([], "yes")) == set(re.findall(r"`(\w+)`", row[1])) - {"perplexity"}


def test_tests_that_hold_a_difference_exist() -> None:
    page = (REFERENCE / "differences_from_palm.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    files = (ROOT / "tests" / "palm_trainer" / "api").rglob("test_*.py")
    defined = {name for file in files for name in re.findall(r"^def (test_\w+)", Path(file).read_text("utf-8"), re.M)}
    assert len(named) > 20
    assert named <= defined


def test_words_of_the_glossary_are_in_order() -> None:
    page = (REFERENCE / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| ([^|]+?) \|", page, re.MULTILINE)[1:]
    assert words == sorted(words, key=str.lower)
