"""`encoder.model = "runs/x"`: a training that starts from a run."""

import hashlib
import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from palm_serve.bundle.loader import load_bundle
from palm_trainer.cli.train import app, command
from palm_trainer.config.loader import load_config
from palm_trainer.errors import ConfigError, PalmError
from palm_trainer.export.exporter import export_bundle
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.model.encoders import build_scratch
from palm_trainer.model.warm_start import load_starting_run
from palm_trainer.runs.job_from_config import evaluation_sets, job_from_config
from palm_trainer.runs.run import train
from palm_trainer.training.loop import Step

STORED = Path(__file__).parents[2] / "compatibility" / "before_0_2"
SCRATCH_KEYS = ("layers", "hidden_size", "heads", "vocab_size", "max_length")


@pytest.fixture
def toml(write_config, tmp_path):
    """`toml(RUN, 'heads = true', second=True)`: the tiny configuration, which starts from a run."""

    def write(run: Path | str, *keys: str, **options: object) -> Path:
        path = write_config(tmp_path, **options)
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if not line.startswith(SCRATCH_KEYS)]
        encoder = "\n".join([f'model = "{run}"', *keys])
        path.write_text("\n".join(kept).replace('model = "scratch"', encoder), encoding="utf-8")
        return path

    return write


@pytest.fixture
def job(toml):
    """`job(RUN, ...)`: the job of such a configuration."""
    return lambda run, *keys, **options: job_from_config(load_config(toml(run, *keys, **options)))


def digest(checkpoint: Path) -> str:
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()


def differing(model: torch.nn.Module, checkpoint: Path, part: str) -> list[str]:
    """Names of the weights of a part (`backbone.`, `heads.intent.`) that are not those of a checkpoint."""
    stored = load_file(checkpoint / "model.safetensors")
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(part)}
    assert own.keys() == {name for name in stored if name.startswith(part)}
    return [name for name, tensor in own.items() if not torch.equal(tensor, stored[name])]


def stop_after(config, steps: int, **options: bool) -> None:
    """Train until so many steps of this call are done."""
    seen: list[int] = []
    for event in train(config, stop=lambda: len(seen) >= steps, **options):
        if isinstance(event, Step):
            seen.append(event.step)


# -- what comes from the run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint", ["", "best", "last"])
def test_encoder_comes_from_the_run(job, finished_run, checkpoint):
    folder = finished_run / (checkpoint or "best")
    started = job(finished_run / checkpoint)
    assert differing(started.trained.model, folder, "backbone.") == []
    assert started.trained.tokenizer_json == (folder / "tokenizer.json").read_text(encoding="utf-8")
    encoder = started.config.encoder
    assert (encoder.max_length, encoder.pooling, encoder.digest) == (24, "cls", digest(folder))
    assert started.trained.max_length == 24
    assert started.trained.encoder.started_from == digest(folder)
    assert started.trained.encoder.name == ("run/last" if checkpoint == "last" else "run")
    assert len(differing(started.trained.model, folder, "heads.intent.")) > 0


def test_path_is_relative_to_the_configuration(toml, finished_run, tmp_path, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "runs" / "x")
    monkeypatch.chdir("/")
    for name in ("runs/x", "./runs/x", "runs/x/best"):
        config = load_config(toml(name))
        assert config.encoder.model == str((tmp_path / name).resolve())
        assert config.encoder.max_length == 24


def test_run_and_bundle_keep_the_digest(toml, finished_run, fit, tmp_path):
    config = load_config(toml(finished_run), ["train.epochs=1"])
    fit(config)
    stored = tomllib.loads((config.train.output / "config.toml").read_text(encoding="utf-8"))["encoder"]
    assert stored == {
        "model": str(finished_run),
        "max_length": 24,
        "pooling": "cls",
        "heads": False,
        "digest": digest(finished_run / "best"),
    }
    trained = load_trained(config.train.output)
    sets = evaluation_sets(load_config(config.train.output / "config.toml"), "dev")
    export_bundle(trained, sets, tmp_path / "bundle", precision="fp32")
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert manifest.encoder.started_from == digest(finished_run / "best")
    assert manifest.digest() == manifest.version
    assert str(tmp_path) not in (tmp_path / "bundle" / "manifest.json").read_text(encoding="utf-8")
    fit(load_config(toml(config.train.output), ["train.epochs=1"], tmp_path / "third"))  # and so on
    assert load_trained(tmp_path / "third").encoder.started_from == digest(config.train.output / "best")


