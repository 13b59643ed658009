"""The configuration: what is read, and what every fault says."""

from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        ("train.epocs=3", "--set train.epocs: unknown key 'epocs'; did you mean 'epochs'?"),
        ("trian.epochs=3", "--set trian.epochs: unknown section 'trian'; did you mean 'train'?"),
        ("tasks.intents.weight=3", "--set tasks.intents.weight: no 'intents' in [tasks]; did you mean 'intent'?"),
        ("tasks.intent.weight.x=3", "unknown key 'weight.x'; did you mean 'weight'?"),
        ("train.epochs", "--set 'train.epochs': not KEY=VALUE with a dotted key"),
        ("train.epochs=many", "train.epochs: must be a valid number, not 'many'"),
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
        "${PALM_UNSET_VARIABLE}: no such environment variable; set PALM_UNSET_VARIABLE, or write the path itself",
        "trian: unknown section; did you mean 'train'?",
        "encoder.max_length: must be greater than or equal to 3, not 2",
        "encoder.poling: unknown key; did you mean 'pooling'?",
        "train.output: missing; add `output = ...` to [train] or give --output",
        "train.epochs: must be greater than 0, not -1",
        "train.device: must match pattern",
        "data.other.train: an empty list; name at least one",
        "tasks.intent.kind: unknown kind 'clasify'; did you mean 'classify'?; known: classify, multi_label, sequence_label,",
        "tasks.slots.data: an empty list; name at least one",
        "tasks.a b.weight: must be a valid number, not '3'",
        "encoder.heads: only for model 'scratch', not 'minilm-l6-en'; remove it",
        "tasks.a b: a name is letters, digits, _ and -",
        "data.travel.format: unknown format 'joiint'; did you mean 'joint'?",
        "data.other.columns: only for format 'palm' or 'tsv' or 'csv' or 'json' or 'parquet' or 'datasets', not 'joint'",
        "tasks.intent.data: no data set 'travl'; did you mean 'travel'?",
        "tasks.slots.role: 'slots' needs kind sequence_label, not 'classify'; change one of them",
        "tasks.slots.crf: only for kind 'sequence_label', not 'classify'; remove it",
        "data.travel: no task uses it; name it in a task's data, or remove it",
        "train.reference: no data set 'q9'; known: travel, other",
        "train.checkpoints.select: 'x.f1' is none of average, exact_match, TASK.METRIC (tasks: intent, slots, a b)",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[encoder]",
            '[encoder]\nmodel = "scratch"\nheads = 3',
            "encoder.hidden_size: 256 is not a multiple of heads = 3; change one of them",
        ),
        (
            'kind = "classify"\nrole',
            'kind = "classify"\nn_best = 3\nrole',
            "tasks.intent.n_best: only for kind 'mrc', not 'classify'; remove it",
        ),
        (
            'format = "tsv"',
            'format = "tsv"\njoiner = ""',
            "data.mood.joiner: only for format 'joint' or 'conll' or 'palm' or 'parquet' or 'datasets', not 'tsv'",
        ),
        ('format = "tsv"', "", "data.mood.format: missing; add `format = ...` to [data.mood]; known: joint, conll,"),
        ('format = "tsv"', "format = 3", "data.mood.format: must be a string, not 3; known: joint, conll, palm,"),
        (
            "max_length = 64",
            "layers = 2\nlayer = 3",
            "encoder.layers: only for model 'scratch', not 'minilm-l6-en'; remove it",
        ),
        ("max_length = 64", "max_lenght = 2", "encoder.max_lenght: unknown key; did you mean 'max_length'?"),
        (
            "epochs = 2",
            "distillation.weight = 0.5",
            "train.distillation.weight: says how teachers are heeded, and there are none",
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
            "held by intent, mood",
        ),
        (("[data.", "data = 3\n[other."), "data: missing; add a table such as"),
        (("[tasks.", "[jobs."), "tasks: missing; add a table such as"),
        (("data = [", "auxiliary = true\ndata = ["), "tasks: all are auxiliary (intent, slots, mood)"),
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
    assert "no such file; `palm-train init DATA`" in fault(tmp_path / "absent.toml")
    assert "cannot be read" in fault(tmp_path)
    assert "not TOML" in fault(write("[train]\nepochs = \n"))
    assert "line 2" in fault(write("[train]\nepochs = \n"))
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# caf\xe9")
    assert "not UTF-8 at byte 5" in fault(path)


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
            "train.regularization.r_drop: compares passes with different dropout",
        ),
        (
            '[data.t]\nformat = "text"\ntrain = "t"\n[tasks.a]\nkind = "masked_lm"\ndata = ["t"]\n[train]\noutput = "o"\n'
            "regularization.word_dropout = 0.1\n",
            "train.regularization.word_dropout: leaves masked_lm alone, and there is no other task",
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
        ("[tasks.intent]\nbaseline = 0.9", "tasks: intent have a baseline and slots, mood have none"),
        (
            "[tasks.intent]\nbaseline = 0.9\nauxiliary = true",
            "tasks.intent.baseline: an auxiliary task is never selected on",
        ),
        ("[tasks.intent]\nbaseline = 0.0", "tasks.intent.baseline: must be greater than 0, not 0.0"),
    ],
)
def test_baselines(write, change, message):
    assert message in fault(write(GOOD.replace("[tasks.intent]", change)))


def test_baselines_without_the_average(write):
    text = GOOD
    for name in ("intent", "slots", "mood"):
        text = text.replace(f"[tasks.{name}]", f"[tasks.{name}]\nbaseline = 0.5")
    assert load_config(write(text)).tasks["mood"].baseline == 0.5
    assert "train.checkpoints.select: 'mood.accuracy' heeds no baseline" in fault(
        write(text + 'checkpoints.select = "mood.accuracy"\n')
    )
