"""A run from configuration to run directory, stopped and continued in every way."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from palm_trainer.config.loader import load_config
from palm_trainer.errors import CheckpointError, DataError
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.events import Evaluated, Finished, Started
from palm_trainer.runs.job import Job
from palm_trainer.runs.run import train
from palm_trainer.training.loop import Step


def weights(run, which="last"):
    return load_file(run / which / "model.safetensors")


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def stop_after(steps):
    """A stop request that comes after so many steps, however often it is asked within one."""
    seen = []
    return seen, lambda: len(seen) >= steps


def train_until(config, steps, **options):
    """Trains until `steps` steps of this call are done; the events."""
    seen, stop = stop_after(steps)
    events = []
    for event in train(config, stop=stop, **options):
        events.append(event)
        if isinstance(event, Step):
            seen.append(event.step)
    return events


def test_run_directory_is_as_architecture_says(finished_run):
    files = {"config.toml", "events.jsonl", "metrics.json", "report.html"}
    assert {p.name for p in finished_run.iterdir()} == {"best", "last", *files}
    weights = {"model.safetensors", "model.json", "tokenizer.json"}
    assert {p.name for p in (finished_run / "best").iterdir()} == weights
    assert {p.name for p in (finished_run / "last").iterdir()} == {*weights, "training.pt"}


def test_resolved_configuration_names_every_field(finished_run):
    config = load_config(finished_run / "config.toml")
    assert {name: task.field for name, task in config.tasks.items()} == {
        "intent": "intent",
        "slots": "slots",
        "mood": "mood",
    }
    assert config.train.head_learning_rate is None or config.train.head_learning_rate > 0


def test_metrics(finished_run):
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert set(metrics) == {"dev", "test"}
    assert set(metrics["dev"]) == {"intent", "slots", "mood", "exact_match"}
    assert set(metrics["test"]) == {"intent", "slots", "exact_match"}
    assert set(metrics["test"]["slots"]) == {"f1", "precision", "recall", "token_accuracy", "ece"}
    assert set(metrics["test"]["intent"]) == {"accuracy", "ece"}
    # the last row of test has an intent and a span type that training never saw
    assert metrics["test"]["intent"]["accuracy"] <= 8 / 9
    assert metrics["test"]["exact_match"] <= 8 / 9


def test_events(finished_run):
    lines = [json.loads(line) for line in (finished_run / "events.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    evaluations = [line for line in lines if line["event"] == "evaluation"]
    assert [line["step"] for line in steps] == list(range(2, 27, 2))
    assert all({"time", "data", "losses", "learning_rate", "examples", "seconds"} <= line.keys() for line in steps)
    assert {line["data"] for line in steps} == {"travel", "reviews"}
    assert [line["epoch"] for line in evaluations][:3] == [1.0, 2.0, 3.0]
    assert all({"metrics", "score", "best"} <= line.keys() for line in evaluations)


def test_events_are_yielded_in_order(tiny_config):
    events = list(train(tiny_config("train.epochs=1")))
    assert [type(e) for e in events] == [Started, *[Step] * 6, Evaluated, Finished]
    assert events[0].first_step == 0
    assert isinstance(events[0].job, Job)
    assert not events[-1].interrupted


def test_it_learns(tiny_config, fit):
    metrics = fit(tiny_config("train.epochs=20", "train.learning_rate=1e-2")).metrics["dev"]
    assert metrics["intent"]["accuracy"] > 0.8
    assert metrics["slots"]["f1"] > 0.5


def test_same_seed_same_weights(tiny_config, fit, tmp_path):
    config = tiny_config("train.epochs=1", second=True)
    fit(config)
    first = weights(config.train.output)
    fit(config, overwrite=True)
    assert_same(first, weights(config.train.output))


def test_without_dev_the_last_epoch_is_the_best(tiny_config, fit):
    config = tiny_config("train.epochs=2", splits=("test",))
    assert set(fit(config).metrics) == {"test"}
    assert_same(weights(config.train.output, "best"), weights(config.train.output, "last"))


def test_without_dev_and_test(tiny_config, fit):
    config = tiny_config("train.epochs=1", splits=())
    assert fit(config).metrics == {}
    assert load_trained(config.train.output).tasks


def test_half_an_epoch_is_evaluated_at_its_end(tiny_config):
    events = list(train(tiny_config("train.epochs=1.5")))
    assert [e.epoch for e in events if isinstance(e, Evaluated)] == [1.0, 1.5]


@pytest.mark.parametrize(("number", "steps"), [(1, [6]), (4, [2, 3, 5, 6]), (99, [1, 2, 3, 4, 5, 6])])
def test_evaluations_evenly_over_the_run(tiny_config, number, steps):
    events = list(train(tiny_config("train.epochs=1", f"train.evaluations={number}")))
    assert [e.step for e in events if isinstance(e, Evaluated)] == steps


def test_patience(tiny_config):
    still = ("train.learning_rate=1e-12", "train.crf_learning_rate=1e-12")
    config = tiny_config("train.epochs=9", "train.checkpoints.patience=2", *still)
    events = list(train(config))
    assert [e.best for e in events if isinstance(e, Evaluated)] == [True, False, False]
    assert not events[-1].interrupted
    again = list(train(config, resume=True))
    assert not [e for e in again if isinstance(e, Step | Evaluated)]


def test_best_is_chosen_by_select(tiny_config):
    config = tiny_config("train.checkpoints.select=slots.f1")
    events = [e for e in train(config) if isinstance(e, Evaluated)]
    assert [e.score for e in events] == [e.metrics["slots"]["f1"] for e in events]


def test_refuses_a_directory_that_holds_a_run(tiny_config, fit):
    config = tiny_config("train.epochs=1")
    fit(config)
    before = weights(config.train.output)
    with pytest.raises(
        CheckpointError, match=r"holds a run already. Continue it with --resume, replace it with --overwrite"
    ):
        fit(config)
    assert_same(before, weights(config.train.output))


def test_refuses_a_directory_with_something_else(tiny_config, fit, tmp_path):
    config = tiny_config()
    config.train.output.mkdir()
    (config.train.output / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match="is not empty and holds no run"):
            fit(config, overwrite=overwrite)


def test_refuses_a_file(tiny_config, fit):
    config = tiny_config()
    config.train.output.touch()
    with pytest.raises(CheckpointError, match=r"is a file. Choose another output directory"):
        fit(config)


def test_nothing_to_resume(tiny_config, fit):
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        fit(tiny_config(), resume=True)


def test_overwrite_leaves_nothing_of_the_old_run(tiny_config):
    config = tiny_config()
    train_until(config, 8)
    run = config.train.output
    (run / "last.old").mkdir()
    events = train(config, overwrite=True)
    next(events)
    assert {p.name for p in run.iterdir()} == {"config.toml"}
    events.close()


def test_overwrite_keeps_the_old_run_until_the_new_one_can_start(tiny_config, fit, tmp_path):
    config = tiny_config("train.epochs=1")
    fit(config)
    before = {p: p.read_bytes() for p in config.train.output.rglob("*") if p.is_file()}
    (tmp_path / "travel/train/label").unlink()
    with pytest.raises(DataError):
        fit(config, overwrite=True)
    assert {p: p.read_bytes() for p in config.train.output.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("cuts", [(1,), (6,), (4, 3, 9), (25,)])
def test_resumed_is_unbroken_to_the_bit(tiny_config, fit, cuts, finished_run):
    """Stopped in the middle of an epoch, at its end, several times, a step before the end: the weights are those of an unbroken run."""
    config = tiny_config(second=True)
    for number, cut in enumerate(cuts):
        events = train_until(config, cut, resume=number > 0)
        assert events[-1] == Finished({}, interrupted=True)
        assert events[0].first_step == sum(cuts[:number])
    fit(config, resume=True)
    for which in ("best", "last"):
        assert_same(weights(config.train.output, which), weights(finished_run, which))

    def logged(run):
        lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        told = [line for line in lines if line["event"] != "start"]  # one for each time that the run was started
        return [{k: v for k, v in line.items() if k not in ("time", "seconds")} for line in told]

    assert logged(config.train.output) == logged(finished_run)
    assert json.loads((config.train.output / "metrics.json").read_text()) == json.loads(
        (finished_run / "metrics.json").read_text()
    )


def test_stop_asked_during_an_evaluation_is_an_interruption(tiny_config):
    asked = []
    config = tiny_config()
    events = []
    for event in train(config, stop=lambda: bool(asked)):
        events.append(event)
        if isinstance(event, Evaluated):
            asked.append(1)
    assert [type(e) for e in events[-2:]] == [Evaluated, Finished]
    assert events[-1].interrupted


def test_stop_asked_at_the_very_end_is_none(tiny_config):
    events = train_until(tiny_config("train.epochs=1"), 6)
    assert not events[-1].interrupted
    assert set(events[-1].metrics) == {"dev", "test"}


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tiny_config, fit, finished_run):
    config = tiny_config(second=True)
    for event in train(config):
        if isinstance(event, Step) and event.step == 3:
            break
    assert not (config.train.output / "last").exists()
    fit(config, resume=True)
    assert_same(weights(config.train.output), weights(finished_run))


def test_a_finished_run_without_last_is_not_trained_again(tiny_config, fit):
    config = tiny_config("train.epochs=1")
    fit(config)
    shutil.rmtree(config.train.output / "last")
    with pytest.raises(CheckpointError, match="holds no 'last' checkpoint"):
        fit(config, resume=True)
    assert load_trained(config.train.output)


def test_resuming_a_finished_run_changes_nothing(tiny_config, fit):
    config = tiny_config("train.epochs=1")
    metrics = fit(config).metrics
    before = {p: p.read_bytes() for p in config.train.output.rglob("*") if p.is_file()}
    assert fit(config, resume=True).metrics == metrics
    assert {p: p.read_bytes() for p in config.train.output.rglob("*") if p.is_file()} == before


def test_resume_survives_a_log_line_that_was_cut(tiny_config, fit):
    config = tiny_config("train.epochs=2")
    train_until(config, 7)
    with (config.train.output / "events.jsonl").open("a") as log:
        log.write('{"event": "step", "losses": {"intent": 0.1}')
    fit(config, resume=True)
    lines = [json.loads(line) for line in (config.train.output / "events.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] != "start"] == [2, 4, 6, 6, 8, 10, 12, 12]


def test_resume_with_another_configuration_names_what_differs(tiny_config, fit, tmp_path):
    train_until(tiny_config(), 2)
    changed = tiny_config("train.epochs=4", "encoder.dropout=0.2", f"train.output={tmp_path / 'run'}")
    with pytest.raises(
        CheckpointError,
        match=r"another configuration \(encoder.dropout, train.epochs differ\). Resume with .*config.toml",
    ):
        fit(changed, resume=True)


def older(config):
    """The configuration as an earlier version had it, which had no rate of CRF scores."""
    return config.model_copy(update={"train": config.train.model_copy(update={"crf_learning_rate": None})})


def test_run_from_before_the_crf_rate_resumes_as_it_was(tiny_config, fit, tmp_path):
    config = older(tiny_config())
    fit(config)
    expected = weights(config.train.output)
    shutil.rmtree(config.train.output)
    train_until(config, 8)
    assert "crf_learning_rate" not in (config.train.output / "config.toml").read_text()
    fit(tiny_config(), resume=True)
    assert_same(weights(config.train.output), expected)
    shutil.rmtree(config.train.output)
    fit(tiny_config())
    crf = "heads.slots.crf.transitions"
    assert weights(config.train.output)[crf].abs().max() != expected[crf].abs().max()


def test_run_from_before_the_crf_rate_refuses_another(tiny_config, fit):
    train_until(older(tiny_config()), 2)
    with pytest.raises(CheckpointError, match=r"another configuration \(train.crf_learning_rate differ\)"):
        fit(tiny_config("train.crf_learning_rate=0.02"), resume=True)


def test_run_from_before_small_pools_keeps_its_batches(tiny_config, fit):
    config = tiny_config()
    train_until(config, 2)
    path = config.train.output / "last/training.pt"
    state = torch.load(path, weights_only=True)
    assert state["loop"]["samplers"]["travel"].pop("pool_batches") == 1
    torch.save(state, path)
    for event in train(config, resume=True):
        if isinstance(event, Started):
            assert event.job.loop.sources["travel"].sampler.state_dict() == {
                "epoch": 0,
                "position": 2,
                "pool_batches": 64,
            }


def test_a_run_that_moved_can_be_resumed(tiny_config, fit, tmp_path, finished_run):
    config = tiny_config(second=True)
    train_until(config, 5)
    config.train.output.rename(tmp_path / "elsewhere")
    moved = tiny_config(f"train.output={tmp_path / 'elsewhere'}", second=True)
    fit(moved, resume=True)
    assert_same(weights(tmp_path / "elsewhere"), weights(finished_run))


@pytest.mark.parametrize("line", ["fly to rome", "zebra quux to boston"])
def test_resume_with_other_data_is_refused(tiny_config, fit, tmp_path, line):
    config = tiny_config()
    train_until(config, 2)
    for name, row in (("seq.in", line), ("seq.out", " ".join("O" * len(line.split()))), ("label", "flight")):
        with (tmp_path / "travel/train" / name).open("a") as file:
            file.write(row + "\n")
    with pytest.raises(
        CheckpointError, match=r"the training data or the encoder is not what it was when .*last was saved"
    ):
        fit(config, resume=True)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_missing_split_is_said_before_training(tiny_config, tmp_path, split):
    config = tiny_config()
    shutil.rmtree(tmp_path / "travel" / split)
    with pytest.raises(DataError, match=f"travel/{split}"):
        next(train(config))
    assert not config.train.output.exists()


@pytest.mark.parametrize("split", ["dev", "test"])
def test_labels_of_another_kind_are_said_before_training(tmp_path, split):
    rows = [{"text": f"t {i}", "mood": "ab"[i % 2], "slots": [{"start": 0, "end": 1, "label": "x"}]} for i in range(4)]
    for name in ("train", "dev", "test"):
        wrong = [{"text": "t", "mood": ["a", "b"]}] if name == split else []
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + wrong))
    files = "".join(f'{name} = "{name}.jsonl"\n' for name in ("train", "dev", "test"))
    encoder = '[encoder]\nmodel = "scratch"\nlayers = 1\nhidden_size = 16\nheads = 2\n'
    task = f'[tasks.mood]\nkind = "classify"\ndata = ["d"]\n[train]\noutput = "{tmp_path / "run"}"\n'
    (tmp_path / "c.toml").write_text(f'{encoder}[data.d]\nformat = "jsonl"\n{files}{task}')
    with pytest.raises(DataError, match=rf"{split}.jsonl:5: task 'mood' needs one class in 'mood', not \('a', 'b'\)"):
        next(train(load_config(tmp_path / "c.toml")))
