"""Keys of `[train]` have the same effect from Python as from a configuration: the same weights to the bit, and the same log."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import palm_trainer as palm
from palm_trainer.config.loader import load_config
from palm_trainer.errors import ConfigError, DataError, WiringError
from palm_trainer.model.encoders import build_scratch
from palm_trainer.runs.events import Finished, Started
from palm_trainer.runs.run import train


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny BERT without dropout and its tokenizer, as transformers saves them."""
    path = tmp_path_factory.mktemp("encoder")
    texts = ["fly to boston denver new york fare hotel in monday from"]
    built = build_scratch(texts, layers=1, hidden_size=16, heads=2, dropout=0.0)
    built.backbone.encoder.save_pretrained(path)
    tokenizer = Tokenizer.from_str(built.tokenizer_json)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(path)
    return path


@pytest.fixture
def declare(tmp_path, encoder, files):
    """`declare(substitute=0.0, dev=True, epochs=3, **options)`: slots and intents, ready to train."""

    def build(substitute=0.0, dev=True, epochs=3, eval_steps=None, use_ema=False, **options):
        slot = palm.reader.JointReader(encoder, 32, seed=3)
        intent = palm.reader.ClassifyReader(encoder, 32, seed=4)  # a configuration counts the seeds up
        slot.load_data(files.slot(tmp_path, 12), batch_size=4, substitute=substitute)
        intent.load_data(files.intent(tmp_path, 24), batch_size=4)
        settings = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
        bert = palm.backbone.BERT.from_config(settings)
        trainers = [palm.Trainer("slot"), palm.Trainer("intent")]
        trainer = palm.MultiHeadTrainer(trainers, say=lambda line: None)
        trainers[0].build_forward(bert, palm.head.SequenceLabel(5, 16, 0.0))
        trainers[1].build_forward(bert, palm.head.Classify(3, 16, 0.0))
        trainer.load_pretrain(encoder)
        adam = palm.optimizer.Adam(trainer.build_forward(), 5e-3)
        ema = {"use_ema": True, "ema_decay": 0.8} if use_ema else {}
        trainer.build_backward(
            adam, weight_decay=0.01, device="cpu", precision="fp32", log_every_steps=1, **ema, **options
        )
        trainer.fit_readers_with_mixratio([slot, intent], "slot", epochs)
        if dev:
            readers = [slot.clone("predict"), intent.clone("predict")]
            readers[0].load_data(files.slot(tmp_path, 4, "dev_slot.tsv"), batch_size=4)
            readers[1].load_data(files.intent(tmp_path, 4, "dev_intent.tsv"), batch_size=4)
            trainer.set_evaluator(readers, eval_steps)
        return trainer

    return build


def logged(run):
    """Lines of events.jsonl without the clock and the starts."""
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    records = [line for line in lines if line["event"] != "start"]
    return [{key: value for key, value in line.items() if key not in ("time", "seconds")} for line in records]


def train_both_ways(trainer, folder):
    """Train a trainer and the configuration that it writes, from the same weights; their run directories and jobs."""
    trainer.save(folder / "declared")
    config = load_config(folder / "declared/config.toml", output=folder / "configured")
    events = train(config)
    started = next(events)
    assert isinstance(started, Started)
    job = started.job
    weights = {name: value.clone() for name, value in job.trained.model.state_dict().items()}
    trainer._session.ready.model.load_state_dict(weights)
    trainer.set_saver(folder / "python", save_steps=10_000)
    trainer.train(print_steps=10_000)
    *_, last = events
    assert isinstance(last, Finished)
    return SimpleNamespace(python=folder / "python", configured=folder / "configured", job=job, config=config)


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def assert_same_runs(runs, trainer):
    assert logged(runs.python) == logged(runs.configured)
    assert_same_weights(trainer._session.ready.model.state_dict(), runs.job.trained.model.state_dict())
    weights = [load_file(run / "best/model.safetensors") for run in (runs.python, runs.configured)]
    assert_same_weights(*weights)
    metrics = [json.loads((run / "metrics.json").read_text(encoding="utf-8")) for run in (runs.python, runs.configured)]
    assert metrics[0] == metrics[1]
    for run in (runs.python, runs.configured):
        assert (run / "report.html").is_file()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mixing": "round_robin"},
        {"mixing": "temperature", "mixing_temperature": 3.0},
        {"mixing": "loss_driven"},
        {"accumulate_steps": 2},
        {"substitute": 1.0},
        {"schedule": "cosine", "warmup_ratio": 0.2},
        {"evaluations": 4},
        {"freeze_layers": 1, "head_learning_rate": 1e-2, "max_grad_norm": 0.5},
        {"checkpoints": {"average_best": 2, "best_per_task": True}},
        {"checkpoints": {"select": "intent.accuracy", "save_every_steps": 2}},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_option_trains_as_in_a_configuration(declare, tmp_path, options):
    trainer = declare(**options)
    runs = train_both_ways(trainer, tmp_path)
    assert_same_runs(runs, trainer)


