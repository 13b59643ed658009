"""A run reads each file of its data once, through the parser of its format."""

from collections import Counter

import pytest
from typer.testing import CliRunner

from palm_trainer.cli.train import app
from palm_trainer.data.formats import FORMATS


@pytest.fixture
def reads(monkeypatch):
    """Count the calls of all format parsers by path."""
    counted = Counter()

    def counting(parse):
        def parse_and_count(path, options, defects):
            counted[path.name] += 1
            return parse(path, options, defects)

        return parse_and_count

    for name, parse in list(FORMATS.items()):
        monkeypatch.setitem(FORMATS, name, counting(parse))
    return counted


def test_whole_run_reads_each_file_once(tiny_toml, reads, tmp_path):
    path = tiny_toml()
    (tmp_path / "chat.txt").write_text("who is it\nwhat film\n")
    text = path.read_text().replace('dev = "travel/dev"', 'dev = "travel/dev"\nout_of_scope = "chat.txt"')
    path.write_text(text)
    result = CliRunner().invoke(app, ["run", str(path), "--set", "train.epochs=2"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run/report.html").is_file()
    assert reads == {"train": 1, "dev": 1, "test": 1, "chat.txt": 1}


def test_report_of_a_run_reads_each_file_once(finished_run, reads, tmp_path):
    result = CliRunner().invoke(app, ["report", str(finished_run), "--output", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert reads == {"train": 1, "dev": 1, "reviews.tsv": 2}  # train and dev of one data set name it
