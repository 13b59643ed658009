"""What `plan`, `run`, `compare` and `evaluate` tell of the data: the same lines everywhere."""

import json
import re

import pytest

from palm_trainer.cli.train import app, command
from palm_trainer.data.pieces import UNKNOWN_LIMIT
from palm_trainer.runs.data_checks import tokenize_job, tokenize_split
from palm_trainer.runs.job_from_config import job_from_config

FAULT = re.compile(r"  (\S+ (?:train|dev|test): \d+ x .*, first at .*)")
NEW_INTENT = "row with intent that train does not have"


@pytest.fixture
def palm(capsys):
    """`palm("run", ...)` -> standard output and standard error of a command that succeeds."""

    def _palm(*arguments):
        code = command(app, list(map(str, arguments)))
        out, err = capsys.readouterr()
        assert code == 0, err
        return out, err

    return _palm


def faults_in(printed, split=""):
    """The lines on faults, of one split or of all."""
    return [line for line in FAULT.findall(printed) if f" {split}" in line.partition(":")[0]]


def rename_intents(path, split, name):
    labels = path.parent / "travel" / split / "label"
    labels.write_text(f"{name}\n" * len(labels.read_text().splitlines()))


def test_run_tells_the_lines_of_plan(palm, tiny_toml):
    path = tiny_toml(second=True)
    rename_intents(path, "dev", "unheard")
    planned, _ = palm("plan", path)
    expected = faults_in(planned)
    assert any(f"travel dev: 8 x {NEW_INTENT} (unheard)" in line for line in expected)
    assert any(f"travel test: 1 x {NEW_INTENT} (joyride)" in line for line in expected)
    trained, _ = palm("run", path, "--set", "train.epochs=1")
    assert faults_in(trained) == expected
    assert trained.index(NEW_INTENT) < trained.index("step 2/")
    evaluated, _ = palm("evaluate", path.parent / "run", "--split", "dev")
    assert faults_in(evaluated) == faults_in(planned, "dev")
    evaluated, _ = palm("evaluate", path.parent / "run")
    assert faults_in(evaluated) == faults_in(planned, "test")
    evaluated, _ = palm("evaluate", path.parent / "run", "--split", "train")
    assert faults_in(evaluated) == faults_in(planned, "train")


def test_compare_tells_the_lines_once(palm, tiny_toml, tmp_path):
    path = tiny_toml()
    rename_intents(path, "dev", "unheard")
    options = ("--set", "train.epochs=1", "--seeds", "3", "--output", tmp_path / "compare")
    printed, _ = palm("compare", path, *options)
    assert printed.count(f"travel dev: 8 x {NEW_INTENT} (unheard)") == 1


def test_evaluate_needs_no_training_files(palm, tiny_toml):
    path = tiny_toml()
    palm("run", path, "--set", "train.epochs=1")
    for file in (path.parent / "travel/train").iterdir():
        file.unlink()
    printed, _ = palm("evaluate", path.parent / "run")
    assert "accuracy" in printed
    assert not any("in train" in line or "train does not" in line for line in faults_in(printed))


def test_cut_rows_are_told_with_their_share(palm, tiny_toml):
    path = tiny_toml()
    settings = ("--set", "encoder.max_length=6", "--set", "train.epochs=1")
    cut = re.compile(r"travel (\w+): (\d+) x row longer than encoder.max_length = 6 tokens \(cut, (\S+)% of the rows\)")
    planned, _ = palm("plan", path, *settings)
    cut_rows = cut.findall(planned)
    for split, count, share in cut_rows:
        rows = {"train": 24, "dev": 8, "test": 9}[split]
        assert share == f"{100 * int(count) / rows:.1f}"
    assert [split for split, _, _ in cut_rows] == ["train", "dev", "test"]
    trained, _ = palm("run", path, *settings)
    assert cut.findall(trained) == cut_rows
    evaluated, _ = palm("evaluate", path.parent / "run", "--split", "dev")
    assert cut.findall(evaluated) == cut_rows[1:2]


def test_unknown_pieces_over_the_limit_are_a_warning(palm, tiny_toml):
    path = tiny_toml()
    words = path.parent / "travel/dev/seq.in"
    lines = words.read_text().splitlines()
    words.write_text("".join(" ".join("ωщ" for _ in line.split()) + "\n" for line in lines))
    planned, err = palm("plan", path)
    assert err == ""
    [line] = [line for line in faults_in(planned, "dev") if "does not know" in line]
    assert line.startswith("travel dev: ")
    assert "(100.0% of the pieces)" in line
    _, err = palm("run", path, "--set", "train.epochs=1")
    assert err == f"warning: {line}\n"
    _, err = palm("evaluate", path.parent / "run", "--split", "dev")
    assert err == f"warning: {line}\n"
    assert line.endswith(". Choose an encoder.model that reads this text.")


def test_few_unknown_pieces_are_told_without_a_warning(palm, tiny_toml):
    path = tiny_toml()
    words = path.parent / "travel/dev/seq.in"
    words.write_text(words.read_text().replace("flights", "ω", 1))
    trained, err = palm("run", path, "--set", "train.epochs=1")
    assert err == ""
    [line] = [line for line in faults_in(trained, "dev") if "does not know" in line]
    share = float(re.search(r"\((\S+)% of the pieces", line)[1]) / 100
    assert 0 < share <= UNKNOWN_LIMIT


def test_pretrained_encoder_that_reads_letters_is_a_warning(palm, tmp_path):
    """The packaged English encoder has Cyrillic letters, so that no piece is unknown, and knows no word."""
    rows = [{"text": f"включи свет в комнате номер {number}", "intent": "вкл"} for number in range(4)]
    rows += [{"text": f"сыграй громкую музыку {number}", "intent": "играй"} for number in range(4)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "c.toml").write_text(
        '[encoder]\nmodel = "minilm-l6-en"\nmax_length = 64\n[data.d]\nformat = "jsonl"\ntrain = "data.jsonl"\n'
        '[tasks.intent]\nkind = "classify"\ndata = ["d"]\n[train]\ndevice = "cpu"\noutput = "run"\n'
    )
    planned, _ = palm("plan", tmp_path / "c.toml")
    assert re.search(r"d train: \d+ x letter that the encoder reads alone or not at all \((9\d|100)% of", planned)


def test_split_that_the_run_lacks_is_not_offered(tiny_config, fit, capsys):
    config = tiny_config("train.epochs=1", splits=("dev",))
    fit(config)
    code = command(app, ["evaluate", str(config.train.output)])
    err = capsys.readouterr().err
    assert code == 2
    assert "--split must be a split of the run's data (dev, train), got 'test'." in err


def test_train_is_counted_as_it_was_encoded_for_training(tiny_config):
    outside = "data.travel.out_of_scope_train=general-en"
    job = job_from_config(tiny_config("encoder.max_length=6", outside))
    dataset = job.loop.sources["travel"].dataset
    examples = job.evaluation.splits.examples("travel", "train")
    assert len(dataset) > len(examples)
    assert dataset.begins_with(examples, 6)
    assert not dataset.begins_with(examples, 7)
    assert not dataset.begins_with(examples[::-1], 6)
    assert not dataset.begins_with([*examples] * 100, 6)
    counted = tokenize_job(job)["travel"]["train"]
    assert counted == tokenize_split(dataset.inputs, examples, job.trained.tokenizer_json, 6)
    assert counted.cut