def test_weights_are_the_same_without_dev(declare, tmp_path):
    trainer = declare(dev=False)
    runs = train_both_ways(trainer, tmp_path)
    assert_same_weights(trainer._session.ready.model.state_dict(), runs.job.trained.model.state_dict())
    assert load_config(runs.python / "config.toml", output=runs.configured) == load_config(
        runs.configured / "config.toml"
    )


def test_patience_stops_both_at_the_same_step(declare, tmp_path):
    trainer = declare(epochs=9, checkpoints={"patience": 1})
    runs = train_both_ways(trainer, tmp_path)
    assert_same_runs(runs, trainer)
    assert logged(runs.python)[-1]["step"] < trainer.overall_train_steps
    assert (runs.python / f"ckpt.step{logged(runs.python)[-1]['step']}").is_dir()


def test_moving_average_is_the_same(declare, tmp_path):
    trainer = declare(use_ema=True)
    runs = train_both_ways(trainer, tmp_path)
    assert_same_runs(runs, trainer)
    assert runs.config.train.regularization.ema_decay == 0.8
    saved = load_file(runs.python / "best/model.safetensors")
    assert any(not torch.equal(saved[name], value) for name, value in trainer._session.ready.model.state_dict().items())


def test_trackers_get_the_same_figures(declare, tmp_path):
    pytest.importorskip("tensorboard")
    trainer = declare(trackers=["tensorboard"])
    runs = train_both_ways(trainer, tmp_path)
    assert_same_runs(runs, trainer)
    for run in (runs.python, runs.configured):
        assert len(list((run / "tensorboard").glob("events.*"))) == 1


def test_run_resumes_with_progress_from_last(declare, tmp_path):
    """Scores, patience and candidates are kept beside the loop's state."""
    options = {"checkpoints": {"average_best": 2, "save_every_steps": 2}}
    whole = declare(**options)
    weights = {name: value.clone() for name, value in whole._session.ready.model.state_dict().items()}
    whole.set_saver(tmp_path / "whole", save_steps=10_000)
    whole.train(print_steps=10_000)
    stopped = declare(**options)
    stopped._session.ready.model.load_state_dict(weights)
    stopped.set_saver(tmp_path / "stopped", save_steps=4)
    steps = stopped._session.steps()
    for step in steps:
        if step.step == 5:
            steps.close()
            break
    resumed = declare(**options)
    resumed.load_ckpt(tmp_path / "stopped/ckpt.step4", resume=True)
    resumed.set_saver(tmp_path / "stopped", save_steps=10_000)
    resumed.train(print_steps=10_000)
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")
    best = [load_file(tmp_path / name / "best/model.safetensors") for name in ("whole", "stopped")]
    assert_same_weights(*best)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs_": 1}, r"options\.epochs_ is not an option"),
        ({"seed": 1}, r"options\.seed is set elsewhere in Python: by the readers"),
        ({"resume": "auto"}, r"options\.resume is set elsewhere in Python: by load_ckpt\(\.\.\., resume=True\)"),
        ({"mixing": "tempreature"}, r"options\.mixing must be 'mix_ratio'.*got 'tempreature'"),
        (
            {"mixing_temperature": 2.0},
            r"options\.mixing_temperature is only for mixing = 'temperature', got 'mix_ratio'",
        ),
        ({"accumulate_steps": 5}, r"options\.accumulate_steps must be at most batch_size = 4, got 5"),
        ({"checkpoints": {"select": "mood.f1"}}, r"options\.checkpoints\.select must be average, .*got 'mood.f1'"),
        ({"options": {"mixing": "uniform"}, "mixing": "uniform"}, r"mixing must be set once"),
    ],
)
def test_wrong_option_is_refused_before_the_first_step(declare, options, message):
    with pytest.raises(ConfigError, match=message):
        declare(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoints": {"average_best": 2}}, r"options\.checkpoints\.average_best: .*Call set_saver first"),
        ({"checkpoints": {"save_every_steps": 2}}, r"options\.checkpoints\.save_every_steps: .*Call set_saver first"),
        ({"dev": False, "checkpoints": {"patience": 2}}, r"options\.checkpoints\.patience: .*Call set_evaluator first"),
        ({"evaluations": 2, "eval_steps": 3}, r"options\.evaluations: set_evaluator has eval_steps already"),
    ],
)
def test_option_that_lacks_a_call_is_refused(declare, options, message):
    trainer = declare(**options)
    with pytest.raises(ConfigError, match=message):
        trainer.train()


