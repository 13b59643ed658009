"""`palm-train init`: suggested configurations load, and all parts fit together."""

import json
import tomllib
from pathlib import Path

import pytest

from palm_trainer.config.loader import check_section, load_config
from palm_trainer.config.schema import ScratchEncoderConfig
from palm_trainer.data.convert import convert
from palm_trainer.data.formats.find_splits import find_splits
from palm_trainer.data.suggest_config import suggest, suggest_schedule
from palm_trainer.errors import DataError
from palm_trainer.runs.job_from_config import job_from_config

SAMPLES = Path(__file__).parents[3] / "examples" / "data"
SMALL = {"model": "scratch", "layers": 1, "hidden_size": 16, "heads": 2}


def _load(text: str, folder: Path):
    path = folder / "found.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_suggest_english_sample_uses_minilm(tmp_path):
    text, found = suggest(SAMPLES / "assistant")
    config = _load(text, tmp_path)
    assert {name: (task.kind, task.role) for name, task in config.tasks.items()} == {
        "intent": ("classify", "intent"),
        "slots": ("sequence_label", "slots"),
    }
    data = config.data["assistant"]
    assert data.format == "jsonl"
    assert data.dev[0].name == "dev.jsonl"
    assert data.test[0].name == "test.jsonl"
    assert config.encoder.model == "minilm-l6-en"
    assert any("format jsonl" in line for line in found)
    assert [str(path) for path in (*data.out_of_scope, *data.out_of_scope_test)] == ["general-en", "general-en-test"]
    assert config.tasks["intent"].false_rejection == 0.02
    assert any("out_of_scope: general English sentences" in line for line in found)


def test_suggest_chinese_sample_uses_characters(tmp_path):
    config = _load(suggest(SAMPLES / "assistant_zh")[0], tmp_path)
    assert (config.encoder.model, config.encoder.characters) == ("scratch", True)
    assert config.data["assistant_zh"].out_of_scope == ()


@pytest.mark.parametrize(("text", "english"), [("was ist das fuer ein Lied", False), ("what is this song", True)])
def test_suggest_out_of_scope_text_needs_english(text, english, tmp_path):
    rows = [json.dumps({"text": f"{text} {i}", "intent": "ab"[i % 2]}) for i in range(300)]
    (tmp_path / "x.jsonl").write_text("\n".join(rows))
    config = _load(suggest(tmp_path / "x.jsonl")[0], tmp_path)
    assert bool(config.data["x"].out_of_scope) == english
    assert config.tasks["intent"].false_rejection == (0.02 if english else None)


def test_suggest_single_file_finds_other_splits(tmp_path):
    for split, rows in (("train", 8), ("test", 2)):
        lines = [json.dumps({"text": f"text number {i}", "topic": "ab"[i % 2]}) for i in range(rows)]
        (tmp_path / f"x.{split}.jsonl").write_text("\n".join(lines))
    text, found = suggest(tmp_path / "x.train.jsonl")
    config = _load(text, tmp_path)
    task = config.tasks["topic"]
    assert (task.kind, task.role) == ("classify", "")
    assert next(iter(config.data.values())).test[0].name == "x.test.jsonl"
    assert any("no dev split" in line for line in found)


