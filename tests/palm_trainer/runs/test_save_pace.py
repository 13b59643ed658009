"""A large model is not saved after every short epoch, and nothing of a run depends on it."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from palm_trainer.runs import run as run_module
from palm_trainer.runs import save_pace
from palm_trainer.runs.events import Evaluated
from palm_trainer.runs.run import train
from palm_trainer.runs.save_pace import SavePace


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.0, 0.0), (0.1, 0.0), (0.5, 10.0), (3.0, 60.0)])
def test_the_pause_is_twenty_times_as_long_as_the_save(took_s, pause_s):
    clock = Clock()
    pace = SavePace(clock)
    assert pace.is_due
    with pace.timed():
        clock.now += took_s
    ended = clock.now
    assert pace.is_due is (pause_s == 0.0)
    clock.now = ended + 0.99 * pause_s
    assert pace.is_due is (pause_s == 0.0)
    clock.now = ended + 1.01 * pause_s
    assert pace.is_due


@pytest.fixture
def saved_steps(monkeypatch):
    """Steps at which `last/` is written, in a training whose saves take so long that none is due again."""
    monkeypatch.setattr(save_pace, "_TRAINING_PER_SAVE", 1e9)
    monkeypatch.setattr(save_pace, "_SHORT_S", 0.0)
    steps = []

    def save_last(job, progress):
        steps.append(job.loop.step)
        original(job, progress)

    original = run_module.save_last
    monkeypatch.setattr(run_module, "save_last", save_last)
    return steps


def weights(run, which):
    return load_file(run / which / "model.safetensors")


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def evaluated_steps(events):
    return [event.step for event in events if isinstance(event, Evaluated)]


def test_the_first_evaluation_and_the_end_are_saved(tiny_config, saved_steps):
    evaluated = evaluated_steps(train(tiny_config("train.epochs=4")))
    assert len(evaluated) == 4
    assert saved_steps == [evaluated[0], evaluated[-1]]


def test_what_the_configuration_asks_for_is_saved(tiny_config, saved_steps):
    evaluated = evaluated_steps(train(tiny_config("train.epochs=2", "train.checkpoints.save_every_steps=2")))
    assert set(range(2, evaluated[-1] + 1, 2)) <= set(saved_steps)


def test_the_end_of_patience_is_saved(tiny_config, saved_steps):
    still = ("train.learning_rate=1e-12", "train.crf_learning_rate=1e-12")
    config = tiny_config("train.epochs=20", "train.checkpoints.patience=1", *still)
    evaluated = evaluated_steps(train(config))
    assert len(evaluated) < 20
    assert saved_steps[-1] == evaluated[-1]


def test_a_run_that_was_killed_between_two_saves_ends_as_an_unbroken_one(tiny_config, saved_steps, tmp_path):
    config = tiny_config("train.epochs=4")
    killed = tmp_path / "killed"
    seen = 0
    for event in train(config):
        seen += isinstance(event, Evaluated)
        if seen == 3 and not killed.exists():
            shutil.copytree(config.train.output, killed)
    unbroken = {which: weights(config.train.output, which) for which in ("best", "last")}
    shutil.rmtree(config.train.output)
    shutil.move(killed, config.train.output)
    list(train(config, resume=True))
    for which, expected in unbroken.items():
        assert_same(weights(config.train.output, which), expected)


def test_without_dev_the_best_is_kept_where_the_last_is(tiny_config, saved_steps, monkeypatch):
    bests = []

    def save_trained(trained, directory):
        bests.append(directory.name)
        original(trained, directory)

    original = run_module.save_trained
    monkeypatch.setattr(run_module, "save_trained", save_trained)
    config = tiny_config("train.epochs=4", splits=("test",))
    evaluated = evaluated_steps(train(config))
    assert len(evaluated) == 4
    assert bests == ["best", "best"]
    assert_same(weights(config.train.output, "best"), weights(config.train.output, "last"))
