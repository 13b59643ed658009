"""The JSON schema: what it holds, which files it accepts, and that it is the stored one.

After a change of the configuration: `palm-train schema --output tests/palm_trainer/config/schema.json`.
"""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest

from palm_trainer.cli.train import app, command
from palm_trainer.config.json_schema import config_schema
from palm_trainer.config.loader import load_config
from palm_trainer.config.schema import TASK_KINDS, TaskConfig, TrainConfig

ROOT = Path(__file__).parents[3]
STORED = Path(__file__).with_name("schema.json")
TOML_FILES = [*ROOT.glob("examples/*.toml"), *ROOT.glob("benchmarks/configs/*.toml")]
MINIMAL = """
[data.d]
format = "joint"
train = "t"
[tasks.t]
kind = "classify"
data = ["d"]
[train]
output = "r"
"""


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema.Draft202012Validator(config_schema())


def test_schema_is_the_stored_one():
    expected = json.loads(STORED.read_text(encoding="utf-8"))
    assert config_schema() == expected, f"run: palm-train schema --output {STORED.relative_to(ROOT)}"


def test_schema_is_valid():
    jsonschema.Draft202012Validator.check_schema(config_schema())


def test_command_prints_or_writes_the_schema(capsys, tmp_path):
    assert command(app, ["schema"]) == 0
    printed = capsys.readouterr().out
    assert command(app, ["schema", "--output", str(tmp_path / "s.json")]) == 0
    assert (tmp_path / "s.json").read_text(encoding="utf-8") == printed
    assert printed == STORED.read_text(encoding="utf-8")


def test_every_key_has_a_description():
    missing = [path for path, value in _keys() if not value.get("description") and "$ref" not in value]
    assert missing == []


def test_regularization_is_marked_experimental():
    regularization = config_schema()["$defs"]["RegularizationConfig"]
    measured = {"anchor"}
    for key, value in regularization["properties"].items():
        assert value["description"].startswith("Experimental: ") == (key not in measured), key
    average_best = config_schema()["$defs"]["CheckpointsConfig"]["properties"]["average_best"]
    assert average_best["description"].startswith("Experimental: ")


def test_defaults_are_those_of_the_sections():
    properties = config_schema()["$defs"]["TrainConfig"]["properties"]
    for name, field in TrainConfig.model_fields.items():
        if isinstance(field.default, int | float | str):
            assert properties[name]["default"] == field.default


@pytest.mark.parametrize("path", TOML_FILES, ids=lambda path: path.stem)
def test_every_configuration_of_the_repository_is_accepted(validator, path):
    assert list(validator.iter_errors(tomllib.loads(path.read_text(encoding="utf-8")))) == []


def test_resolved_configuration_is_accepted(validator, tmp_path):
    (tmp_path / "c.toml").write_text(MINIMAL, encoding="utf-8")
    for overrides in ((), ("encoder.model=scratch",)):
        config = load_config(tmp_path / "c.toml", overrides)
        assert list(validator.iter_errors(tomllib.loads(config.dump_toml()))) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('kind = "classify"', 'kind = "classify"\ncrf = true'),
        ('kind = "classify"', 'kind = "clasify"'),
        ('kind = "classify"', 'kind = "mrc"\nrole = "intent"'),
        ('kind = "classify"', ""),
        ('format = "joint"', 'format = "joint"\ncolumns = ["a"]'),
        ('format = "joint"', 'format = "xml"'),
        ('train = "t"', "train = []"),
        ("[data.d]", "[encoder]\nlayers = 2\n[data.d]"),
        ("[data.d]", '[encoder]\nmodel = "scratch"\nlayer = 2\n[data.d]'),
        ('output = "r"', 'output = "r"\nr_drop = 1.0'),
        ('output = "r"', 'output = "r"\nregularization.r_drop = -1.0'),
        ('output = "r"', 'output = "r"\nepochs = "3"'),
        ("[data.d]", '[data."a b"]'),
    ],
)
def test_wrong_configurations_are_refused(validator, old, new):
    validator.validate(tomllib.loads(MINIMAL))
    changed = MINIMAL.replace(old, new, 1)
    assert changed != MINIMAL
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(tomllib.loads(changed))


def test_new_kind_is_loaded_and_described(monkeypatch, tmp_path):
    class RankTask(TaskConfig):
        """A kind of a plug-in."""

        kind: Literal["rank"]
        depth: int = 3
        """Number of answers that are compared."""

    monkeypatch.setitem(TASK_KINDS.members, "rank", RankTask)
    path = tmp_path / "c.toml"
    path.write_text(MINIMAL.replace('"classify"', '"rank"\ndepth = 5'), encoding="utf-8")
    assert load_config(path).tasks["t"].depth == 5
    assert config_schema()["$defs"]["RankTask"]["properties"]["depth"]["default"] == 3


def _keys() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the schema of each key of each section."""
    for name, definition in config_schema()["$defs"].items():
        for key, value in definition["properties"].items():
            yield f"{name}.{key}", value
