"""The few-shot benchmark: what its encoders are made of, which cells there are, how they are scored, what its tables say."""

import json
import math
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.training.mixing.quotas import temperature

ROOT = Path(__file__).parents[2]
TINY_BASE = """
[encoder]
model = "scratch"
pooling = "mean"
layers = 1
hidden_size = 8
heads = 1
[data.sgd]
format = "jsonl"
train = "${PALM_DATA}/sgd.jsonl"
[data.banking77]
format = "csv"
train = "${PALM_DATA}/banking77.csv"
[data.mrpc]
format = "tsv"
columns = ["label", "text_a", "text_b"]
header = false
train = "${PALM_DATA}/mrpc.tsv"
[tasks.sgd_intent]
kind = "classify"
data = ["sgd"]
[tasks.sgd_slots]
kind = "sequence_label"
data = ["sgd"]
[tasks.banking77_intent]
kind = "classify"
data = ["banking77"]
[tasks.paraphrase]
kind = "match"
data = ["mrpc"]
[train]
mixing = "temperature"
mixing_temperature = 2
reference = "sgd"
epochs = 1
batch_size = 2
learning_rate = 1e-3
output = "runs/tiny"
"""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Data of the form that examples/nlu_base.toml and the rows read, with tiny configurations in their place."""
    import fewshot
    import fewshot_bases

    folder = tmp_path / "data"
    (folder / "fewshot").mkdir(parents=True)
    sgd = [
        {"text": "Book a table, please", "intent": "Reserve", "slots": [{"start": 7, "end": 12, "label": "thing"}]},
        {"text": "Thank you!", "intent": None, "slots": []},
        {"text": "Find a bus", "intent": "FindBus", "slots": []},
        {"text": "WHERE is my card", "intent": "FindBus", "slots": []},
        {"text": "Find a table", "intent": "Reserve", "slots": []},
    ]
    _write_rows(folder / "sgd.jsonl", sgd)
    (folder / "banking77.csv").write_text("text,category\nmy card,card\nmy pin,pin\n", encoding="utf-8")
    (folder / "mrpc.tsv").write_text(
        "1\ta cat\tcat\n0\ta dog\tis my pin ok?\n1\tsun\ta sun\n0\tred\ta bird\n", encoding="utf-8"
    )
    train = [{"text": "my card", "intent": "card"}, {"text": "my pin", "intent": "pin"}]
    test = [{"text": "where is my card?", "intent": "card"}, {"text": "Is my pin OK", "intent": "pin"}]
    for name, rows in {"train_5": train, "valid": test[:1], "test": test}.items():
        _write_rows(folder / f"fewshot/BANKING77_{name}.jsonl", rows)
    base, recipe = tmp_path / "nlu_base.toml", tmp_path / "fewshot.toml"
    base.write_text(TINY_BASE, encoding="utf-8")
    text = (ROOT / "benchmarks/configs/fewshot.toml").read_text(encoding="utf-8")
    tiny = 'model = "scratch"\nlayers = 1\nhidden_size = 8\nheads = 1'
    text = text.replace('model = "minilm-l6-en"', tiny).replace("batch_size = 32", "batch_size = 2")
    recipe.write_text(text.replace("freeze_embeddings = true\n", ""), encoding="utf-8")
    monkeypatch.setattr(fewshot_bases, "NLU_BASE", base)
    monkeypatch.setattr(fewshot, "NLU_BASE", base)
    monkeypatch.setattr(fewshot, "RECIPE", recipe)
    monkeypatch.setenv("PALM_DATA", str(folder))
    return folder


def _write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("first", "second"),
    [("What's my balance?", "whats  my balance"), ("Wi-Fi", "wi fi"), ("\uff21 B_C", "abc"), ("Straße", "STRASSE")],
)
def test_near_duplicates_have_one_key(first, second):
    from fewshot_bases import near_duplicate_key

    assert near_duplicate_key(first) == near_duplicate_key(second)


def test_near_duplicates_of_another_word_differ():
    from fewshot_bases import near_duplicate_key

    assert near_duplicate_key("my card") != near_duplicate_key("my cards")


def test_near_duplicates_are_dropped_by_either_text():
    from fewshot_bases import drop_near_duplicates

    examples = [Example("one"), Example("My Card!"), Example("two", pair="my card"), Example("three", pair="four")]
    assert drop_near_duplicates(examples, {"mycard"}) == [examples[0], examples[3]]


def test_base_leaves_out_corpus_and_test_texts(data, tmp_path):
    import fewshot_bases

    texts = ["where is my card?", "Is my pin OK"]
    base = fewshot_bases.write_base("multi", "banking77", texts, tmp_path / "out", steps=12)
    config = load_config(base.config)
    assert list(config.data) == ["sgd", "mrpc"]
    assert list(config.tasks) == ["sgd_intent", "sgd_slots", "paraphrase"]
    assert base.removed == {"sgd": 1, "mrpc": 1}
    assert base.rows == {"sgd": 4, "mrpc": 3}
    written = Path(tmp_path / "out/sgd.jsonl").read_text(encoding="utf-8")
    assert "WHERE" not in written
    assert '"label": "thing"' in written
    batches = {"sgd": 2, "mrpc": 2}
    quotas = temperature(batches, "sgd", config.train.epochs, 2)
    assert sum(quotas.values()) == 12


def test_base_of_one_task_has_labelled_rows_only(data, tmp_path):
    import fewshot_bases

    base = fewshot_bases.write_base("single", "banking77", ["where is my card"], tmp_path / "out", steps=6)
    config = load_config(base.config)
    assert (list(config.data), list(config.tasks)) == (["sgd"], ["sgd_intent"])
    assert (base.removed, base.rows) == ({"sgd": 1}, {"sgd": 3})
    assert "Thank you" not in Path(tmp_path / "out/sgd.jsonl").read_text(encoding="utf-8")
    assert config.train.epochs == 3


def test_base_without_unknown_corpus_is_refused(data, tmp_path):
    import fewshot_bases

    with pytest.raises(ValueError, match="hwu64 must be one of sgd, banking77, mrpc"):
        fewshot_bases.write_base("multi", "hwu64", [], tmp_path / "out", steps=6)


@pytest.mark.parametrize("corpus", ["banking77", "clinc150"])
def test_example_has_fifteen_heads_without_a_target(corpus):
    import fewshot_bases

    table = tomllib.loads((ROOT / "examples/nlu_base.toml").read_text(encoding="utf-8"))
    assert len(table["tasks"]) >= 15
    left = fewshot_bases.leave_out(table, corpus)
    assert len(left["tasks"]) == len(table["tasks"]) - 1
    assert table["train"]["reference"] in left["data"]
    assert all(data in left["data"] for task in left["tasks"].values() for data in task["data"])


def test_joint_training_has_the_batches_of_both_arms():
    import fewshot_bases

    table = tomllib.loads(TINY_BASE)
    rows = {"sgd": 400, "banking77": 100, "mrpc": 36}
    table["train"]["epochs"] = fewshot_bases.epochs_for_steps(rows, table["train"], 90)
    few_shot = tomllib.loads((ROOT / "benchmarks/configs/fewshot.toml").read_text(encoding="utf-8"))
    few_shot["train"]["batch_size"] = 2
    mixed = fewshot_bases.mix_target_in(table, rows, few_shot, 10)
    assert mixed["train"]["mixing"] == "per_task_epochs"
    assert mixed["data"]["target"]["epochs"] == few_shot["train"]["epochs"]
    batches = {name: math.ceil(count / 2) for name, count in rows.items()}
    steps = {name: round(mixed["data"][name]["epochs"] * count) for name, count in batches.items()}
    assert steps == temperature(batches, "sgd", table["train"]["epochs"], 2)
    assert abs(sum(steps.values()) - 90) <= 1
    assert mixed["train"]["learning_rate"] == 1e-3


def test_interval_over_utterances_is_that_of_scipy():
    from paired_bootstrap import bootstrap

    values = np.random.default_rng(1).integers(0, 2, size=400).astype(float)
    own = bootstrap(values[None])
    other = stats.bootstrap((values,), np.mean, n_resamples=5_000, method="percentile", rng=2).confidence_interval
    assert own.mean == pytest.approx(values.mean())
    assert (own.low, own.high) == pytest.approx((other.low, other.high), abs=0.006)


def test_interval_over_seeds_and_utterances_has_both_variances():
    from paired_bootstrap import bootstrap

    generator = np.random.default_rng(3)
    seeds, utterances = generator.normal(0, 0.3, size=(10, 1)), generator.normal(0, 2, size=(1, 300))
    scores = 0.5 + seeds + utterances
    own = bootstrap(scores)
    variance = np.var(scores.mean(axis=1)) / 10 + np.var(scores.mean(axis=0)) / 300
    assert own.high - own.low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.06)


def test_p_value_is_that_of_the_normal_approximation():
    from paired_bootstrap import bootstrap

    values = np.random.default_rng(5).normal(0.15, 1, size=200)
    expected = 2 * stats.norm.sf(values.mean() / (values.std() / math.sqrt(len(values))))
    assert bootstrap(values[None]).p_value == pytest.approx(expected, rel=0.25)
    assert bootstrap(np.zeros((3, 20))).p_value == 1
    assert bootstrap(np.ones((3, 20))).p_value == pytest.approx(2 / 5_001)


def test_holm_adjusts_as_in_the_textbook():
    from paired_bootstrap import holm

    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@pytest.mark.parametrize("count", [1, 8, 3_080])
def test_answers_are_kept_as_bits(count):
    from paired_bootstrap import pack, unpack

    correct = np.random.default_rng(count).integers(0, 2, size=count).astype(bool)
    assert (unpack(pack(correct), count) == correct).all()
    with pytest.raises(ValueError, match="bytes hold no"):
        unpack(pack(correct), count + 8)


def test_cells_have_the_declared_arms_and_seeds():
    import fewshot
    from fewshot_arms import ARMS, ROWS

    cells = fewshot.Plan(list(ROWS), list(ARMS)).cells()
    names = [cell.name for cell in cells]
    assert len(names) == len(set(names)) == 4 * (3 * 1 + 3 * 10 + 2 * 3) + 2 * 3 * 10
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    (multi,) = (cell for cell in cells if cell.name == "clinc150_10/multi/seed13")
    assert [need.name for need in multi.needs] == ["encoder/multi without clinc150/seed13"]
    assert fewshot.Plan(["clinc150_5"], ["plain"], [14]).cells()[0].name == "clinc150_5/plain/seed14"


def test_settings_of_a_cell_name_no_folder_of_the_machine(monkeypatch):
    import fewshot

    (cell,) = fewshot.Plan(["banking77_5"], ["multi"], [13]).cells()
    digest = cell.digest
    monkeypatch.setenv("PALM_DATA", "/elsewhere")
    assert fewshot.Plan(["banking77_5"], ["multi"], [13]).cells()[0].digest == digest
    (longer,) = fewshot.Plan(["banking77_5"], ["multi"], [13], steps=2_000).cells()
    assert longer.digest != digest
    (other,) = fewshot.Plan(["banking77_10"], ["multi"], [13]).cells()
    assert other.digest != digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": ["hwu64_5"], "arms": ["plain"]}, "--rows hwu64_5: must be one of banking77_5"),
        ({"rows": ["banking77_5"], "arms": ["best"]}, "--arms best: must be one of frozen_plain"),
        (
            {"rows": ["clinc150_5"], "arms": ["plain"], "split": "valid"},
            "--split valid needs --rows banking77_5 or snips_1",
        ),
        ({"rows": ["banking77_5"], "arms": ["plain"], "overrides": ("train.epochs=9",)}, "--set needs --split valid"),
    ],
)
def test_plan_that_breaks_the_protocol_is_refused(arguments, message):
    import fewshot

    with pytest.raises(SystemExit, match=message):
        fewshot.Plan(**arguments)


@pytest.mark.slow
def test_finished_cells_are_not_trained_again(data, tmp_path, capsys):
    """Real trainings of a tiny encoder, interrupted between two cells."""
    import fewshot
    from cells import Place, read_results, train_cells

    place, results = Place(data, tmp_path / "work"), tmp_path / "results.json"
    train = fewshot.Plan(["banking77_5"], ["plain"], [13, 14]).cells()
    assert train_cells(train[:1], fewshot.Measure(), place, results, 1, keep=True) == 0
    first = read_results(results)["banking77_5/plain/seed13"]
    assert train_cells(train, fewshot.Measure(), place, results, 1, keep=True) == 0
    assert "2 cells, 1 to train" in capsys.readouterr().out
    cells = read_results(results)
    assert cells["banking77_5/plain/seed13"] == first
    assert set(cells) == {"banking77_5/plain/seed13", "banking77_5/plain/seed14"}
    assert list((tmp_path / "work/runs").iterdir()) == []


@pytest.mark.slow
def test_score_of_a_cell_is_the_share_of_its_right_answers(data, tmp_path):
    import fewshot
    from cells import Place
    from paired_bootstrap import unpack

    (cell,) = fewshot.Plan(["banking77_5"], ["plain"], [13]).cells()
    place = Place(data, tmp_path / "work")
    scores = fewshot.Measure(keep=True)(cell, place, 1)
    right = unpack(scores["correct"], scores["texts"])
    assert scores["texts"] == 2
    assert scores["test"]["accuracy"] == pytest.approx(100 * right.mean())
    run = load_config(place.run(cell) / "config.toml")
    assert run.data["target"].test == ()
    assert run.data["target"].train == (data / "fewshot/BANKING77_train_5.jsonl",)


@pytest.mark.slow
def test_text_with_slots_is_right_where_all_its_tasks_are(data, tmp_path, monkeypatch):
    """Real training on a row with slots: the bits are those of exact match."""
    import fewshot
    from cells import Place
    from paired_bootstrap import unpack

    recipe = tmp_path / "fewshot_slots.toml"
    text = (ROOT / "benchmarks/configs/fewshot_slots.toml").read_text(encoding="utf-8")
    tiny = 'model = "scratch"\nlayers = 1\nhidden_size = 8\nheads = 1'
    recipe.write_text(text.replace('model = "minilm-l6-en"', tiny), encoding="utf-8")
    monkeypatch.setattr(fewshot, "SLOTS_RECIPE", recipe)
    files = {"seq.in": "play jazz\nrain in rome\n", "seq.out": "O B-genre\nO O B-city\n", "label": "Play\nWeather\n"}
    for folder in ("data/snips/test", "work/snips_1/train"):
        (tmp_path / folder).mkdir(parents=True)
        for name, lines in files.items():
            (tmp_path / folder / name).write_text(lines, encoding="utf-8")
    cells = fewshot.Plan(["snips_1"], ["plain", "frozen_plain", "joint"], [13]).cells()
    assert [cell.name for cell in cells] == ["snips_1/plain/seed13"]
    place = Place(data, tmp_path / "work")
    scores = fewshot.Measure(keep=True)(cells[0], place, 1)
    metrics = json.loads((place.run(cells[0]) / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == {}
    right = unpack(scores["correct"], scores["texts"])
    assert len(right) == 2
    assert scores["test"]["accuracy"] == pytest.approx(100 * right.mean())
    assert scores["test"]["accuracy"] <= scores["test"]["intent_accuracy"]
    assert 0 <= scores["test"]["slot_f1"] <= 100


@pytest.mark.slow
def test_arms_start_from_an_encoder_or_train_with_its_tasks(data, tmp_path, monkeypatch):
    """Real trainings: a tiny encoder without the target's corpus, and the arms that need it."""
    import fewshot
    from cells import Place, read_results, train_cells

    recipe = tmp_path / "with_encoder.toml"
    text = (ROOT / "benchmarks/configs/fewshot.toml").read_text(encoding="utf-8")
    recipe.write_text(text.replace("batch_size = 32", "batch_size = 2"), encoding="utf-8")
    monkeypatch.setattr(fewshot, "RECIPE", recipe)
    place, results = Place(data, tmp_path / "work"), tmp_path / "results.json"
    cells = fewshot.Plan(["banking77_5"], ["frozen_multi", "multi", "joint"], [13], steps=6).cells()
    assert train_cells(cells, fewshot.Measure(keep=True), place, results, 1, keep=True) == 0
    scores = read_results(results)
    encoder = scores["encoder/multi without banking77/seed13"]
    assert encoder["removed"] == {"sgd": 1, "mrpc": 1}
    (base,) = {need for cell in cells for need in cell.needs}
    multi, joint = (next(cell for cell in cells if cell.variant == arm) for arm in ("multi", "joint"))
    started = load_config(place.run(multi) / "config.toml")
    assert Path(started.encoder.model).is_relative_to(place.run(base))
    together = load_config(place.run(joint) / "config.toml")
    assert list(together.data) == ["sgd", "mrpc", "target"]
    assert together.tasks["intent"].head == "prototype"
    assert all(scores[cell.name]["texts"] == 2 for cell in cells)
    (place.run(multi) / "metrics.json").unlink()
    assert train_cells(cells, fewshot.Measure(), place, results, 1, keep=True) == 0
    assert read_results(results) == scores