def test_other_runs_have_no_digest(finished_run):
    text = (finished_run / "best" / "model.json").read_text(encoding="utf-8")
    assert "started_from" not in text
    assert "digest" not in (finished_run / "config.toml").read_text(encoding="utf-8")


def test_pretrained_run_starts_a_run(toml, fit, tmp_path):
    """The first run trains the rows of its own text only, and pools by the mean. All of that comes along."""
    folder = tmp_path / "encoder"
    texts = ("flights from boston please", "what is the fare to denver", "words that no text holds")
    encoder = build_scratch(texts, layers=1, hidden_size=16, heads=2, max_length=64)
    encoder.backbone.encoder.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(encoder.tokenizer_json, encoding="utf-8")
    first = tmp_path / "first"
    fit(load_config(toml(folder, 'pooling = "mean"', "max_length = 20"), ["train.epochs=1"], first))
    started = job_from_config(load_config(toml(first)))
    assert differing(started.trained.model, first / "best", "backbone.") == []
    assert (started.config.encoder.pooling, started.config.encoder.max_length) == ("mean", 20)
    assert started.trained.model.backbone.pooling == "mean"


def test_encoder_with_convolutions_starts_a_run(toml, tiny_config, fit, tmp_path):
    config = tiny_config("encoder.convolutions=1", "train.epochs=1")
    first = tmp_path / "first"
    fit(config.model_copy(update={"train": config.train.model_copy(update={"output": first})}))
    started = job_from_config(load_config(toml(first)))
    assert differing(started.trained.model, first / "best", "backbone.") == []
    assert started.trained.model.backbone.encoder.config.convolutions == 1


@pytest.mark.parametrize(
    "path", ["run/finished", "run/stopped/best-intent", "api_checkpoint", "api_checkpoint/ckpt.step6"]
)
def test_run_of_an_earlier_version_starts_a_run(job, path):
    """Also what the Python API saved."""
    folder = STORED / path
    checkpoint = folder if (folder / "model.json").is_file() else folder / "best"
    before = sorted(folder.rglob("*"))
    started = job(folder)
    assert differing(started.trained.model, checkpoint, "backbone.") == []
    assert started.config.encoder.digest == digest(checkpoint)
    assert sorted(folder.rglob("*")) == before


