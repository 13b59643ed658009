"""The configuration: what is read, and what every fault says."""

import os
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.config.json_schema import config_schema
from palm_trainer.config.loader import Config, load_config
from palm_trainer.config.schema import DATA_FORMATS, FORMAT_OPTIONS
from palm_trainer.data.formats.text_files import FormatOptions
from palm_trainer.errors import ConfigError

GOOD = """
[encoder]
max_length = 64

[data.travel]
format = "joint"
train = "corpus/train"
dev = ["corpus/dev", "${MORE}/dev"]

[data.mood]
format = "tsv"
train = "mood.tsv"
columns = ["text", "label"]
mix_ratio = 0.5

[tasks.intent]
kind = "classify"
role = "intent"
data = ["travel"]

[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["travel"]
crf = false

[tasks.mood]
kind = "classify"
data = ["mood"]
learning_rate = 1e-3

[train]
epochs = 2
output = "runs/travel"
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("MORE", "/more")

    def _write(text: str = GOOD) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def fault(path: Path, *args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, *args, **kwargs)
    return str(caught.value)


def test_reads_sections_paths_and_environment(write, tmp_path):
    config = load_config(write())
    assert config.data["travel"].train == (tmp_path.resolve() / "corpus/train",)
    assert config.data["travel"].dev == (tmp_path.resolve() / "corpus/dev", Path("/more/dev"))
    assert config.data["travel"].test == ()
    assert config.train.output == Path("runs/travel")
    assert config.train.epochs == 2
    assert not config.tasks["slots"].crf
    assert config.reference == "travel"


def test_output_of_the_command_line_replaces_the_files(write):
    assert load_config(write(), output=Path("elsewhere")).train.output == Path("elsewhere")
    assert load_config(write(GOOD.replace('output = "runs/travel"', "")), output=Path("x")).train.output == Path("x")


@pytest.mark.parametrize(
    ("override", "check"),
    [
        ("train.epochs=3", lambda c: c.train.epochs == 3),
        ("train.output=runs/bare string", lambda c: c.train.output == Path("runs/bare string")),
        ('tasks.mood.data=["mood", "travel"]', lambda c: c.tasks["mood"].data == ("mood", "travel")),
        ("tasks.intent.weight = 0.5", lambda c: c.tasks["intent"].weight == 0.5),
        ("encoder.model=scratch", lambda c: c.encoder.model == "scratch"),
        ("tasks.slots.crf=true", lambda c: c.tasks["slots"].crf),
    ],
)
def test_overrides(write, override, check):
    assert check(load_config(write(), [override]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epocs=3", "--set train.epocs: 'epocs' is not a key. Did you mean 'epochs'?"),
        ("trian.epochs=3", "--set trian.epochs: 'trian' is not a section. Did you mean 'train'?"),
        ("tasks.intents.weight=3", "--set tasks.intents.weight: 'intents' is not in [tasks]. Did you mean 'intent'?"),
        ("tasks.intent.weight.x=3", "'weight.x' is not a key. Did you mean 'weight'?"),
        ("train.epochs", "--set must be KEY=VALUE with a dotted key, got 'train.epochs'."),
        ("train.epochs=many", "train.epochs must be a valid number, got 'many'."),
    ],
)
def test_override_faults(write, override, message):
    assert message in fault(write(), [override])


BAD = """
[encoder]
max_length = 2
poling = "cls"
heads = 3
[data.travel]
format = "joiint"
train = "${PALM_UNSET_VARIABLE}/x"
[data.other]
format = "joint"
columns = ["a"]
train = []
[tasks.intent]
kind = "clasify"
data = ["travl"]
[tasks.slots]
kind = "classify"
role = "slots"
data = []
crf = true
[tasks."a b"]
kind = "mrc"
data = ["other"]
weight = "3"
[train]
epochs = -1
reference = "q9"
device = "gpu"
[train.checkpoints]
select = "x.f1"
[trian]
"""


def test_every_fault_is_told_at_once(write):
    said = fault(write(BAD))
    for line in (
        "config.toml: 21 faults",
        "${PALM_UNSET_VARIABLE} must be an environment variable. Set PALM_UNSET_VARIABLE, or write the path itself.",
        "trian is not a section. Did you mean 'train'?",
        "encoder.max_length must be greater than or equal to 3, got 2.",
        "encoder.poling is not a key of [encoder]. Did you mean 'pooling'?",
        "train.output is missing. Add `output = ...` to [train] or give --output.",
        "train.epochs must be greater than 0, got -1.",
        "train.device must match pattern",
        "data.other.train must have at least one item, got an empty list.",
        "tasks.intent.kind must be one of classify, multi_label, sequence_label, match, mrc, masked_lm, got 'clasify'. Did you mean 'classify'?",
        "tasks.slots.data must have at least one item, got an empty list.",
        "tasks.a b.weight must be a valid number, got '3'.",
        "encoder.heads must be true or false, as a number of attention heads is only for model 'scratch', got 3.",
        "tasks.a b must be a name of letters, digits, _ and -",
        "prodigy, spacy, parquet, datasets, got 'joiint'. Did you mean 'joint'?",
        "data.other.columns is only for format 'palm' or 'tsv' or 'csv' or 'jsonl' or 'json' or 'parquet' or 'datasets', got 'joint'. Remove it.",
        "tasks.intent.data must name data sets of [data], got 'travl'. Did you mean 'travel'?",
        "tasks.slots.role = 'slots' needs kind sequence_label, got 'classify'. Change one of them.",
        "tasks.slots.crf is only for kind 'sequence_label', got 'classify'. Remove it.",
        "data.travel must be used by a task. Name it in the `data` of a task, or remove it.",
        "train.reference must name a data set of [data], got 'q9'. Known: travel, other.",
        "train.checkpoints.select must be average, exact_match or TASK.METRIC, got 'x.f1'. Tasks: intent, slots, a b.",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[encoder]",
            '[encoder]\nmodel = "scratch"\nheads = 3',
            "encoder.hidden_size must be a multiple of heads = 3, got 256. Change one of them.",
        ),
        (
            'kind = "classify"\nrole',
            'kind = "classify"\nn_best = 3\nrole',
            "tasks.intent.n_best is only for kind 'mrc', got 'classify'. Remove it.",
        ),
        (
            'format = "tsv"',
            'format = "tsv"\njoiner = ""',
            "data.mood.joiner is only for format 'joint' or 'conll' or 'palm' or 'jsonl' or 'json' or 'parquet' or 'datasets', got 'tsv'.",
        ),
        ('format = "tsv"', "", "data.mood.format is missing. Add `format = ...` to [data.mood]: one of joint, conll,"),
        ('format = "tsv"', "format = 3", "prodigy, spacy, parquet, datasets, got 3."),
        (
            "max_length = 64",
            "layers = 2\nlayer = 3",
            "encoder.layers is only for model 'scratch', got 'minilm-l6-en'. Remove it.",
        ),
        (
            "max_length = 64",
            "max_lenght = 2",
            "encoder.max_lenght is not a key of [encoder]. Did you mean 'max_length'?",
        ),
        (
            "epochs = 2",
            "distillation.weight = 0.5",
            "train.distillation.weight needs teachers, got none.",
        ),
    ],
)
def test_key_of_another_member_names_its_owner(write, old, new, message):
    assert message in fault(write(GOOD.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('role = "slots"', ""), None),
        (
            ('kind = "classify"\ndata = ["mood"]', 'kind = "classify"\nrole = "intent"\ndata = ["mood"]'),
            "got 'intent' held by intent, mood.",
        ),
        (("[data.", "data = 3\n[other."), "data is missing. Add a table such as"),
        (("[tasks.", "[jobs."), "tasks is missing. Add a table such as"),
        (("data = [", "auxiliary = true\ndata = ["), "tasks must not all be auxiliary, got intent, slots, mood."),
        (("epochs = 2", 'checkpoints.select = "mood.accuracy"'), None),
    ],
)
def test_rules_between_keys(write, change, message):
    path = write(GOOD.replace(*change))
    if message is None:
        load_config(path)
    else:
        assert message in fault(path)


def test_files_that_cannot_be_read(write, tmp_path):
    assert "no such file. `palm-train init DATA`" in fault(tmp_path / "absent.toml")
    assert "cannot be read" in fault(tmp_path)
    assert "must be TOML: " in fault(write("[train]\nepochs = \n"))
    assert "line 2" in fault(write("[train]\nepochs = \n"))
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# caf\xe9")
    assert "latin.toml:1: must be UTF-8, got the byte 0xe9" in fault(path)


def test_configuration_that_is_no_regular_file_is_not_waited_for(tmp_path):
    pipe = tmp_path / "c.toml"
    os.mkfifo(pipe)
    assert "c.toml must be a regular file, got a pipe or device" in fault(pipe)


@pytest.mark.parametrize(("encoding", "told"), [("utf-16", "UTF-16"), ("utf-32", "UTF-32")], ids=["utf-16", "utf-32"])
def test_encoding_of_a_configuration_is_named(tmp_path, encoding, told):
    path = tmp_path / "c.toml"
    path.write_bytes("a = 1".encode(encoding))
    assert f"must be UTF-8, got {told}. Save the file as UTF-8." in fault(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = " + "[" * 20_000, r"nested (too deeply|deeper than 20 levels)"),
        ("x = " + "{a=" * 5_000, r"nested (too deeply|deeper than 20 levels)"),
        ("x" + ".a" * 3_000 + " = 1", r"nested (too deeply|deeper than 20 levels)"),
        ("[train]\nepochs = " + "9" * 5_000, "a number has too many digits"),
    ],
    ids=["lists", "tables", "keys", "digits"],
)
def test_excessive_toml_is_one_message(tmp_path, content, message):
    path = tmp_path / "c.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


@pytest.mark.parametrize("value", ["[" * 5_000, "9" * 5_000], ids=["lists", "digits"])
def test_excessive_override_is_one_message(write, value):
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        load_config(write(), [f"train.epochs={value}"])


@pytest.mark.parametrize("key", ["data.travel.train", "train.output"])
def test_zero_byte_in_a_path_is_refused(write, key):
    with pytest.raises(ConfigError, match=rf"{key}.*must not hold a zero byte"):
        load_config(write(), [f'{key}="a\\u0000b"'])


def test_dump_reads_back_equal(write, tmp_path):
    config = load_config(write(), ["tasks.mood.field=label"])
    path = tmp_path / "elsewhere" / "config.toml"
    path.parent.mkdir()
    path.write_text(config.dump_toml(), encoding="utf-8")
    assert load_config(path) == config


@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1).map(lambda s: "a" + s))
def test_any_string_survives_the_dump(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    first, second = folder / "first.toml", folder / "second.toml"
    minimal = (
        '[data.d]\nformat = "joint"\ntrain = "t"\n[tasks.t]\nkind = "classify"\ndata = ["d"]\n[train]\noutput = "r"\n'
    )
    first.write_text(minimal, encoding="utf-8")
    config = load_config(first)
    task = config.tasks["t"].model_copy(update={"field": text})
    config = Config(encoder=config.encoder, data=config.data, tasks={"t": task}, train=config.train)
    second.write_bytes(config.dump_toml().encode())
    assert load_config(second) == config


@pytest.mark.parametrize("literal", ["$${HOME}", "a$${X}b"])
def test_doubled_dollar_is_no_variable(write, literal):
    config = load_config(write(GOOD.replace("learning_rate = 1e-3", f'field = "{literal}"')))
    assert config.tasks["mood"].field == literal.replace("$$", "$")


def test_local_encoder_directory_is_relative_to_the_file(write, tmp_path):
    (tmp_path / "weights").mkdir()
    for name in ("weights", "./weights", "./absent"):
        config = load_config(write(), [f"encoder.model={name}"])
        assert config.encoder.model == str((tmp_path / name).resolve())
    assert load_config(write(), ["encoder.model=org/name"]).encoder.model == "org/name"


def test_scratch_fields_are_dumped_only_for_scratch(write):
    assert "hidden_size" not in load_config(write()).dump_toml()
    assert "hidden_size" in load_config(write(), ["encoder.model=scratch"]).dump_toml()


def test_every_format_option_is_a_key_of_a_data_set():
    """The options of the parsers are those of the formats, and each format's section has its own name among its tags."""
    options = {field.name for field in fields(FormatOptions)}
    assert options == set().union(*FORMAT_OPTIONS.values())
    for name, model in DATA_FORMATS.members.items():
        assert name in get_args(model.model_fields["format"].annotation)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (GOOD.replace("epochs = 2", "regularization.r_drop = 1.0").replace("crf = false", "dropout = 0.0"), None),
        (
            '[encoder]\nmodel = "scratch"\ndropout = 0.0\n[data.t]\nformat = "tsv"\ntrain = "t"\n[tasks.a]\nkind = "classify"\n'
            'data = ["t"]\ndropout = 0.0\n[train]\noutput = "o"\nregularization.r_drop = 1.0\n',
            "train.regularization.r_drop needs dropout above 0, got 0 for the encoder and every task.",
        ),
        (
            '[data.t]\nformat = "text"\ntrain = "t"\n[tasks.a]\nkind = "masked_lm"\ndata = ["t"]\n[train]\noutput = "o"\n'
            "regularization.word_dropout = 0.1\n",
            "train.regularization.word_dropout needs a task of another kind than masked_lm, got none.",
        ),
    ],
)
def test_regularization_that_could_do_nothing_is_refused(write, text, match):
    if match is None:
        assert load_config(write(text)).train.regularization.r_drop == 1.0
    else:
        assert match in fault(write(text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "[tasks.intent]\nbaseline = 0.9",
            "tasks must all have a baseline or none, got one for intent and none for slots, mood.",
        ),
        (
            "[tasks.intent]\nbaseline = 0.9\nauxiliary = true",
            "tasks.intent.baseline needs a task that is selected on, got an auxiliary one.",
        ),
        ("[tasks.intent]\nbaseline = 0.0", "tasks.intent.baseline must be greater than 0, got 0.0."),
    ],
)
def test_baselines(write, change, message):
    assert message in fault(write(GOOD.replace("[tasks.intent]", change)))


