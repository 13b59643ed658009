"""`palm-train compress`: a smaller run that learns from a run, and everything that is done with runs."""

import hashlib
import json
import shutil
import tomllib
from pathlib import Path

import pytest
from safetensors.torch import load_file

from palm_serve import Model
from palm_serve.bundle.loader import load_bundle
from palm_trainer.cli.train import app, command
from palm_trainer.config.loader import load_config
from palm_trainer.errors import CheckpointError, ConfigError
from palm_trainer.export.exporter import export_bundle
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.compress import CompressOptions, compress_config, describe_compression
from palm_trainer.runs.job_from_config import evaluation_sets, job_from_config
from palm_trainer.runs.predict import predict_lines, with_pairs
from palm_trainer.runs.run import train
from palm_trainer.tokenization.prune_vocabulary import prune_vocabulary
from palm_trainer.training.loop import Step
from palm_trainer.training.quantization import round_table, round_weight


def digest(run: Path) -> str:
    return hashlib.sha256((run / "best" / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "more.txt"
    path.write_text("list flights to denver\nfare from oz\nhotel zebra\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def compressed(finished_run, unlabelled, tmp_path_factory):
    """Return a finished student of `finished_run`. Never written to."""
    output = tmp_path_factory.mktemp("compressed") / "small"
    arguments = ["compress", finished_run, "--output", output, "--text", unlabelled, "--prune-vocabulary", "text"]
    arguments += ["--feed-forward", "32", "--set", "train.epochs=4"]
    assert command(app, list(map(str, arguments))) == 0
    return output


def test_compressed_run_is_smaller_and_names_its_teacher(finished_run, compressed, unlabelled):
    teacher, student = load_trained(finished_run), load_trained(compressed)
    assert (teacher.encoder.layers, student.encoder.layers) == (2, 1)
    assert student.encoder.parameters < teacher.encoder.parameters
    assert student.model.backbone.encoder.config.intermediate_size == 32
    assert student.encoder.started_from == digest(finished_run)
    assert student.tasks.keys() == teacher.tasks.keys()
    stored = tomllib.loads((compressed / "config.toml").read_text(encoding="utf-8"))
    assert stored["encoder"]["digest"] == digest(finished_run)
    assert stored["train"]["distillation"] == {
        "teachers": [str(finished_run)],
        "student": {"layers": 1, "intermediate_size": 32, "vocabulary": "text", "vocabulary_texts": [], "int8": True},
    }
    assert stored["data"]["unlabelled"]["train"] == [str(unlabelled)]
    assert stored["tasks"]["slots"]["data"] == ["travel", "unlabelled"]
    assert stored["train"]["epochs"] == 4.0
    events = [json.loads(line) for line in (compressed / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {event["data"] for event in events if event["event"] == "step"} == {"travel", "reviews", "unlabelled"}


def test_saved_weights_are_multiples_of_integers(compressed):
    weights = load_file(compressed / "best" / "model.safetensors")
    checked = 0
    for name, tensor in weights.items():
        if tensor.dim() != 2 or ".crf." in name or name.startswith(("heads.intent", "heads.mood")):
            continue
        rounded = round_table(tensor) if "embeddings" in name else round_weight(tensor)
        assert (rounded == tensor).all(), name
        checked += 1
    assert checked >= 9


TEXTS = ("flights from boston please", "list hotels in denver now")


def intents(run: Path) -> list[str]:
    """Return what a run answers to TEXTS."""
    lines = predict_lines(run, with_pairs(TEXTS, ()))
    return [json.loads(line)["intent"]["label"] for line in lines]


def test_compressed_run_answers_as_its_teacher(finished_run, compressed):
    assert intents(compressed) == intents(finished_run)


def test_lines_tell_what_became_smaller(finished_run, compressed, tmp_path):
    config = load_config(compressed / "config.toml")
    first, *others = describe_compression(finished_run, config)
    assert first.startswith("1 of 2 layers, ")
    assert others == [f"next: palm-export {compressed} --output BUNDLE"]
    run = tmp_path / "copy"
    shutil.copytree(compressed, run)
    tokenizer = run / "best" / "tokenizer.json"
    cut = prune_vocabulary(tokenizer.read_text(encoding="utf-8"), ["list hotels in boston now"])
    tokenizer.write_text(cut.tokenizer_json, encoding="utf-8")
    path = run / "best" / "model.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    description["encoder"]["vocab_size"] = len(cut.old_ids)
    description["tasks"]["intent"]["labels"].remove("fare")
    path.write_text(json.dumps(description), encoding="utf-8")
    _, pieces, lost, _ = describe_compression(finished_run, load_config(run / "config.toml", output=run))
    changed, of, texts, *words = pieces.split()
    assert (of, " ".join(words)) == ("of", "texts of dev have words that the cut vocabulary reads in other pieces")
    assert 0 < int(changed) <= int(texts)
    assert lost == "task 'intent' lost 1 labels that its data lacks ('fare'). Add them again."


def test_bundle_of_a_compressed_run_is_small_and_answers(compressed, tmp_path):
    trained = load_trained(compressed)
    sets = evaluation_sets(load_config(compressed / "config.toml"), "dev")
    manifest, report = export_bundle(trained, sets, tmp_path / "bundle", precision="int8")
    assert "weights.bin" in manifest.files
    assert set(manifest.variants) >= {"plain", "int8"}
    assert all("/" not in variant.file for variant in manifest.variants.values())
    assert any(note.startswith("weights.bin: weights of all variants as integers") for note in report.notes)
    assert report.size == sum(path.stat().st_size for path in (tmp_path / "bundle").iterdir())
    load_bundle(tmp_path / "bundle").verify()
    for precision in ("fp32", "int8"):
        with Model.open(
            tmp_path / "bundle", provider="CPU", precision=precision, cache_dir=tmp_path / "cache"
        ) as model:
            assert model.info.precision == precision
            answers = [model.parse(text).intent.name for text in TEXTS]
            assert answers == intents(compressed)


def test_other_commands_take_a_compressed_run(compressed, tmp_path, capsys):
    run = tmp_path / "copy"
    shutil.copytree(compressed, run)
    for arguments in (
        ["evaluate", run, "--split", "dev"],
        ["report", run],
        ["compress", run, "--output", tmp_path / "b"],
    ):
        code = command(app, list(map(str, arguments)))
        assert code == 0, capsys.readouterr().err
    assert load_trained(tmp_path / "b").encoder.layers == 1


def test_stopped_compression_goes_on_to_the_bit(finished_run, fit, tmp_path):
    whole = compress_config(finished_run, tmp_path / "whole", CompressOptions(), ["train.epochs=2"])
    fit(whole)
    parts = compress_config(finished_run, tmp_path / "parts", CompressOptions(), ["train.epochs=2"])
    seen: list[int] = []
    for event in train(parts, stop=lambda: len(seen) >= 7):
        if isinstance(event, Step):
            seen.append(event.step)
    fit(load_config(tmp_path / "parts" / "config.toml"), resume=True)
    for checkpoint in ("best", "last"):
        first, second = (load_file(tmp_path / n / checkpoint / "model.safetensors") for n in ("whole", "parts"))
        assert [name for name in first if not (first[name] == second[name]).all()] == []


def test_run_without_unlabelled_text_is_told(finished_run, fit, tmp_path):
    config = compress_config(finished_run, tmp_path / "small", CompressOptions(layers=2), ["train.epochs=1"])
    assert "unlabelled" not in config.data
    fit(config)
    lines = describe_compression(finished_run, config)
    assert lines[0].startswith("2 of 2 layers")
    assert lines[1].startswith("no unlabelled text: the model learnt from the data of the run alone.")


def test_what_else_the_teacher_trained_with_is_left_out(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    text = (run / "config.toml").read_text(encoding="utf-8")
    text = text.replace("[train.regularization]\n", "[train.regularization]\nema_decay = 0.9\n")
    text = text.replace("[train.checkpoints]\n", "[train.checkpoints]\naverage_best = 2\n")
    (run / "config.toml").write_text(text, encoding="utf-8")
    assert load_config(run / "config.toml").train.regularization.ema_decay == 0.9
    train_settings = compress_config(run, tmp_path / "small", CompressOptions()).train
    assert train_settings.regularization.ema_decay is None
    assert train_settings.checkpoints.average_best is None
    with pytest.raises(
        ConfigError, match=r"train\.regularization\.ema_decay must be left out with train\.distillation\.student\.int8"
    ):
        compress_config(run, tmp_path / "small", CompressOptions(), ["train.regularization.ema_decay=0.9"])


# -- bad input --------------------------------------------------------------------------------------------------------


def test_more_layers_than_the_teacher_has_are_refused(finished_run, tmp_path, capsys):
    code = command(app, ["compress", str(finished_run), "--output", str(tmp_path / "small"), "--layers", "3"])
    assert code == 2
    assert (
        "error: train.distillation.student.layers must be at most 2, the number of layers of 'run', got 3."
        in capsys.readouterr().err
    )
    assert not (tmp_path / "small").exists()


def test_run_that_is_being_trained_is_refused(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "metrics.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"RUN must be a finished run, got .* it is being trained, or was stopped"
    ):
        compress_config(run, tmp_path / "small", CompressOptions())
    shutil.rmtree(run / "best")
    with pytest.raises(ConfigError, match="RUN must be a run with a finished best checkpoint"):
        compress_config(run, tmp_path / "small", CompressOptions())
    with pytest.raises(CheckpointError, match=r"RUN must be a run of `palm-train run`"):
        compress_config(tmp_path / "nothing", tmp_path / "small", CompressOptions())


def test_parts_of_the_users_own_are_refused(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    path = run / "best" / "model.json"
    description = json.loads(path.read_text(encoding="utf-8")) | {"own": {"heads.intent": "mine.Stars"}}
    path.write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"parts are all PALM's, got .* of your own \(heads.intent: mine.Stars\)"):
        compress_config(run, tmp_path / "small", CompressOptions())


def test_output_that_is_the_run_is_refused(finished_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert command(app, ["compress", str(run), "--output", str(run)]) == 2
    assert command(app, ["compress", str(run), "--output", str(run), "--overwrite"]) == 2
    assert "train.output must be another directory than that of the run" in capsys.readouterr().err
    assert digest(run) == digest(finished_run)


def test_missing_texts_are_named(finished_run, tmp_path, capsys):
    for option in ("--text", "--prune-vocabulary"):
        missing = tmp_path / "missing.txt"
        assert command(app, ["compress", str(finished_run), "--output", str(tmp_path / "b"), option, str(missing)]) == 2
        assert str(missing) in capsys.readouterr().err


def test_text_needs_a_task_that_reads_it(kind, tmp_path):
    rows = [
        {"text": f"a {word}", "text_pair": f"the {word}", "label": str(number % 2)}
        for number, word in enumerate("abcdef")
    ]
    kind.rows("pairs.jsonl", rows)
    tables = """
[data.pairs]
format = "jsonl"
train = "pairs.jsonl"
dev = "pairs.jsonl"
[tasks.same]
kind = "match"
data = ["pairs"]
field = "label"
"""
    kind.train(tables)
    with pytest.raises(
        ConfigError, match=r"--text needs a task that reads single texts, got tasks that read pairs \(same\)"
    ):
        compress_config(kind.run, tmp_path / "b", CompressOptions(text=tmp_path / "x.txt"))


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ("student = {layers = 0}", "train.distillation.student.layers must be greater than or equal to 1, got 0."),
        ("student = {depth = 3}", "train.distillation.student.depth is not a key of [train.distillation.student]."),
        ("student = {vocabulary_texts = ['a.txt']}", "train.distillation.student.vocabulary_texts is only for"),
        ("student = 3", "train.distillation.student"),
    ],
)
def test_faults_of_the_section_are_named(tiny_toml, keys, fault):
    path = tiny_toml()
    path.write_text(
        path.read_text(encoding="utf-8") + f'\n[train.distillation]\nteachers = ["run"]\n{keys}\n', encoding="utf-8"
    )
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert fault in str(error.value)
    assert (
        "train.distillation.student needs an encoder with weights to cut, got encoder.model = 'scratch'."
        in str(error.value)
        or keys == "student = 3"
    )


def test_student_needs_a_teacher(tiny_toml):
    path = tiny_toml()
    path.write_text(
        path.read_text(encoding="utf-8") + "\n[train.distillation]\nstudent = {layers = 1}\n", encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"train\.distillation\.student needs teachers, got none"):
        load_config(path)


def test_options_of_the_section_can_be_set(finished_run, tmp_path):
    config = compress_config(
        finished_run, tmp_path / "small", CompressOptions(), ["train.distillation.student.layers=2"]
    )
    assert config.train.distillation.student.layers == 2
    assert job_from_config(config).trained.encoder.layers == 2