def test_start_takes_no_random_numbers(finished_run):
    """New heads begin alike, whether the encoder is read from the run or from its export."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_starting_run(finished_run / "best")
    assert torch.equal(torch.get_rng_state(), before)


# -- heads ------------------------------------------------------------------------------------------------------------


def test_heads_of_the_same_tasks_are_taken_over(job, finished_run):
    started = job(finished_run, "heads = true", second=True)
    assert started.heads.names == ("intent", "slots", "mood")
    assert started.heads.untaken == {}
    for task in started.heads.names:
        assert differing(started.trained.model, finished_run / "best", f"heads.{task}.") == []


def test_a_head_with_statistics_is_taken_over_without_them(toml, tiny_config, fit, tmp_path):
    """They are of the data of its run, and a head begins without."""
    config = tiny_config("train.epochs=1", "tasks.intent.out_of_scope_score=mahalanobis")
    first = tmp_path / "first"
    fit(config.model_copy(update={"train": config.train.model_copy(update={"output": first})}))
    saved = load_trained(first).model.head("intent")
    assert {name for name, _ in saved.named_buffers()} == {"centre", "whitening", "means"}
    started = job_from_config(load_config(toml(first, "heads = true")))
    assert started.heads.names == ("intent", "slots")
    assert torch.equal(started.trained.model.head("intent").linear.weight, saved.linear.weight)
    assert dict(started.trained.model.head("intent").named_buffers()) == {}


def test_heads_of_other_tasks_begin_anew(toml, finished_run, tmp_path):
    path = toml(finished_run, "heads = true", second=True)
    text = path.read_text(encoding="utf-8")
    text = text.replace("[tasks.mood]", "[tasks.feeling]").replace("[tasks.slots]", "[tasks.slots]\ncrf = false")
    path.write_text(text, encoding="utf-8")
    labels = tmp_path / "travel" / "train" / "label"
    labels.write_text(labels.read_text(encoding="utf-8").replace("hotel", "inn"), encoding="utf-8")
    heads = job_from_config(load_config(path)).heads
    assert heads.names == ()
    assert heads.untaken == {
        "intent": "'inn' is no label there",
        "slots": "its head there has another form",
        "feeling": "no such task there",
    }


def test_heads_of_another_kind_begin_anew(toml, finished_run):
    path = toml(finished_run, "heads = true", second=True)
    text = path.read_text(encoding="utf-8")
    kind = '[tasks.mood]\nkind = "classify"'
    path.write_text(text.replace(kind, kind.replace("classify", "multi_label")), encoding="utf-8")
    assert job_from_config(load_config(path)).heads.untaken == {"mood": "of kind classify there"}


@pytest.mark.parametrize("name", ["plan", "run"])
def test_command_tells_what_it_starts_from(toml, finished_run, capsys, name):
    assert command(app, [name, str(toml(finished_run, "heads = true")), "--set", "train.epochs=0.5"]) == 0
    out = capsys.readouterr().out
    assert f"starts from {finished_run} (weights with the SHA-256 {digest(finished_run / 'best')[:12]}...)" in out
    assert "heads taken over: intent, slots; new heads: none" in out


# -- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["gone", "trained anew"])
def test_resume_without_the_first_run_is_exact(toml, finished_run, fit, tmp_path, change):
    source = tmp_path / "runs" / "x"
    shutil.copytree(finished_run, source)
    path = toml("runs/x", "heads = true")
    fit(load_config(path, ["train.epochs=2"], tmp_path / "unbroken"))
    stop_after(load_config(path, ["train.epochs=2"]), 5)
    if change == "gone":
        shutil.rmtree(source)
    else:
        shutil.rmtree(source / "best")
        shutil.copytree(STORED / "run" / "finished" / "best", source / "best")
    config = load_config(path, ["train.epochs=2"])
    fit(config, resume=True)
    resumed = load_file(config.train.output / "last" / "model.safetensors")
    unbroken = load_file(tmp_path / "unbroken" / "last" / "model.safetensors")
    assert [name for name in unbroken if not torch.equal(unbroken[name], resumed[name])] == []
    assert load_trained(config.train.output).encoder == load_trained(tmp_path / "unbroken").encoder
    stored = load_config(config.train.output / "config.toml")
    assert stored.encoder == load_config(tmp_path / "unbroken" / "config.toml").encoder
    fit(stored, resume=True)


def test_anchored_run_resumes_with_the_encoder_that_it_started_from(toml, finished_run, fit, tmp_path):
    source = tmp_path / "x"
    shutil.copytree(finished_run, source)
    options = ["train.epochs=2", "train.regularization.anchor=2"]
    path = toml("x")
    fit(load_config(path, options, tmp_path / "unbroken"))
    stop_after(load_config(path, options), 5)
    fit(load_config(path, options), resume=True)
    resumed = load_file(tmp_path / "run/last/model.safetensors")
    unbroken = load_file(tmp_path / "unbroken/last/model.safetensors")
    assert [name for name in unbroken if not torch.equal(unbroken[name], resumed[name])] == []


def test_anchored_run_cannot_resume_without_its_start(toml, finished_run, fit, tmp_path):
    source = tmp_path / "x"
    shutil.copytree(finished_run, source)
    config = load_config(toml("x"), ["train.epochs=2", "train.regularization.anchor=2"])
    stop_after(config, 5)
    shutil.rmtree(source / "best")
    shutil.copytree(STORED / "run" / "finished" / "best", source / "best")
    with pytest.raises(ConfigError, match=r"encoder.digest: .* must have weights with the SHA-256 .* Put back"):
        fit(load_config(config.train.output / "config.toml"), resume=True)


def test_restart_with_another_first_run_is_refused(toml, finished_run, fit, tmp_path):
    """Killed before its first checkpoint, a run begins again, and needs the weights that it began with."""
    source = tmp_path / "x"
    shutil.copytree(finished_run, source)
    config = load_config(toml("x"))
    stop_after(config, 1)
    shutil.rmtree(config.train.output / "last")
    shutil.rmtree(source / "best")
    shutil.copytree(STORED / "run" / "finished" / "best", source / "best")
    with pytest.raises(
        ConfigError, match=r"encoder.digest: .* must have weights with the SHA-256 .* Put back what it was"
    ):
        fit(load_config(toml("x")), resume=True)


# -- keys that contradict the run -------------------------------------------------------------------------------------


def test_shorter_max_length_is_taken(job, finished_run):
    started = job(finished_run, "max_length = 16")
    assert started.trained.max_length == 16
    assert started.config.encoder.max_length == 16


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("max_length = 65",), r"encoder.max_length: 65 tokens, but '.*' has positions for 64. Choose 64 or less."),
        (
            ('pooling = "mean"',),
            r"encoder.pooling must be 'cls', with which .* was trained, got 'mean'. Remove it.",
        ),
        (("layers = 2",), r"encoder.layers is only for model 'scratch', got '.*'. Remove it."),
        (("heads = 4",), r"encoder.heads must be true or false, as a number .* is only for model 'scratch', got 4"),
        ((f'digest = "{"0" * 64}"',), r"encoder.digest: .* must have weights with the SHA-256 0{64}, got weights with"),
        (('digest = "abc"',), r"encoder.digest must"),
    ],
)
def test_key_that_contradicts_the_run_is_refused(job, finished_run, keys, message):
    with pytest.raises(ConfigError, match=message):
        job(finished_run, *keys)


def test_pooling_of_the_run_may_be_named(job, finished_run):
    assert job(finished_run, 'pooling = "cls"').config.encoder.pooling == "cls"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("heads = true", "encoder.heads needs a run as encoder.model, got 'minilm-l6-en', which has no heads. Remove"),
        (f'digest = "{"0" * 64}"', "minilm-l6-en must have weights with the SHA-256 0{64}, got an encoder of no run"),
    ],
)
def test_keys_of_a_run_with_another_encoder_are_refused(job, key, message):
    with pytest.raises(ConfigError, match=message):
        job("minilm-l6-en", key)


def test_run_that_would_be_replaced_is_refused(toml, finished_run, fit, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"train.output must be another directory than that of the run in encoder.model"
    ):
        fit(load_config(toml("./run")), overwrite=True)
    assert load_trained(tmp_path / "run").tasks


# -- directories that are refused -------------------------------------------------------------------------------------


@pytest.fixture
def copy(finished_run, tmp_path) -> Path:
    """A run to damage."""
    shutil.copytree(finished_run, tmp_path / "x")
    return tmp_path / "x"


def refusal(job, model: Path | str) -> str:
    with pytest.raises(PalmError) as refused:
        job(model)
    return str(refused.value)


def test_run_with_own_parts_is_refused(job, copy):
    path = copy / "best" / "model.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(description | {"own": {"heads.intent": "mine.Stars"}}), encoding="utf-8")
    assert refusal(job, copy) == (
        f"encoder.model must be a run whose parts are all PALM's, got {copy / 'best'} with parts of your own "
        "(heads.intent: mine.Stars), which no command can build. "
        "Name another run, or continue with this one in Python (load_ckpt)."
    )


def test_tokenizer_that_does_not_fit_is_refused(job, copy):
    larger = build_scratch([f"word{number}" for number in range(300)], layers=1, hidden_size=16, heads=2)
    (copy / "best" / "tokenizer.json").write_text(larger.tokenizer_json, encoding="utf-8")
    assert "encoder 'x': its tokenizer has the id" in refusal(job, copy)


def test_run_that_is_being_written_is_refused(job, copy):
    (copy / "best").rename(copy / "best.new")
    shutil.rmtree(copy / "last")
    message = (
        f"encoder.model must be a run with a finished best checkpoint, got {copy}, which has none: "
        "its training has not been evaluated yet, or was stopped before. "
        f"Wait until {copy / 'best'} is there, or name another run."
    )
    assert refusal(job, copy) == message
    for name in ("metrics.json", "events.jsonl", "report.html"):
        (copy / name).unlink()
    assert refusal(job, copy) == message
    (copy / "config.toml").unlink()
    assert refusal(job, copy) == message
    assert "must be a finished checkpoint, got" in refusal(job, copy / "best.new")


def test_run_without_best_names_its_other_checkpoints(job, copy):
    shutil.rmtree(copy / "best")
    assert refusal(job, copy).endswith(f"Name one that is there ({copy / 'last'}), or another run.")
    assert refusal(job, copy / "best-intent") == (
        f"encoder.model must be a checkpoint that is there, got {copy / 'best-intent'}. "
        f"Name one that is there ({copy / 'last'}), or another run."
    )


def test_checkpoint_between_two_renames_is_read_in_place(job, copy):
    """Nothing in the run of another process is touched."""
    (copy / "best").rename(copy / "best.old")
    assert job(copy).trained.encoder.name == "x"
    assert (copy / "best.old").is_dir()
    assert not (copy / "best").exists()


@pytest.mark.parametrize("file", ["model.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "missing"])
def test_damaged_checkpoint_is_refused(job, copy, file, damage):
    path = copy / "best" / file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    if (file, damage) == ("model.json", "missing"):
        assert "which has none" in refusal(job, copy)
        return
    message = refusal(job, copy)
    assert message.startswith(f"encoder.model: checkpoint {copy / 'best'} is damaged: ")
    assert message.endswith(". Name another checkpoint, or train it again.")


def test_weights_of_another_model_are_refused(job, copy):
    shutil.copyfile(STORED / "run/finished/best/model.safetensors", copy / "best/model.safetensors")
    assert f"checkpoint {copy / 'best'} is damaged: " in refusal(job, copy)


def test_bundle_is_refused(job):
    bundle = STORED / "bundle"
    assert refusal(job, bundle) == (
        f"encoder.model must be an encoder or a run, got the bundle {bundle}. "
        "A bundle holds a graph, which cannot be trained. Name the run that it was exported from."
    )


@pytest.mark.parametrize("name", ["./runs/nowhere", "/no/such/run", "runs/nowhere/best"])
def test_missing_path_tells_what_is_possible(job, tmp_path, name):
    message = refusal(job, name)
    assert message == (
        f"encoder '{(tmp_path / name).resolve()}': no such directory. "
        "Give a directory, a run, a Hugging Face id, or one of: minilm-l6-en, e5-small-zh, scratch."
    )


def test_name_that_may_be_a_hub_id_tells_what_is_possible(job):
    message = refusal(job, "runs/nowhere")
    assert message.startswith("encoder 'runs/nowhere' could not be loaded: ")
    assert message.endswith(
        "Give a directory with config.json, weights and tokenizer, the directory of a run (both relative to the "
        "configuration), an id that the hub (HF_ENDPOINT) has, or one of: minilm-l6-en, e5-small-zh, scratch."
    )
