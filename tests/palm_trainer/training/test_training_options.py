"""Options of `[train]`: frozen layers, layer-wise rates, averaged weights, and exact resume."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from palm_trainer.config.loader import load_config
from palm_trainer.errors import ConfigError
from palm_trainer.model.encoders import build_scratch, load_pretrained
from palm_trainer.runs.evaluate_run import evaluate_run
from palm_trainer.runs.events import Evaluated
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.runs.run import train
from palm_trainer.training.loop import Step
from palm_trainer.training.regularization import Anchor


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A tiny BERT with its tokenizer, as transformers saves one."""
    path = tmp_path_factory.mktemp("encoder")
    texts = ["flights from boston please", "what is the fare to new york", "list hotels in denver now monday"]
    built = build_scratch(texts, layers=2, hidden_size=16, heads=2)
    built.backbone.encoder.save_pretrained(path)
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(built.tokenizer_json), unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(path)
    return path


@pytest.fixture
def pretrained(tiny_config, encoder):
    """`pretrained("train.epochs=1", ...)`: the tiny data set on the encoder of that directory."""
    toml = tiny_config().train.output.parent / "tiny.toml"

    head, rest = toml.read_text(encoding="utf-8").split("[data.travel]")
    assert "scratch" in head
    table = f'[encoder]\nmodel = "{encoder.as_posix()}"\nmax_length = 24\n'
    toml.write_text(f"{table}[data.travel]{rest}", encoding="utf-8")
    return lambda *overrides: load_config(toml, overrides)


def weights(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / which / "model.safetensors")


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_frozen_parameters_stay_bit_exact(pretrained):
    config = pretrained("train.epochs=1", "train.freeze_layers=1", "train.freeze_embeddings=true")
    training = job_from_config(config)
    before = {name: value.clone() for name, value in training.trained.model.state_dict().items()}
    assert len(list(training.loop.steps())) == 6
    after = training.trained.model.state_dict()
    frozen = {n for n in before if "embeddings" in n or ".layer.0." in n}
    assert len(frozen) > 16
    assert changed(before, after) == before.keys() - frozen


def test_layer_decay_reaches_the_optimizer(pretrained):
    training = job_from_config(pretrained("train.regularization.layer_decay=0.5", "train.learning_rate=1e-2"))
    names = {id(p): name for name, p in training.trained.model.named_parameters()}
    rates = {names[id(p)]: group["peak_lr"] for group in training.loop.optimizer.param_groups for p in group["params"]}
    for name, rate in rates.items():
        head_rate = 1e-2 if ".crf." in name else 5e-2
        wanted = head_rate if name.startswith("heads") else 1e-2 if ".1." in name else 5e-3 if ".0." in name else 2.5e-3
        assert rate == pytest.approx(wanted), name
    step = next(training.loop.steps())
    assert step.learning_rate == pytest.approx(1e-2 / 2)  # of the highest block, in the first step of the warm-up


@pytest.mark.parametrize("key", ["freeze_layers=1", "freeze_embeddings=true", "regularization.anchor=0.1"])
def test_freeze_scratch_encoder_is_refused(tiny_config, key):
    name = key.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"train.{name} needs an encoder with pretrained weights"):
        tiny_config(f"train.{key}")


@pytest.mark.parametrize(
    "key",
    [
        "regularization.layer_decay=0",
        "regularization.layer_decay=1.1",
        "freeze_layers=-1",
        "regularization.ema_decay=1.0",
        "regularization.r_drop=-1",
        "regularization.fgm=-0.1",
        "regularization.word_dropout=1.0",
        "regularization.anchor=-0.1",
    ],
)
def test_training_options_out_of_range_are_refused(tiny_config, key):
    with pytest.raises(ConfigError, match=rf"train.{key.partition('=')[0]} must be "):
        tiny_config(f"train.{key}")


def text_vectors_of(backbone, inputs):
    with torch.no_grad():
        return backbone.eval()(**inputs)["pooled_output"]


def test_anchor_holds_the_vectors_of_texts(pretrained):
    """Trained with it, texts stay near the vectors that the encoder gave before the first step."""
    similarity = {}
    for weight in (0, 1_000):
        config = pretrained("train.epochs=2", "train.learning_rate=1e-2", f"train.regularization.anchor={weight}")
        job = job_from_config(config)
        inputs = job.loop.sources["travel"].dataset.batch(np.arange(16)).inputs
        before = text_vectors_of(job.trained.model.backbone, inputs)
        for step in job.loop.steps():
            assert set(step.losses) == {"intent", "slots"}  # the anchor is no task
        after = text_vectors_of(job.trained.model.backbone, inputs)
        similarity[weight] = float(torch.nn.functional.cosine_similarity(before, after).mean())
    assert similarity[0] < 0.9
    assert similarity[1_000] > 0.99


