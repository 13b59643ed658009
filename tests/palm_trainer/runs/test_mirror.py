"""The mirror of a run: complete at any moment, restored on a machine that lost the run, and never a reason to fail."""

import json
import logging
import shutil
import threading
from pathlib import Path

import pytest

from palm_serve.errors import StorageUnreachable
from palm_serve.storage.remote_folder import RemoteFolder
from palm_trainer.errors import CheckpointError, ConfigError
from palm_trainer.runs import mirror
from palm_trainer.runs.mirror import Mirror, restore_run
from palm_trainer.training.loop import Step

LAST_FILES = {"last/model.safetensors", "last/model.json", "last/tokenizer.json", "last/training.pt"}


@pytest.fixture
def url(tmp_path: Path) -> str:
    (tmp_path / "bucket").mkdir()
    return f"file://{tmp_path}/bucket/run"


def index_of(url: str) -> dict:
    return json.loads(Path(url.removeprefix("file://"), "mirror.json").read_text(encoding="utf-8"))


def weights(run: Path, checkpoint: str = "last") -> bytes:
    return (run / checkpoint / "model.safetensors").read_bytes()


def test_lost_run_is_restored_and_ends_as_the_unbroken_one(tiny_config, fit, url, tmp_path):
    common = ("train.epochs=2", "train.checkpoints.save_every_steps=2")
    whole = tiny_config(*common)
    fit(whole)
    config = tiny_config(*common, f"train.output={tmp_path / 'spot'}", f"train.mirror={url}")
    steps = []
    interrupted = fit(config, resume="auto", stop=lambda: steps.append(1) or len(steps) >= 3)
    assert interrupted.interrupted
    assert index_of(url)["step"] == 3
    assert index_of(url)["files"].keys() >= LAST_FILES
    assert {"config.toml", "events.jsonl"} <= index_of(url)["files"].keys()
    shutil.rmtree(tmp_path / "spot")

    finished = fit(config, resume="auto")
    assert not finished.interrupted
    assert weights(tmp_path / "spot") == weights(whole.train.output)
    assert weights(tmp_path / "spot", "best") == weights(whole.train.output, "best")
    assert not (tmp_path / "spot" / ".mirror").exists()
    files = index_of(url)["files"]
    stored = {path.name for path in Path(url.removeprefix("file://"), "files").iterdir()}
    assert stored == {facts["sha256"] for facts in files.values()}, "files of earlier saves are removed"


def test_run_of_this_machine_is_the_truth(tiny_config, fit, url, tmp_path):
    config = tiny_config("train.epochs=1", f"train.mirror={url}")
    fit(config, resume="auto")
    shutil.rmtree(tmp_path / "bucket" / "run")
    fit(config, resume="auto")
    assert index_of(url)["files"].keys() >= LAST_FILES


def test_mirror_of_another_run_is_not_replaced_unasked(tiny_config, fit, url, tmp_path):
    fit(tiny_config("train.epochs=1", f"train.mirror={url}"))
    other = tiny_config("train.epochs=1", f"train.mirror={url}", f"train.output={tmp_path / 'other'}")
    with pytest.raises(CheckpointError, match=r"holds a run already\. Continue it with --resume auto, replace"):
        fit(other)
    assert not (tmp_path / "other").exists()
    fit(other, overwrite=True)


def test_mirror_that_is_silent_at_the_start_is_told(tiny_config, fit, url, monkeypatch):
    def silent(*arguments):
        raise StorageUnreachable("nobody answers")

    monkeypatch.setattr(RemoteFolder, "find", silent)
    config = tiny_config("train.epochs=1", f"train.mirror={url}")
    for resume in (False, "auto"):
        with pytest.raises(CheckpointError, match=r"train\.mirror: nobody answers"):
            fit(config, resume=resume)


def test_silent_mirror_does_not_stop_or_fail_a_training(tiny_config, fit, url, monkeypatch, caplog):
    def silent(*arguments):
        raise StorageUnreachable("nobody answers")

    monkeypatch.setattr(RemoteFolder, "upload", silent)
    monkeypatch.setattr("palm_trainer.runs.run.MIRROR_END_S", 0.05)
    with caplog.at_level(logging.WARNING):
        finished = fit(tiny_config("train.epochs=1", f"train.mirror={url}"))
    assert finished.metrics
    assert "is not copied yet, the next attempt is in 1 s: nobody answers" in caplog.text
    assert "does not hold the end of the run" in caplog.text


def test_training_goes_on_while_a_copy_hangs(tiny_config, fit, url, monkeypatch):
    reached, released = threading.Event(), threading.Event()
    upload = RemoteFolder.upload

    def hang(self, source, name):
        reached.set()
        released.wait(300)
        upload(self, source, name)

    monkeypatch.setattr(RemoteFolder, "upload", hang)
    from palm_trainer.runs.run import train

    config = tiny_config("train.epochs=3", "train.checkpoints.save_every_steps=1", f"train.mirror={url}")
    steps = 0
    last = 0
    for event in train(config):
        if isinstance(event, Step):
            steps += 1
            last = event.step
            if last == 2:
                assert reached.wait(300)
            if last == 5:
                released.set()
    assert steps == last > 5
    assert index_of(url)["step"] == last


def test_copy_is_tried_again(tiny_config, fit, url, monkeypatch, caplog):
    fit(tiny_config("train.epochs=1"))
    run = tiny_config("train.epochs=1").train.output
    monkeypatch.setattr(mirror, "_WAITS_S", (0.01,))
    upload, failures = RemoteFolder.upload, []

    def fail_twice(self, source, name):
        if len(failures) < 2:
            failures.append(name)
            raise StorageUnreachable("cut")
        upload(self, source, name)

    monkeypatch.setattr(RemoteFolder, "upload", fail_twice)
    copies = Mirror(url, run)
    copies.note(7)
    assert copies.close(300)
    assert index_of(url)["step"] == 7
    assert f"step 7 is copied to {url} now" in caplog.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "must be the index of a run"),
        (b'{"format": 2, "files": {}}', "its format is 2"),
        (b'{"format": 1, "files": {"../../x": {"sha256": "0"}}}', "it names '../../x'"),
        (b'{"format": 1, "files": {"last/..": {"sha256": "0"}}}', "it names 'last/..'"),
        (b'{"format": 1, "files": {"last/a": {"sha256": "../x"}}}', "it has no digest of 'last/a'"),
    ],
)
def test_index_that_is_none_is_refused(url, tmp_path, content, reason):
    RemoteFolder(url).write("mirror.json", content)
    with pytest.raises(CheckpointError, match=reason):
        restore_run(url, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_changed_file_is_refused_and_nothing_is_restored(tiny_config, fit, url, tmp_path):
    fit(tiny_config("train.epochs=1", f"train.mirror={url}"))
    digest = index_of(url)["files"]["last/model.json"]["sha256"]
    RemoteFolder(url).write(f"files/{digest}", b"{}")
    with pytest.raises(CheckpointError, match=rf"files/{digest} was changed or damaged"):
        restore_run(url, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_mirror_must_be_a_url(tiny_config):
    with pytest.raises(ConfigError, match=r"train\.mirror"):
        tiny_config("train.mirror=somewhere")