def test_frozen_vectors_are_the_means_over_the_tokens():
    import torch
    from fewshot_scores import encode_texts
    from transformers import AutoModel, AutoTokenizer

    from palm_trainer.tokenization.encoder_files import locate_encoder

    texts = ["where is my card", "no", "please transfer ten dollars to my savings account"]
    folder = locate_encoder("minilm-l6-en")
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    np.testing.assert_allclose(encode_texts(None, texts), mean.numpy(), atol=1e-5)


def cell(row, arm, seed, correct):
    from paired_bootstrap import pack

    scores = {"test": {"accuracy": 100 * np.mean(correct)}, "texts": len(correct), "correct": pack(correct)}
    return f"{row}/{arm}/seed{seed}", {"task": row, "variant": arm, "seed": seed, **scores}


def columns_of(text, first):
    """Return the columns of the one table row that begins so."""
    (row,) = (line for line in text.splitlines() if line.startswith(f"| {first} "))
    return [column.strip() for column in row.strip("|").split("|")]


def test_tables_tell_accuracy_goal_and_paired_difference():
    from fewshot_table import section, tables

    better, worse = [True] * 90 + [False] * 10, [True] * 80 + [False] * 20
    cells = [cell("banking77_5", "multi", seed, better) for seed in (13, 14)]
    cells += [cell("banking77_5", "plain", seed, worse) for seed in (13, 14, 15)]
    encoder = {"task": "encoder", "variant": "multi without banking77", "seed": 13, "removed": {"sgd": 2, "mrpc": 0}}
    text = tables(dict([*cells, ("encoder/multi without banking77/seed13", encoder)]))
    multi, plain = columns_of(text, "pre-finetuned on many tasks (`nlu_base`)"), columns_of(text, "plain MiniLM-L6")
    assert (multi[1], plain[1]) == ("2", "3")
    assert re.fullmatch(r"90\.00 \(8\d\.00 to 9\d\.00\), goal 84\.0 met", multi[2])
    assert re.fullmatch(r"80\.00 \(7\d\.00 to 8\d\.00\), goal 82\.5 missed", plain[2])
    primary = columns_of(text, "BANKING77 5")
    assert primary[1:3] == ["`multi` - `plain` (primary)", "2"]
    assert re.fullmatch(r"\+10\.00 \(\+\d\.00 to \+1\d\.00\)", primary[3])
    assert primary[4] == "0.0004"
    assert "- multi without banking77: sgd 2" in text
    assert section(dict(cells)).startswith("<!-- fewshot -->\nAccuracy on test")
    assert tables({}) == ""


