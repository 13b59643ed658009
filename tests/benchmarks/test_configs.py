"""Every configuration of the benchmarks and examples is one that `palm-train` takes, and comparable ones differ in what they should only."""

from pathlib import Path

import pytest

from palm_trainer.config.loader import Config, load_config

ROOT = Path(__file__).parents[2]
ONLY_TRAIN = {"mixatis_atis": {"atis"}}
"""Data sets that only add training rows to the tasks of another one."""
FILES = sorted([*ROOT.glob("benchmarks/configs/*.toml"), *ROOT.glob("examples/*.toml")])


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    for name in ("PALM_DATA", "PALM_WORK", "PALM_PRETRAIN", "PALM_TASK_DATA"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("XQUAD_FOLD", "0")


def config(name: str) -> Config:
    return load_config(ROOT / f"benchmarks/configs/{name}.toml")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_loads(path):
    settings = load_config(path)
    assert settings.train.output.parts[0] == "runs"


def test_every_benchmark_scores_test_and_selects_on_dev():
    for path in ROOT.glob("benchmarks/configs/*.toml"):
        c = load_config(path)
        main = {data for task in c.tasks.values() if not task.auxiliary for data in task.data}
        main -= ONLY_TRAIN.get(path.stem, set())
        assert all(c.data[name].test for name in main), path
        if not path.stem.startswith("fewshot"):  # with five examples a class nobody has a dev split
            assert path.stem.startswith("original_") or all(
                c.data[name].dev or c.data[name].dev_share for name in main
            ), path


def test_intents_and_slots_select_on_what_the_table_shows():
    """Exact match of ATIS, SNIPS and MixATIS. `atis_joint` follows the article that it is compared with."""
    checked = set()
    for path in FILES:
        c = load_config(path)
        kinds = sorted(task.kind for task in c.tasks.values() if not task.auxiliary)
        if "sequence_label" in kinds and len(kinds) == 2 and {"atis", "snips", "mixatis"} & set(c.data):
            checked.add(path.stem)
            assert (c.train.checkpoints.select == "exact_match") == (path.stem != "atis_joint"), path
    assert {"atis", "snips", "mixatis", "tenth", "atis_words", "snips_scratch"} <= checked


@pytest.mark.parametrize("name", ["cais", "chnsenticorp", "lcqmc", "msra"])
def test_e5_small_zh_reads_what_scratch_reads(name):
    """Of a pair that is compared only the encoder, its dropout and the schedule differ."""
    scratch, pretrained = config(name), config(f"{name}_e5")
    assert pretrained.encoder.model == "e5-small-zh"
    assert pretrained.encoder.max_length == scratch.encoder.max_length
    assert pretrained.data == scratch.data
    assert pretrained.train.checkpoints == scratch.train.checkpoints
    without_dropout = {task: table.model_copy(update={"dropout": 0.1}) for task, table in scratch.tasks.items()}
    assert {
        task: table.model_copy(update={"dropout": 0.1}) for task, table in pretrained.tasks.items()
    } == without_dropout


def test_mixatis_with_atis_differs_in_its_data_only():
    alone, together = config("mixatis"), config("mixatis_atis")
    assert alone.encoder == together.encoder
    assert alone.data["mixatis"] == together.data["mixatis"]
    assert {
        name: task.model_copy(update={"data": ("mixatis",)}) for name, task in together.tasks.items()
    } == alone.tasks
    same = {"output": alone.train.output, "mixing": alone.train.mixing}  # all rows of both for as many epochs
    assert together.train.mixing == "proportional"
    assert together.train.model_copy(update=same) == alone.train


def test_dnet_differs_from_mrc_alone_in_its_auxiliaries_only():
    alone, dnet = config("xquad"), config("xquad_dnet")
    assert alone.encoder == dnet.encoder
    assert alone.tasks["answer"] == dnet.tasks["answer"]
    assert alone.data["xquad"] == dnet.data["xquad"]
    assert [task.auxiliary for task in dnet.tasks.values()] == [False, True, True]
    assert [data.mix_ratio for data in dnet.data.values()] == [1.0, 2.0, 0.8]
    same = {"output": alone.train.output, "reference": alone.train.reference}
    assert dnet.train.model_copy(update=same) == alone.train


def test_originals_have_the_published_settings():
    """Length, batch, epochs, rate, weight decay of the original's example scripts."""
    published = {
        "chnsenticorp": (256, 8, 10, 5e-5, 0.01),
        "quora": (128, 16, 3, 3e-5, 0.0),
        "msra": (256, 16, 6, 5e-5, 0.01),
        "cmrc2018": (512, 8, 2, 3e-5, 0.01),
        "atis": (128, 16, 20, 2e-5, 0.01),
    }
    for name, settings in published.items():
        c = config(f"original_{name}")
        found = (c.encoder.max_length, c.train.batch_size, c.train.epochs, c.train.learning_rate, c.train.weight_decay)
        assert found == settings, name
        assert c.train.head_learning_rate == c.train.learning_rate
        assert (c.train.seed, c.train.warmup_ratio) == (1, 0.1)
    page = (ROOT / "docs/benchmarks/original_figures.md").read_text(encoding="utf-8")
    assert all(f"benchmarks/configs/original_{name}.toml" in page for name in published)