def test_adam_and_options_may_not_contradict(single):
    made = single()
    twice = palm.optimizer.Adam(made.adam.loss_var, 1e-3, freeze_layers=1)
    with pytest.raises(ConfigError, match=r"options\.freeze_layers: Adam has freeze_layers already"):
        made.trainer.build_backward(twice, freeze_layers=1)
    scheduled = palm.optimizer.Adam(made.adam.loss_var, 1e-3, palm.lr_sched.WarmupScheduler(2))
    with pytest.raises(ConfigError, match=r"options\.schedule: the optimizer has an lr_schedualer"):
        made.trainer.build_backward(scheduled, schedule="linear")


def test_substitution_needs_slots(vocab_path, tmp_path, files, config):
    reader = palm.reader.ClassifyReader(vocab_path, 32)
    with pytest.raises(DataError, match=r"substitute must be between 0 and 1, got 2"):
        reader.load_data(files.intent(tmp_path), batch_size=4, substitute=2)
    reader.load_data(files.intent(tmp_path), batch_size=4, substitute=0.5)
    trainer = palm.Trainer("intent", say=lambda line: None)
    trainer.build_forward(palm.backbone.BERT.from_config(config), palm.head.Classify(3, 16))
    with pytest.raises(WiringError, match=r"no SequenceLabel head trains on its data"):
        trainer.fit_reader(reader)


SCRIPT = """
import sys
from pathlib import Path
import torch
import palm_trainer as palm

torch.set_num_threads(1)
torch.manual_seed(1)
vocabulary, data, output = sys.argv[1:]
reader = palm.reader.ClassifyReader(vocabulary, 32, seed=1)
reader.load_data(data, batch_size=4, num_epochs=3)
dev = reader.clone("predict")
dev.load_data(data, batch_size=4)
settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 100,
            "max_position_embeddings": 64, "type_vocab_size": 2, "hidden_act": "gelu",
            "initializer_range": 0.02, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
trainer = palm.Trainer("intent")
loss = trainer.build_forward(palm.backbone.BERT.from_config(settings), palm.head.Classify(3, 16, 0.0))
trainer.build_backward(palm.optimizer.Adam(loss, 5e-3), device="cpu", precision="fp32")
trainer.fit_reader(reader)
trainer.set_evaluator(dev)
trainer.set_saver(output, save_steps=3)
trainer.train(print_steps=1)
"""


def run_script(script, vocabulary, data, output):
    sys.argv = [str(script), str(vocabulary), str(data), str(output)]
    runpy.run_path(str(script), run_name="__main__")


def check_joint_training(alone, joint, folder):
    """Check what one process printed and saved against what two did."""
    without_speed = []
    for text in (alone, joint):
        without_speed.append([line.split("speed")[0].replace("joint", "alone") for line in text.splitlines()])
    assert without_speed[0] == without_speed[1]
    weights = [load_file(folder / run / "ckpt.step9/model.safetensors") for run in ("alone", "joint")]
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)
    start = json.loads((folder / "joint/events.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert start["processes"] == 2


def test_two_processes_train_one_model_and_speak_once(vocab_path, tmp_path, files, together):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    data = files.intent(tmp_path, 12)
    printed = []
    for size, name in ((1, "alone"), (2, "joint")):
        group = together(size, run_script, script, vocab_path, data, tmp_path / name)
        assert group.codes() == [0] * size, group.printed("err")
        first, *others = group.printed("out")
        assert others == [""] * (size - 1)
        printed.append(first)
    check_joint_training(*printed, tmp_path)


@pytest.mark.slow
def test_torchrun_trains_one_model_and_speaks_once(vocab_path, tmp_path, files):
    """The launcher itself, whose three processes load torch each."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    data = files.intent(tmp_path, 12)
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2", "--standalone"]
    printed = []
    for launcher, name in (([sys.executable], "alone"), (torchrun, "joint")):
        command = [*launcher, str(script), str(vocab_path), str(data), str(tmp_path / name)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr
        printed.append(result.stdout)
    check_joint_training(*printed, tmp_path)