def test_anchor_is_the_weighted_mean_distance(encoder):
    backbone = load_pretrained(str(encoder), pooling="mean").backbone
    anchor = Anchor(backbone, 3.0)
    inputs = {
        "input_ids": torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]),
        "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
    }
    start = text_vectors_of(backbone, inputs)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    features = backbone(**inputs)
    loss = anchor.loss(inputs, features)
    distances = 1 - torch.nn.functional.cosine_similarity(features["pooled_output"], start)
    assert loss.item() == pytest.approx(3 * distances.mean().item(), rel=1e-5)
    assert loss.item() > 0.01
    loss.backward()
    assert all(parameter.grad is not None for parameter in backbone.encoder.encoder.parameters())
    assert anchor.loss(inputs, {"pooled_output": start}).item() == pytest.approx(0, abs=1e-6)


def test_anchor_is_the_same_in_micro_batches(pretrained):
    gradients = []
    for accumulate in (1, 2):
        config = pretrained(f"train.accumulate_steps={accumulate}", "train.regularization.anchor=5")
        job = job_from_config(config)
        model = job.trained.model
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with torch.no_grad():
            for parameter in model.backbone.parameters():
                parameter.mul_(1.1)
        job.loop.optimizer.zero_grad = lambda **_: None  # so that the gradients of the step can be read
        next(job.loop.steps())
        gradients.append({name: parameter.grad for name, parameter in model.backbone.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5, msg=name)


def test_ema_average_is_evaluated_and_saved(tiny_config, fit):
    """After the first steps the average keeps (1 + t) / (10 + t) of itself: it is computed here from the weights of each step."""
    config = tiny_config("train.epochs=1", "train.regularization.ema_decay=0.999")
    events = train(config)
    model = next(events).job.trained.model
    average = {n: p.detach().clone() for n, p in model.named_parameters()}
    for event in events:
        if isinstance(event, Step):
            keep = min(0.999, (1 + event.step) / (10 + event.step))
            average = {n: keep * average[n] + (1 - keep) * p.detach() for n, p in model.named_parameters()}
    trained = dict(model.named_parameters())
    for which in ("best", "last"):
        saved = weights(config.train.output, which)
        for name in saved.keys() & average.keys():
            torch.testing.assert_close(saved[name], average[name], rtol=1e-5, atol=1e-6, msg=name)
            assert not torch.equal(saved[name], trained[name])
    logged = [json.loads(line) for line in (config.train.output / "events.jsonl").read_text().splitlines()]
    [evaluation] = [line for line in logged if line["event"] == "evaluation"]
    again = evaluate_run(config.train.output, load_config(config.train.output / "config.toml"), "dev", "last")
    for task in ("intent", "slots"):
        again[task].pop("ece", None)  # of confidences, which while training have no meaning yet
    assert evaluation["metrics"] == again


def test_selection_averages_scores_over_baselines(tiny_config):
    config = tiny_config("train.epochs=2", "tasks.intent.baseline=0.5", "tasks.slots.baseline=0.25")
    for event in train(config):
        if isinstance(event, Evaluated):
            wanted = event.metrics["intent"]["accuracy"] / 0.5 + event.metrics["slots"]["f1"] / 0.25
            assert event.score == pytest.approx(wanted / 2)


def test_selection_keeps_the_best_of_each_task(tiny_config, fit):
    """`best-TASK/` holds the weights of the evaluation where the task's metric was greatest, also when the run was stopped between."""
    config = tiny_config("train.epochs=4", "train.checkpoints.best_per_task=true", second=True)
    seen: list[float] = []
    scores: dict[str, list[float]] = {}
    kept = {"intent": "accuracy", "slots": "f1", "mood": "accuracy"}

    def collect(events):
        for event in events:
            if isinstance(event, Evaluated):
                seen.append(event.score)
                for task, metric in kept.items():
                    scores.setdefault(task, []).append(event.metrics[task][metric])

    collect(train(config, stop=lambda: len(seen) >= 2))
    collect(train(config, resume=True))
    resolved = load_config(config.train.output / "config.toml")
    for task, metric in kept.items():
        assert evaluate_run(config.train.output, resolved, "dev", f"best-{task}")[task][metric] == max(scores[task])
    assert len(seen) == 4
    fit(tiny_config("train.epochs=1", second=True), overwrite=True)
    assert not list(config.train.output.glob("best-*"))


@pytest.mark.parametrize(
    "options",
    [
        ("train.regularization.ema_decay=0.9", "train.regularization.layer_decay=0.8"),
        ("train.regularization.r_drop=2", "train.regularization.word_dropout=0.2", "train.regularization.fgm=0.5"),
    ],
    ids=["ema", "regularized"],
)
@pytest.mark.parametrize("cut", [3, 6])
def test_training_options_resumed_run_is_bit_exact(tiny_config, fit, tmp_path, options, cut):
    whole = tiny_config("train.epochs=2", f"train.output={tmp_path / 'whole'}", *options, second=True)
    fit(whole)
    config = tiny_config("train.epochs=2", *options, second=True)
    seen: list[Step] = []
    for event in train(config, stop=lambda: len(seen) >= cut):
        if isinstance(event, Step):
            seen.append(event)
    fit(config, resume=True)
    for which in ("best", "last"):
        assert changed(weights(config.train.output, which), weights(whole.train.output, which)) == set()
