"""What TensorBoard's own reader finds in a run's files, also after a resume; and what happens without the package."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from palm_trainer.config.loader import load_config
from palm_trainer.errors import ConfigError
from palm_trainer.runs import event_log as trackers
from palm_trainer.runs.file_names import EVENTS
from palm_trainer.runs.run import train
from palm_trainer.training.loop import Step

ON = 'train.trackers=["tensorboard"]'


def scalars(run):
    """Values by name: step -> value; no step may occur twice."""
    reader = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    found = {}
    for name in reader.Tags()["scalars"]:
        events = reader.Scalars(name)
        found[name] = {event.step: event.value for event in events}
        assert len(found[name]) == len(events), name
    return found


def logged(run):
    """The same of events.jsonl."""
    found = {}
    for line in (run / EVENTS).read_text().splitlines():
        record = json.loads(line)
        for name, value in trackers.figures(record).items():
            found.setdefault(name, {})[record["step"]] = value
    return found


def same(run):
    one, other = scalars(run), logged(run)
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert values == pytest.approx(other[name], rel=1e-5), name
    return one


def test_losses_rates_and_dev_metrics_by_step(tiny_config):
    config = tiny_config(ON, "train.epochs=2")
    list(train(config))
    found = same(config.train.output)
    assert {"loss/intent", "loss/slots", "learning_rate", "examples_per_second"} < found.keys()
    assert {"dev/intent/accuracy", "dev/slots/f1", "dev/exact_match", "dev/score", "epoch"} < found.keys()
    assert list(found["loss/intent"]) == [2, 4, 6, 8, 10, 12]
    assert list(found["dev/intent/accuracy"]) == [6, 12]
    list(train(config, overwrite=True))  # nothing of the old run stays
    assert same(config.train.output).keys() == found.keys()


def test_resume_shows_no_step_twice(tiny_config):
    """Killed after steps that no checkpoint has: they are trained and told again, and TensorBoard shows the second time only."""
    config = tiny_config(ON, "train.epochs=2", "train.checkpoints.save_every_steps=4", "train.log_every_steps=1")
    events = train(config)
    for event in events:
        if isinstance(event, Step) and event.step == 11:
            events.close()  # as a kill: nothing is saved
            break
    assert list(scalars(config.train.output)["loss/intent"]) == [*range(1, 12)]
    list(train(config, resume=True))
    assert list(same(config.train.output)["loss/intent"]) == [*range(1, 13)]


def test_off_unless_asked_for(finished_run):
    assert not (finished_run / "tensorboard").exists()


def test_a_missing_package_is_told_before_anything_is_done(tiny_config, monkeypatch):
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    config = tiny_config(ON)
    with pytest.raises(
        ConfigError,
        match=r"'tensorboard' is not installed here\. Remove it, or run in a clone of PALM: pip install -c constraints\.txt '\.\[tensorboard\]'",
    ):
        list(train(config))
    assert not config.train.output.exists()
    with pytest.raises(
        ConfigError, match=r"'wandb' is not installed here\. Remove it, or install the package of wandb"
    ):
        trackers.check_trackers(["wandb"])


def test_an_unknown_tracker_is_refused(tiny_toml):
    with pytest.raises(ConfigError, match=r"trackers.*must be 'tensorboard', 'wandb'"):
        load_config(tiny_toml(), ['train.trackers=["sacred"]'])


def test_names_are_those_of_accelerate():
    from typing import get_args

    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    from palm_trainer.config.schema import Tracker

    assert set(get_args(Tracker)) == set(LOGGER_TYPE_TO_CLASS)


def _alone_in_a_group(path):
    from palm_trainer.training.processes import process_group

    with process_group() as processes:
        list(train(load_config(path, [ON, "train.epochs=1"]), processes=processes))


def test_of_several_processes_the_first_alone_tells(tiny_toml, together):
    path = tiny_toml()
    processes = together(2, _alone_in_a_group, path)
    assert processes.codes() == [0, 0], processes.printed("err")
    run = path.parent / "run"
    assert len(list((run / "tensorboard").glob("events.*"))) == 1
    assert list(same(run)["loss/intent"]) == [2, 4, 6]
