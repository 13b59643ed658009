"""Old spellings of moved keys: each still works, in the file, with --set and in Python, and says its new place."""

import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import tomli_w

from palm_trainer.api.declarations import read_options
from palm_trainer.api.optimizer import Adam
from palm_trainer.config.loader import Config, load_config
from palm_trainer.config.moved_keys import MOVED_KEYS, MovedKeyWarning
from palm_trainer.errors import ConfigError

# A value for each old key that is not the default.
VALUES = {
    "train.balancing": "dwa",
    "train.balancing_learning_rate": 0.5,
    "train.dwa_temperature": 3.0,
    "train.gradnorm_alpha": 0.5,
    "train.cagrad_c": 0.25,
    "train.teachers": ["runs/large"],
    "train.distill_temperature": 4.0,
    "train.distill_weight": 0.25,
    "train.r_drop": 2.0,
    "train.fgm": 0.5,
    "train.word_dropout": 0.25,
    "train.label_smoothing": 0.125,
    "train.ema_decay": 0.75,
    "train.layer_decay": 0.5,
    "train.select": "exact_match",
    "train.patience": 3,
    "train.average_best": 4,
    "train.best_per_task": True,
    "train.save_every_steps": 7,
}
# What another key needs beside it.
BESIDE = {
    "train.balancing_learning_rate": {"balancing": {"method": "uncertainty"}},
    "train.dwa_temperature": {"balancing": {"method": "dwa"}},
    "train.gradnorm_alpha": {"balancing": {"method": "gradnorm"}},
    "train.cagrad_c": {"balancing": {"method": "cagrad"}},
    "train.distill_temperature": {"distillation": {"teachers": ["runs/large"]}},
    "train.distill_weight": {"distillation": {"teachers": ["runs/large"]}},
}
BASE = """
[data.d]
format = "joint"
train = "t"
dev = "t"
[tasks.a]
kind = "classify"
data = ["d"]
[tasks.b]
kind = "sequence_label"
data = ["d"]
[train]
output = "r"
"""


def value_at(config: Config, path: str) -> object:
    value: object = config.model_dump(mode="json")
    for name in path.split("."):
        assert isinstance(value, dict)
        value = value[name]
    return value


def write(path: Path, **train: object) -> Path:
    raw = tomllib.loads(BASE)
    raw["train"] |= train
    path.write_text(tomli_w.dumps(raw), encoding="utf-8")
    return path


def message(old_path: str) -> str:
    return f"^{old_path} is now {MOVED_KEYS[old_path]}. Rename it, since the next version refuses the old spelling.$"


def test_every_moved_key_has_a_value_here():
    assert VALUES.keys() == MOVED_KEYS.keys()


@pytest.mark.parametrize("old_path", MOVED_KEYS)
def test_old_key_in_a_file_is_moved_and_told_once(tmp_path, old_path):
    key = old_path.removeprefix("train.")
    path = write(tmp_path / "c.toml", **BESIDE.get(old_path, {}), **{key: VALUES[old_path]})
    with pytest.warns(MovedKeyWarning, match=message(old_path)) as told:
        config = load_config(path, [f"{old_path}={_toml(VALUES[old_path])}"])
    assert len(told) == 1
    assert value_at(config, MOVED_KEYS[old_path]) == VALUES[old_path]


@pytest.mark.parametrize("old_path", MOVED_KEYS)
def test_old_key_of_set_overrides_the_new_key_of_the_file(tmp_path, old_path):
    section, _, new_key = MOVED_KEYS[old_path].removeprefix("train.").partition(".")
    tables = {section: dict(BESIDE.get(old_path, {}).get(section, {}))}
    tables[section].setdefault(new_key, VALUES[old_path])
    path = write(tmp_path / "c.toml", **tables)
    with pytest.warns(MovedKeyWarning, match=message(old_path)):
        config = load_config(path, [f"{old_path}={_toml(VALUES[old_path])}"])
    assert value_at(config, MOVED_KEYS[old_path]) == VALUES[old_path]