@pytest.mark.parametrize(
    ("rows", "epochs", "evaluations"),
    [
        (1, 100, 20),
        (128, 100, 20),
        (320, 60, 20),
        (770, 24, 20),
        (960, 20, None),
        (4000, 20, None),
        (13000, 6, None),
        (1_000_000, 3, None),
    ],
)
def test_suggest_schedule_fits_the_rows(rows, epochs, evaluations):
    schedule = suggest_schedule(rows)
    assert (schedule["epochs"], schedule.get("evaluations")) == (epochs, evaluations)
    assert epochs == 100 or epochs * -(-rows // 32) >= 600


@pytest.mark.parametrize(("rows", "steps"), [(320, 600), (128, 400)])
def test_suggest_few_rows_get_enough_steps(tmp_path, rows, steps):
    """320 rows without dev: 288 are left for training, which are 9 batches."""
    lines = [json.dumps({"text": f"text number {i}", "topic": "ab"[i % 2]}) for i in range(rows)]
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    text, remarks = suggest(tmp_path / "few.jsonl")
    config = _load(text, tmp_path)
    job = job_from_config(config.model_copy(update={"encoder": check_section(ScratchEncoderConfig, SMALL, "encoder")}))
    assert steps <= job.loop.total_steps < steps + 9
    assert config.train.evaluations == 20
    assert [line for line in remarks if line.startswith("few rows: ")]


def test_suggest_missing_data_is_refused(tmp_path):
    with pytest.raises(DataError, match="nosuch: no such file or directory"):
        find_splits(tmp_path / "nosuch")


def test_suggest_unlearnable_data_is_refused(tmp_path):
    path = tmp_path / "plain.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"t{i}", "key": f"row-{i}"}) for i in range(6)))
    with pytest.raises(
        DataError, match=r"no field that a task could learn: 'key', which has 6 different values in 6 rows"
    ):
        suggest(path)


def test_suggest_one_class_is_told(tmp_path):
    path = tmp_path / "one.jsonl"
    rows = [{"text": f"t {number}", "intent": "only", "empty": [], "side": "ab"[number % 2]} for number in range(30)]
    path.write_text("\n".join(json.dumps({"text": row["text"], "intent": row["intent"]}) for row in rows))
    with pytest.raises(
        DataError, match=r"learn: 'intent', which has one class only \('only' in all 30 rows.*\), and a task needs"
    ):
        suggest(path)
    path.write_text("\n".join(map(json.dumps, rows)))
    text, remarks = suggest(path)
    assert list(tomllib.loads(text)["tasks"]) == ["side"]
    told = [line for line in remarks if line.startswith("no task for the field ")]
    assert len(told) == 2
    assert told[0].startswith("no task for the field 'intent', which has one class only ('only' in all 30 rows")
    assert told[1] == "no task for the field 'empty', which is empty in all 30 rows that have it"


CITIES = ("rome", "oslo", "new york", "bonn")


def _rows(kind: str) -> list[dict]:
    rows = []
    for number in range(24):
        city = CITIES[number % 4]
        text = f"{'fly' if number % 2 else 'drive'} to {city} at {number}"
        match kind:
            case "pairs":
                rows.append({"text": text, "text_pair": f"go to {city}", "label": str(number % 2)})
            case "questions":
                passage = f"Trip {number}: {text}."
                start = passage.index(city)
                answer = [{"start": start, "end": start + len(city)}] if number % 3 else []
                rows.append({"text": f"where to on trip {number}?", "text_pair": passage, "answer": answer})
            case "plain":
                rows.append({"text": text})
            case "classes":
                rows.append({"text": text, "intent": "a" if number % 2 else "b"})
            case "several":
                rows.append({"text": text, "intent": ["a#b", "a", "b#c"][number % 3]})
            case "joint":
                start = text.index(city)
                slots = [{"start": start, "end": start + len(city), "label": "city"}]
                rows.append({"text": text, "intent": "a" if number % 2 else "b", "slots": slots})
            case "chinese":
                slots = [{"start": 1, "end": 3, "label": "city"}]
                words = [[i, i + 1] for i in range(5)]
                rows.append(
                    {"text": f"去{'北京' if number % 2 else '上海'}{number:02}", "slots": slots, "words": words}
                )
    return rows


@pytest.mark.parametrize(
    ("kind", "name", "tasks"),
    [
        ("joint", "a.jsonl", {"intent": "classify", "slots": "sequence_label"}),
        ("joint", "a", {"intent": "classify", "slots": "sequence_label"}),
        ("joint", "a.conll", {"intent": "classify", "slots": "sequence_label"}),
        ("joint", "a.tsv", {"intent": "classify", "slots": "sequence_label"}),
        ("joint", "a.yml", {"intent": "classify", "slots": "sequence_label"}),
        ("joint", "a.parquet", {"intent": "classify", "slots": "sequence_label"}),
        ("several", "a", {"intent": "multi_label"}),
        ("several", "a.csv", {"intent": "multi_label"}),
        ("classes", "a.csv", {"intent": "classify"}),
        ("classes", "a.json#train", {"intent": "classify"}),
        ("pairs", "a.json", {"label": "match"}),
        ("pairs", "b.tsv", {"label": "match"}),
        ("questions", "a.json", {"answer": "mrc"}),
        ("plain", "a.txt", {"mlm": "masked_lm"}),
        ("chinese", "a.conll", {"slots": "sequence_label"}),
    ],
)
def test_suggest_every_format_trains(kind, name, tasks, tmp_path):
    """What `init` writes is built as `run` builds it; nothing is wrong with it."""
    source = tmp_path / "source.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in _rows(kind)), encoding="utf-8")
    convert(source, tmp_path / "data" / name)
    text, _ = suggest(tmp_path / "data" / name.partition("#")[0])
    config = _load(text, tmp_path)
    assert {task: settings.kind for task, settings in config.tasks.items()} == tasks
    assert (config.encoder.max_length == 384) == (kind == "questions")
    assert config.encoder.model == ("scratch" if kind == "chinese" else "minilm-l6-en")
    assert getattr(config.encoder, "characters", False) == (kind == "chinese")
    [data] = config.data.values()
    assert data.options().get("joiner", " ") == ("" if kind == "chinese" else " ")
    small = [
        "encoder.model=scratch",
        "encoder.layers=1",
        "encoder.hidden_size=16",
        "encoder.heads=2",
        "train.freeze_embeddings=false",
    ]
    training = job_from_config(load_config(tmp_path / "found.toml", small if name != "a.jsonl" else ()))
    [built] = training.loop.sources.values()
    assert len(built.dataset) == 24
    assert set(built.dataset.targets) == set(tasks)


def test_suggest_few_joined_names_are_one_class(tmp_path):
    """As in ATIS: `atis_flight#atis_airfare` is rare there, and a class of its own in what is published."""
    rows = [f"text {i}\t{'a#b' if i < 2 else 'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "x.tsv").write_text("text\tintent\n" + "\n".join(rows) + "\n", encoding="utf-8")
    config = _load(suggest(tmp_path / "x.tsv")[0], tmp_path)
    assert (config.tasks["intent"].kind, config.data["x"].label_separator) == ("classify", None)


@pytest.mark.parametrize(
    ("yes", "no", "task"),
    [
        ("匹配", "不匹配", {"kind": "match", "match_label": "匹配"}),
        ("1", "0", {"kind": "match"}),
        ("up", "down", {"kind": "classify"}),
    ],
)
def test_suggest_finds_match_label(yes, no, task, tmp_path):
    rows = [{"text": f"t{i}", "text_pair": f"u{i}", "label": (no, yes)[i % 2]} for i in range(8)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = _load(suggest(tmp_path / "x.jsonl")[0], tmp_path).tasks["label"]
    assert {key: getattr(found, key) for key in task} == task


def test_suggest_finds_splits_in_directories(tmp_path):
    for split, count in (("valid", 4), ("test", 9)):
        folder = tmp_path / "set" / split
        folder.mkdir(parents=True)
        rows = [{"text": f"{split} {i}", "label": "ab"[i % 2]} for i in range(count)]
        (folder / f"ch.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "README.md").write_text("no data")
    splits, remarks = find_splits(tmp_path / "set")
    assert {split: [path.name for path in paths] for split, paths in splits.items()} == {
        "train": ["ch.valid.jsonl"],
        "test": ["ch.test.jsonl"],
    }
    assert remarks[0] == "no train split found: the dev split (valid/ch.valid.jsonl) is used to train"


def test_suggest_ambiguous_files_are_refused(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n')
    assert find_splits(tmp_path)[0] == {"train": [tmp_path / "one.jsonl"]}
    (tmp_path / "two.csv").write_text("text,label\na,b\n")
    with pytest.raises(
        DataError, match=r"several data files \(one\.jsonl \(jsonl\), two\.csv \(csv\)\), none called train"
    ):
        find_splits(tmp_path)
    (tmp_path / "below/deep").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no data file of a known format, and directories \(deep\)"):
        find_splits(tmp_path / "below")


def test_suggest_finds_splits_inside_a_file(tmp_path):
    path = tmp_path / "all.json"
    path.write_text(json.dumps({split: [["a", "x"], ["b", "y"]] for split in ("oos_train", "train", "val")}))
    splits, _ = find_splits(path)
    assert {split: [p.name for p in paths] for split, paths in splits.items()} == {
        "train": ["all.json#oos_train", "all.json#train"],
        "dev": ["all.json#val"],
    }
    path.write_text('{"odd": [["a", "x"]]}')
    with pytest.raises(DataError, match=r"no split called train \(it holds: odd\); name one: all\.json#SPLIT"):
        find_splits(path)


@pytest.mark.parametrize(("rows", "share"), [(199, 0.0), (200, 0.1)])
def test_suggest_sets_dev_apart_where_there_is_none(rows, share, tmp_path):
    lines = []
    for number in range(rows):
        lines.append(json.dumps({"text": f"text {number}", "intent": "ab"[number % 2]}))
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    text, remarks = suggest(tmp_path / "x.jsonl")
    config = _load(text, tmp_path)
    assert config.data["x"].dev_share == share
    assert any("dev_share = 0.1 sets a part of train apart" in line for line in remarks) == (share > 0)


def _write_intents(path: Path, classes: int, texts: int) -> None:
    lines = ["text,intent"]
    for number in range(classes * texts):
        lines.append(f"please do the thing number {number},intent_{number % classes}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(("texts", "head"), [(10, "prototype"), (49, "prototype"), (50, "linear")])
def test_suggest_starts_at_class_means_where_texts_are_few(texts, head, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _write_intents(tmp_path / "few.csv", 6, texts)
    text, remarks = suggest(Path("few.csv"))
    config = _load(text, tmp_path)
    assert config.tasks["intent"].head == head
    is_few = head == "prototype"
    assert (config.train.epochs, config.train.freeze_embeddings) == ((10.0, True) if is_few else (67.0, False))
    assert config.data["few"].dev_share == (0 if is_few else 0.1)
    assert any(f"{texts} texts a class" in line for line in remarks) == is_few
    assert config.encoder.model == "minilm-l6-en"


def test_suggest_keeps_the_schedule_of_slots_beside_few_intents(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in _rows("joint")), encoding="utf-8")
    config = _load(suggest(path)[0], tmp_path)
    assert config.tasks["intent"].head == "prototype"
    assert (config.train.epochs, config.train.freeze_embeddings) == (100.0, False)


def test_suggest_from_scratch_has_no_class_means(tmp_path):
    lines = [
        json.dumps({"text": f"你好世界{number}", "intent": "ab"[number % 2]}, ensure_ascii=False)
        for number in range(20)
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = _load(suggest(tmp_path / "x.jsonl")[0], tmp_path)
    assert (config.encoder.model, config.tasks["intent"].head) == ("scratch", "linear")
