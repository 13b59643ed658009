"""`palm-train plan`: every split, what is wrong with it, and what is cut."""

import re

import pytest

from palm_trainer.cli.train import app, command
from palm_trainer.runs import job_from_config as build


@pytest.fixture
def plan(tiny_toml, capsys):
    """`plan("--data-only", ...)` -> what it printed."""

    def _plan(*arguments):
        assert command(app, ["plan", str(tiny_toml()), *arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return _plan


def test_rows_tokens_and_what_is_cut(plan):
    printed = plan("--set", "encoder.max_length=6")
    assert re.search(r"│ travel +│ train +│ +\d+ │ +6 / 6 │ +\d+ │ +\d+ │ +[\d.]+% │ +\d+ │ +3\.0 │", printed)
    assert re.search(
        r"travel train: \d+ x row longer than encoder\.max_length = 6 tokens \(cut, [\d.]+% of the rows\), first at .*seq\.in:\d+",
        printed,
    )
    assert re.search(r"travel dev: \d+ x row longer than encoder\.max_length", printed)


def test_span_types_are_counted_alike_in_table_and_line(plan):
    printed = " ".join(plan().split())
    in_table = re.search(r"│ slots │ sequence_label │ slots │ slots │ travel │ (\d+): ", printed)
    in_line = re.search(r"slots \(sequence_label, (\d+) labels\)", printed)
    assert in_table is not None
    assert in_line is not None
    assert in_table[1] == in_line[1]


def test_faults_across_splits(plan):
    printed = plan()
    assert re.search(r"travel test: \d+ x text that occurs in train too, first at .*test/seq\.in:1", printed)
    assert re.search(
        r"travel test: 1 x row with intent that train does not have \(joyride\), first at .*seq\.in:\d+", printed
    )
    assert re.search(r"travel test: 1 x row with slots that train does not have \(planet\)", printed)


def test_files_alone_load_no_encoder(plan, monkeypatch):
    monkeypatch.delattr(build, "load_job_encoder")
    printed = plan("--data-only")
    assert re.search(r"│ travel +│ test +│ +\d+ │\n", printed)
    assert re.search(r"│ intent +│ classify +│ intent +│ intent +│ travel +│ 3: ", printed)
    assert "travel: format joint" in printed


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ('""', "train.output must be a path, got ''"),
        ("5", "train.output must be a path, got 5"),
        ("[1]", "train.output must be a path, got [1]"),
        ('"a\\u0000b"', "train.output must not hold a zero byte"),
        ("FILE", "is a file. Choose another output directory."),
        ("FILE/below/it", "is a file. Choose another output directory."),
    ],
)
@pytest.mark.parametrize("arguments", [("plan", "--data-only"), ("plan",), ("run",)])
def test_output_that_cannot_be_a_directory_is_refused(tiny_toml, tmp_path, capsys, arguments, output, message):
    (tmp_path / "taken").write_text("x")
    value = output.replace("FILE", str(tmp_path / "taken"))
    name, *options = arguments
    assert command(app, [name, str(tiny_toml()), *options, "--set", f"train.output={value}"]) == 2
    assert message in capsys.readouterr().err


def test_plan_needs_no_output(tiny_toml, tmp_path, capsys):
    path = tiny_toml()
    path.write_text(re.sub(r"(?m)^output = .*$", "", path.read_text()))
    assert command(app, ["plan", str(path), "--data-only"]) == 0, capsys.readouterr().err


def test_files_of_commands_create_their_directories(tiny_toml, tmp_path, capsys):
    data = tmp_path / "few.jsonl"
    data.write_text("".join(f'{{"text": "t {number}", "intent": "i{number % 2}"}}\n' for number in range(20)))
    written = {
        "init": ["init", data, "--output", tmp_path / "a/b/few.toml"],
        "schema": ["schema", "--output", tmp_path / "c/d/schema.json"],
    }
    for name, arguments in written.items():
        assert command(app, list(map(str, arguments))) == 0, capsys.readouterr().err
        assert arguments[-1].stat().st_size > 0, name
    assert command(app, ["init", str(data), "--output", str(data / "x.toml")]) == 2
    assert str(data) in capsys.readouterr().err


@pytest.mark.parametrize("command_line", [("init", "DATA", "--output"), ("predict", "RUN", "--text", "a", "--output")])
@pytest.mark.parametrize("kind", ["directory", "below a file"])
def test_output_that_cannot_be_a_file_is_refused_first(tmp_path, capsys, command_line, kind):
    """Before data is read or a model is loaded: neither is there."""
    (tmp_path / "taken").touch()
    target = tmp_path if kind == "directory" else tmp_path / "taken" / "file"
    names = {"DATA": tmp_path / "nothing.jsonl", "RUN": tmp_path / "nothing"}
    assert command(app, [*(str(names.get(word, word)) for word in command_line), str(target)]) == 2
    message = "must be a file, got a directory" if kind == "directory" else "taken is a file"
    assert message in capsys.readouterr().err
