"""The bundled Chinese sample is what its README says: reproducible, exact, and fairly split."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DATA = Path(__file__).parents[2] / "examples" / "data"
FOLDER = DATA / "assistant_zh"
SPLITS = ("train", "dev", "test")
OPEN_LABELS = {"city", "from_city", "to_city", "song", "artist", "contact", "restaurant", "place", "train_number"}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_assistant_zh", DATA / "make_assistant_zh.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[dict]]:
    return {
        split: [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in SPLITS
    }


def slots(rows: list[dict]) -> Iterator[tuple[str, str]]:
    return ((s["label"], row["text"][s["start"] : s["end"]]) for row in rows for s in row["slots"])


def test_generator_writes_the_committed_bytes(generator, tmp_path):
    generator.main(tmp_path)
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (FOLDER / f"{split}.jsonl").read_bytes(), split


def test_sizes(corpus):
    assert len(corpus["train"]) >= 1200
    assert len(corpus["dev"]) >= 150
    assert len(corpus["test"]) >= 200
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 400_000


def test_every_split_has_all_intents_and_labels(corpus):
    intents = [{row["intent"] for row in corpus[split]} for split in SPLITS]
    labels = [{label for label, _ in slots(corpus[split])} for split in SPLITS]
    assert intents[0] == intents[1] == intents[2]
    assert labels[0] == labels[1] == labels[2]
    assert (len(intents[0]), len(labels[0])) == (10, 18)


def test_spans_are_exact(corpus, generator):
    values = generator.read_values(FOLDER / "source" / "values.txt")
    known = {value for items in values.values() for value in items}
    for row in (row for split in SPLITS for row in corpus[split]):
        assert set(row) == {"text", "intent", "slots"}
        assert row["text"] == row["text"].strip() != ""
        end = 0
        for slot in row["slots"]:
            assert end <= slot["start"] < slot["end"] <= len(row["text"]), row
            end = slot["end"]
            assert row["text"][slot["start"] : end] in known, row


def test_texts_are_distinct_even_without_punctuation(corpus, generator):
    texts = [generator.bare(row["text"]) for split in SPLITS for row in corpus[split]]
    assert len(texts) == len(set(texts))


def test_test_phrasings_do_not_occur_in_train(corpus, generator):
    def skeleton(row):
        text = row["text"]
        for slot in reversed(row["slots"]):
            text = text[: slot["start"]] + f"{{{slot['label']}}}" + text[slot["end"] :]
        return generator.bare(text)

    train = {skeleton(row) for row in corpus["train"]}
    shared = {skeleton(row) for split in ("dev", "test") for row in corpus[split]} & train
    assert not shared


def test_half_of_the_open_test_values_are_new_but_their_characters_are_not(corpus):
    texts = "\n".join(row["text"] for row in corpus["train"])
    values = [value for label, value in slots(corpus["test"]) if label in OPEN_LABELS]
    new = [value for value in values if value not in texts]
    assert 0.4 <= len(new) / len(values) <= 0.6
    characters = "".join(row["text"] for row in corpus["test"])
    assert sum(c in texts for c in characters) / len(characters) >= 0.99


def test_a_phrasing_in_two_splits_is_refused(generator):
    patterns = {("call", "train"): ["<please>打给{contact}[吧|]"], ("call", "test"): ["打给{contact:family}！"]}
    with pytest.raises(ValueError, match=r"in two splits.*打给\{contact\} \(train, call test\)"):
        generator.check_phrasings(patterns)


def test_a_held_out_value_in_train_is_refused(generator):
    values = {("city", "train"): ["海口"], ("city", "test"): ["金山"]}
    with pytest.raises(ValueError, match=r"occur in train.*金山 \(city test\)"):
        generator.check_values(values, [{"text": "金山公园"}])


def test_a_repeated_section_is_refused(generator, tmp_path):
    path = tmp_path / "values.txt"
    path.write_text("# city train\n北京\n# city train\n上海\n", encoding="utf-8")
    with pytest.raises(ValueError, match="section 'city train' occurs twice"):
        generator.read_sections(path)


def test_an_unknown_list_is_refused(generator):
    with pytest.raises(ValueError, match="no list 'from_city train'"):
        generator.make({("book", "train"): ["{from_city}出发"]}, {("city", "train"): ["海口"]})
