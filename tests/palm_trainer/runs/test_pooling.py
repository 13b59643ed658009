"""`encoder.pooling` of runs: a run keeps the pooling that it was trained with."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import palm_trainer as palm
from palm_trainer.cli.train import app, command
from palm_trainer.compare.trainings import plan_trainings, run_training
from palm_trainer.compare.variants import plan_comparison
from palm_trainer.config.loader import load_config
from palm_trainer.errors import PalmError
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.model.encoders import build_scratch, load_weights
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.runs.run import train
from palm_trainer.training.loop import Step

SENTENCES = ("flights from boston please", "what is the fare to denver", "list hotels in new york now")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A folder of an encoder that was trained with the mean, as sentence-transformers writes one."""
    folder = tmp_path_factory.mktemp("encoder")
    encoder = build_scratch(SENTENCES, layers=1, hidden_size=16, heads=2, max_length=64)
    encoder.backbone.encoder.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(encoder.tokenizer_json, encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}), encoding="utf-8")
    return folder


@pytest.fixture
def toml(write_config, tmp_path, encoder):
    """`toml()`: the tiny configuration on the pretrained encoder, without a pooling."""

    def write() -> Path:
        path = write_config(tmp_path)
        lines = path.read_text(encoding="utf-8").splitlines()
        scratch = ("layers", "hidden_size", "heads", "vocab_size")
        kept = [line for line in lines if not line.startswith(scratch)]
        path.write_text("\n".join(kept).replace('"scratch"', f'"{encoder}"'), encoding="utf-8")
        return path

    return write


def stop_after(config, steps: int, **options: bool) -> None:
    """Train until so many steps of this call are done."""
    seen: list[int] = []
    for event in train(config, stop=lambda: len(seen) >= steps, **options):
        if isinstance(event, Step):
            seen.append(event.step)


def test_run_names_the_pooling_of_its_encoder(toml, fit):
    config = load_config(toml(), ["train.epochs=1"])
    assert config.encoder.pooling == "auto"
    fit(config)
    run = config.train.output
    assert 'pooling = "mean"' in (run / "config.toml").read_text(encoding="utf-8")
    assert load_trained(run).model.backbone.pooling == "mean"
    stop_after(load_config(run / "config.toml"), 1, resume=True)


def test_scratch_encoder_is_pooled_by_cls(tiny_config):
    job = job_from_config(tiny_config())
    assert job.config.encoder.pooling == "cls"
    assert job.trained.model.backbone.pooling == "cls"


def test_pooling_that_is_set_goes_before_the_folder(toml):
    job = job_from_config(load_config(toml(), ["encoder.pooling=cls"]))
    assert (job.config.encoder.pooling, job.trained.model.backbone.pooling) == ("cls", "cls")


def test_older_run_resumes_with_cls(toml, fit, tmp_path):
    """The same file without a pooling meant cls when the run began. To the bit the run goes on as it would have."""
    path = toml()
    fit(load_config(path, ["encoder.pooling=cls", "train.epochs=1"], tmp_path / "unbroken"))
    stop_after(load_config(path, ["encoder.pooling=cls", "train.epochs=1"]), 3)
    config = load_config(path, ["train.epochs=1"])
    fit(config, resume=True)
    resumed = load_file(config.train.output / "last" / "model.safetensors")
    unbroken = load_file(tmp_path / "unbroken" / "last" / "model.safetensors")
    assert [name for name in unbroken if not torch.equal(unbroken[name], resumed[name])] == []
    assert load_config(config.train.output / "config.toml").encoder.pooling == "cls"


def test_stored_configuration_without_pooling_means_cls(toml, fit):
    config = load_config(toml(), ["train.epochs=1"])
    fit(config)
    stored = config.train.output / "config.toml"
    stored.write_text(stored.read_text(encoding="utf-8").replace('pooling = "mean"\n', ""), encoding="utf-8")
    assert load_config(stored).encoder.pooling == "cls"


def test_older_comparison_goes_on_with_cls(toml, tmp_path, capsys):
    path, output = toml(), tmp_path / "compare"
    plan = plan_comparison(load_config(path, ["encoder.pooling=cls", "train.epochs=0.5"]))
    for _ in run_training(plan_trainings(plan, [3], output)[0], plan):
        pass
    arguments = ["compare", str(path), "--set", "train.epochs=0.5", "--seeds", "3", "--output", str(output)]
    assert command(app, arguments) == 0
    assert "1 of 3 trainings are finished" in capsys.readouterr().out
    for stored in output.rglob("config.toml"):
        assert load_config(stored).encoder.pooling == "cls"


def test_plan_tells_the_pooling(toml, capsys):
    assert command(app, ["plan", str(toml())]) == 0
    assert "M parameters, pooling mean" in capsys.readouterr().out


def test_other_pooling_of_the_folder_is_refused(toml, encoder, tmp_path):
    shutil.copytree(encoder, tmp_path / "other")
    (tmp_path / "other" / "1_Pooling" / "config.json").write_text('{"pooling_mode": "max"}', encoding="utf-8")
    with pytest.raises(PalmError, match=r"must be cls or mean, got max. PALM has no other. Set encoder.pooling to"):
        job_from_config(load_config(toml(), [f"encoder.model={tmp_path / 'other'}"]))


def test_python_api_reads_the_first_token(encoder):
    """PALM's `sentence_embedding` is that of the first token, whatever the folder of the weights says."""
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    backbone = palm.backbone.BERT.from_config(config)
    assert load_weights(backbone, str(encoder)).missing == ()
    assert backbone.pooling == "cls"