@pytest.mark.parametrize("old_path", [path for path in MOVED_KEYS if path != "train.balancing"])
def test_both_spellings_in_a_file_are_refused(tmp_path, old_path):
    section, _, new_key = MOVED_KEYS[old_path].removeprefix("train.").partition(".")
    key = old_path.removeprefix("train.")
    path = write(tmp_path / "c.toml", **{key: VALUES[old_path], section: {new_key: VALUES[old_path]}})
    expected = f"{old_path} is the old spelling of {MOVED_KEYS[old_path]}, and both are set. Remove {old_path}."
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert expected in str(caught.value)


def test_both_spellings_of_set_are_refused(tmp_path):
    path = write(tmp_path / "c.toml")
    for overrides in (("train.fgm=1", "train.regularization.fgm=2"), ("train.regularization.fgm=2", "train.fgm=1")):
        with pytest.raises(ConfigError, match=r"--set train\.fgm is the old spelling of train\.regularization\.fgm"):
            load_config(path, overrides)


@pytest.mark.parametrize(
    "old_path", [path for path in MOVED_KEYS if path not in ("train.ema_decay", "train.layer_decay")]
)
def test_old_key_of_the_python_api_is_moved_and_told(old_path):
    key = old_path.removeprefix("train.")
    expected = f"^options.{key} is now options{MOVED_KEYS[old_path].removeprefix('train')}. Rename it"
    with pytest.warns(MovedKeyWarning, match=expected):
        settings = read_options(Adam("loss", 1e-4), {**BESIDE.get(old_path, {}), key: VALUES[old_path]})
    _, section, new_key = MOVED_KEYS[old_path].split(".")
    assert settings[section][new_key] == VALUES[old_path]


def test_options_of_the_python_api_are_left_as_they_are():
    options = {"balancing": {"method": "dwa"}, "dwa_temperature": 3.0}
    for _ in range(2):
        with pytest.warns(MovedKeyWarning):
            settings = read_options(Adam("loss", 1e-4), options)
        assert settings["balancing"] == {"method": "dwa", "dwa_temperature": 3.0}
    assert options == {"balancing": {"method": "dwa"}, "dwa_temperature": 3.0}


def test_both_spellings_in_the_python_api_are_refused():
    with pytest.raises(ConfigError, match=r"^options\.r_drop is the old spelling of options\.regularization\.r_drop"):
        read_options(Adam("loss", 1e-4), {"r_drop": 1.0, "regularization": {"r_drop": 1.0}})


@pytest.mark.parametrize("beside", ["events.jsonl", "best"])
def test_configuration_of_an_older_run_opens_silently(tmp_path, beside):
    path = write(tmp_path / "config.toml", balancing="fixed", r_drop=0.5, select="exact_match")
    (tmp_path / beside).mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = load_config(path)
    assert config.train.regularization.r_drop == 0.5
    with pytest.warns(MovedKeyWarning, match="train.fgm is now"):
        load_config(path, ["train.fgm=1"])


def test_command_prints_each_moved_key_once(tmp_path):
    (tmp_path / "t").mkdir()
    for name, text in (("seq.in", "go home"), ("seq.out", "O B-place"), ("label", "go")):
        (tmp_path / "t" / name).write_text(f"{text}\n", encoding="utf-8")
    path = write(tmp_path / "c.toml", r_drop=1.0)
    command = [sys.executable, "-m", "palm_trainer.cli.train", "plan", str(path), "--data-only", "--set", "train.fgm=1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines() == [
        "warning: train.r_drop is now train.regularization.r_drop. "
        "Rename it, since the next version refuses the old spelling.",
        "warning: train.fgm is now train.regularization.fgm. "
        "Rename it, since the next version refuses the old spelling.",
    ]


def test_value_of_a_moved_key_is_checked_in_its_new_place(tmp_path):
    path = write(tmp_path / "c.toml", balancing="sum", r_drop=-1)
    with pytest.warns(MovedKeyWarning), pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "train.balancing.method must be 'fixed', " in str(caught.value)
    assert "train.regularization.r_drop must be greater than or equal to 0" in str(caught.value)


def _toml(value: object) -> str:
    return tomli_w.dumps({"v": value}).removeprefix("v =").replace("\n", "")