def test_tables_tell_slots_of_rows_that_have_some():
    from fewshot_table import tables

    cells = {}
    for seed, f1 in ((13, 70.0), (14, 74.0)):
        name, values = cell("snips_1", "plain", seed, [True, False])
        cells[name] = {**values, "test": {**values["test"], "slot_f1": f1}}
    text = tables(cells)
    assert "Slots, F1 of spans" in text
    assert "| plain MiniLM-L6 | 72.00 ± 25.42 |" in text
    assert "Slots" not in tables(dict([cell("banking77_5", "plain", 13, [True])]))


def test_secondary_differences_have_adjusted_p_values():
    from fewshot_table import tables

    generator = np.random.default_rng(2)
    cells = []
    for arm, share in {"multi": 0.9, "single": 0.87, "joint": 0.8, "plain": 0.82}.items():
        for seed in (13, 14, 15):
            cells.append(cell("clinc150_5", arm, seed, generator.random(500) < share))
    rows = [line for line in tables(dict(cells)).splitlines() if line.startswith("| CLINC150 5 ")]
    assert [row.count("(Holm)") for row in rows] == [0, 1, 1]
    assert [row.split("|")[2].strip() for row in rows] == [
        "`multi` - `plain` (primary)",
        "`multi` - `single`",
        "`joint` - `plain`",
    ]
