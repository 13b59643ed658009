"""The bundled assistant sample: what examples/data/assistant/README.md promises about it."""

import importlib.util
import json
import re
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DATA = Path(__file__).parents[2] / "examples" / "data"
SPLITS = ("train", "dev", "test")
CLOSED = {
    "date",
    "time",
    "duration",
    "people",
    "seat_class",
    "room_type",
    "phone_type",
    "recurrence",
    "level",
    "quantity",
    "travel_mode",
}
PAIRS = list(combinations(SPLITS, 2))

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    return {
        split: [
            json.loads(line)
            for line in (DATA / "assistant" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_assistant", DATA / "make_assistant.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses looks its module up
    spec.loader.exec_module(module)
    return module


def _words(text: str) -> str:
    """Casefolded, punctuation as blanks, blanks at both ends: `in` then finds whole words."""
    bare = re.sub(r"[^\w{}]+", " ", text.casefold()).strip()
    return f" {bare} "


def _template(row: Row) -> str:
    parts, at = [], 0
    for slot in row["slots"]:
        parts += [row["text"][at : slot["start"]], f" {{{slot['label']}}} "]
        at = slot["end"]
    return _words("".join([*parts, row["text"][at:]]))


def _open_values(rows: list[Row]) -> set[str]:
    return {
        _words(row["text"][slot["start"] : slot["end"]])
        for row in rows
        for slot in row["slots"]
        if slot["label"] not in CLOSED
    }


def test_script_writes_the_same_bytes(script: ModuleType) -> None:
    files = script.build()
    assert set(files) == {f"{split}.jsonl" for split in SPLITS}
    for name, text in files.items():
        assert (DATA / "assistant" / name).read_bytes() == text.encode(), f"{name}: run examples/data/make_assistant.py"


def test_size(rows: dict[str, list[Row]]) -> None:
    assert len(rows["train"]) >= 1700
    assert len(rows["dev"]) >= 250
    assert len(rows["test"]) >= 350
    assert sum(path.stat().st_size for path in (DATA / "assistant").glob("*.jsonl")) < 600_000
    intents = {split: Counter(row["intent"] for row in rows[split]) for split in SPLITS}
    labels = {split: {slot["label"] for row in rows[split] for slot in row["slots"]} for split in SPLITS}
    assert 14 <= len(intents["train"]) <= 18
    assert 24 <= len(labels["train"]) <= 34
    assert min(intents["train"].values()) >= 70
    for split in SPLITS:
        assert intents[split].keys() == intents["train"].keys()
        assert labels[split] == labels["train"]


def test_spans(rows: dict[str, list[Row]]) -> None:
    """Spans are in order, apart, inside the text, and hold a value with nothing stuck to it."""
    for row in (row for split in SPLITS for row in rows[split]):
        text, at = row["text"], 0
        assert text == text.strip()
        assert "  " not in text
        assert not re.search(r"[{}|$~]", text), text
        for slot in row["slots"]:
            value = text[slot["start"] : slot["end"]]
            assert at <= slot["start"] < slot["end"] <= len(text)
            assert re.fullmatch(r"\w(.*[\w%°!])?|.*\b[a-zA-Z]\.[a-zA-Z]\.", value), value
            assert not re.match(r"\w", text[slot["end"] : slot["end"] + 1]), text
            assert not re.match(r"\w", text[max(slot["start"] - 1, 0) : slot["start"]] if slot["start"] else ""), text
            at = slot["end"]


def test_no_utterance_twice(rows: dict[str, list[Row]]) -> None:
    texts = Counter(_words(row["text"]) for split in SPLITS for row in rows[split])
    assert [text for text, count in texts.items() if count > 1] == []


@pytest.mark.parametrize(("seen", "held_out"), PAIRS)
def test_phrasings_are_held_out(rows: dict[str, list[Row]], seen: str, held_out: str) -> None:
    templates = {_template(row) for row in rows[seen]}
    assert [row["text"] for row in rows[held_out] if _template(row) in templates] == []


@pytest.mark.parametrize(("seen", "held_out"), PAIRS)
def test_open_values_are_held_out(rows: dict[str, list[Row]], seen: str, held_out: str) -> None:
    assert sorted(_open_values(rows[seen]) & _open_values(rows[held_out])) == []


def test_open_test_values_are_nowhere_in_train(rows: dict[str, list[Row]]) -> None:
    """Not as a value, not inside a longer value, not among the words around them."""
    train = "|".join(_words(row["text"]) for row in rows["train"])
    assert sorted(value for value in _open_values(rows["test"]) if value in train) == []


def test_lists_of_open_values_are_disjoint(script: ModuleType) -> None:
    """Also the values that no row happens to use; `all` stands only in lists of closed types."""
    values = script.Values.read(DATA / "assistant_phrases" / "values.toml")
    pools: dict[str, set[str]] = {split: set() for split in SPLITS}
    for name, table in values.lists.items():
        if "all" in table:
            assert name in CLOSED or name.rpartition("_")[0] in CLOSED
        else:
            for split in SPLITS:
                pools[split] |= {_words(value) for value in table[split]}
    for one, other in PAIRS:
        assert sorted(pools[one] & pools[other]) == []


def test_readme_states_the_counts(rows: dict[str, list[Row]]) -> None:
    readme = (DATA / "assistant" / "README.md").read_text(encoding="utf-8")
    intents = {split: Counter(row["intent"] for row in rows[split]) for split in SPLITS}
    labels = {split: Counter(slot["label"] for row in rows[split] for slot in row["slots"]) for split in SPLITS}
    for intent in intents["train"]:
        assert f"| {intent} | {' | '.join(str(intents[split][intent]) for split in SPLITS)} |" in readme
    for label in labels["train"]:
        kind = "closed" if label in CLOSED else "open"
        assert f"| {label} | {' | '.join(str(labels[split][label]) for split in SPLITS)} | {kind} |" in readme
