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