def test_baselines_without_the_average(write):
    text = GOOD
    for name in ("intent", "slots", "mood"):
        text = text.replace(f"[tasks.{name}]", f"[tasks.{name}]\nbaseline = 0.5")
    assert load_config(write(text)).tasks["mood"].baseline == 0.5
    assert (
        "train.checkpoints.select must be average for tasks with a baseline (intent, slots, mood), got 'mood.accuracy'."
        in fault(write(text + 'checkpoints.select = "mood.accuracy"\n'))
    )


TOO_MUCH = {
    "train.epochs": ("1e300", "1_000_000"),
    "train.learning_rate": ("1e30", "100"),
    "train.head_learning_rate": ("1e30",),
    "train.crf_learning_rate": ("1e300",),
    "train.batch_size": ("1_000_000_000_000", "10_000_000"),
    "train.accumulate_steps": ("1_000_000_000_000",),
    "train.weight_decay": ("1e30",),
    "train.max_grad_norm": ("1e300",),
    "train.evaluations": ("1_000_000_000_000",),
    "train.log_every_steps": ("1_000_000_000_000",),
    "train.freeze_layers": ("1_000_000_000_000",),
    "train.checkpoints.patience": ("1_000_000_000_000",),
    "train.checkpoints.average_best": ("1_000_000_000_000",),
    "train.checkpoints.save_every_steps": ("1_000_000_000_000",),
    "train.regularization.r_drop": ("1e30",),
    "train.regularization.fgm": ("1e30",),
    "train.distillation.temperature": ("1e30",),
    "train.balancing.dwa_temperature": ("1e30",),
    "train.balancing.gradnorm_alpha": ("1e30",),
    "train.mixing_temperature": ("1e30",),
    "encoder.max_length": ("1_000_000_000", "10_000"),
    "tasks.mood.weight": ("1e30",),
    "tasks.mood.learning_rate": ("1e30",),
    "data.mood.mix_ratio": ("1e30",),
    "data.mood.epochs": ("1e30",),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in TOO_MUCH.items() for value in values])
def test_absurd_numbers_are_refused_at_once(write, key, value):
    with pytest.raises(ConfigError, match=rf"{key} must be less than or equal to [\d.e+]+, got "):
        load_config(write(), [f"{key}={value}"])


def test_every_number_has_an_upper_limit():
    """Without one, a slip ends in a crash, a hang or a model of NaN."""
    schema = config_schema()
    unlimited = []
    for name, section in schema["$defs"].items():
        for key, value in section["properties"].items():
            for option in value.get("anyOf", [value]):
                is_number = option.get("type") in ("number", "integer")
                if is_number and not {"maximum", "exclusiveMaximum"} & option.keys():
                    unlimited.append(f"{name}.{key}")
    assert unlimited == ["MrcTask.null_threshold"]  # a score, of which every number is one
