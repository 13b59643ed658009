"""Where prototype heads start: at the means of the texts and names of their classes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_serve.bundle.manifest import EncoderInfo, TaskInfo
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.data.label_names import spell_out
from palm_trainer.errors import ConfigError, PalmError
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained, read_description
from palm_trainer.model.encoders import build_scratch
from palm_trainer.model.heads import make_head
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel
from palm_trainer.runs import class_vectors
from palm_trainer.runs.class_vectors import ClassTexts, start_prototype_heads
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.runs.run import train

WORDS = ("fly", "to", "boston", "play", "jazz", "rain", "in", "denver", "pay", "my", "bill")
CPU = torch.device("cpu")


def untrained(labels: tuple[str, ...], texts: list[str], pooling: str = "mean") -> TrainedModel:
    torch.manual_seed(5)
    encoder = build_scratch(texts, layers=1, hidden_size=16, heads=2, vocab_size=90, max_length=24, pooling=pooling)
    info = TaskInfo(kind="classify", outputs=("intent.logits",), labels=labels)
    model = MultiTaskModel(encoder.backbone, {"intent": make_head("intent", info, 16, variant="prototype")})
    size = encoder.backbone.encoder.config.vocab_size
    facts = EncoderInfo(
        family="bert", name="scratch", layers=1, hidden_size=16, vocab_size=size, parameters=1, pad_token_id=0
    )
    return TrainedModel(model.eval(), encoder.tokenizer_json, 24, {"intent": info}, facts)


def one_vector(trained: TrainedModel, text: str) -> np.ndarray:
    """The vector of length 1 of a text that is encoded alone."""
    rows = list(class_vectors.pooled_vectors(trained, [Example(text)]))
    return class_vectors.to_unit(rows[0][1])[0]


@settings(max_examples=25)
@given(st.data())
def test_zero_steps_answer_as_the_nearest_mean(data):
    labels = ("book_flight", "PlayMusic", "pay2bill")
    sentence = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)
    texts = data.draw(st.lists(sentence, min_size=3, max_size=12))
    classes = [*range(3), *data.draw(st.lists(st.integers(0, 2), min_size=len(texts) - 3, max_size=len(texts) - 3))]
    trained = untrained(labels, [" ".join(WORDS), *map(spell_out, labels)])
    examples = [Example(text, {"intent": labels[c]}) for text, c in zip(texts, classes, strict=True)]
    start_prototype_heads(trained, {"intent": ClassTexts("intent", examples, {})}, CPU)
    means = []
    for number, label in enumerate(labels):
        members = [one_vector(trained, text) for text, c in zip(texts, classes, strict=True) if c == number]
        mean = np.mean([*members, one_vector(trained, spell_out(label))], axis=0)
        means.append(mean / np.linalg.norm(mean))
    questions = [*texts, *data.draw(st.lists(sentence, min_size=1, max_size=6))]
    answers = Predictor(trained, top_k=0).answers([Example(text) for text in questions])
    for text, answer in zip(questions, answers, strict=True):
        cosines = np.stack(means) @ one_vector(trained, text)
        confidences = np.exp(20 * cosines) / np.exp(20 * cosines).sum()
        ranking = {label.name: label.confidence for label in answer["intent"].ranking}
        np.testing.assert_allclose([ranking[label] for label in labels], confidences, atol=2e-4)


def test_texts_of_a_large_class_are_chosen_evenly(monkeypatch):
    monkeypatch.setattr(class_vectors, "MAX_TEXTS", 3)
    chosen = class_vectors.evenly_chosen([Example(str(i)) for i in range(8)])
    assert [example.text for example in chosen] == ["0", "3", "6"]
    assert len(class_vectors.evenly_chosen([Example(str(i)) for i in range(3)])) == 3


PROTOTYPE = """
[data.d]
format = "jsonl"
train = "train.jsonl"
dev = "train.jsonl"

[tasks.intent]
kind = "classify"
data = ["d"]
head = "prototype"
{more}
"""


@pytest.fixture
def config(kind) -> Callable[..., object]:
    """`config(rows, 'names_only = true')`: rows are pairs of a text and its label. Steps hardly move the weights."""

    def _config(rows: list[tuple[str, str]], more: str = "", **options: int):
        kind.rows("train.jsonl", [{"text": text, "intent": label} for text, label in rows])
        kind.config(PROTOTYPE.format(more=more), **options)
        return load_config(
            kind.folder / "tiny.toml", ["train.learning_rate=1e-6", "encoder.dropout=0.0", "encoder.pooling=mean"]
        )

    return _config


ROWS = [
    ("fly to boston", "book_flight"),
    ("fly to denver please", "book_flight"),
    ("play some jazz", "play_music"),
    ("play my song", "play_music"),
    ("pay the bill", "pay_bill"),
]


def test_dropout_is_off_unless_it_is_set(config):
    assert config(ROWS).tasks["intent"].dropout == 0.0
    assert config(ROWS, "dropout = 0.3").tasks["intent"].dropout == 0.3
    job = job_from_config(config(ROWS))
    assert job.trained.model.head("intent").dropout.p == 0.0


def test_a_run_keeps_head_and_names(config, fit, kind):
    settings = config(ROWS, 'names = {play_music = "play a song"}', epochs=2)
    assert fit(settings).metrics["dev"]["intent"]["accuracy"] == 1.0
    assert (
        load_config(kind.run / "config.toml").tasks
        == settings.model_copy(
            update={"tasks": {"intent": settings.tasks["intent"].model_copy(update={"field": "intent"})}}
        ).tasks
    )
    assert read_description(kind.run / "best").heads == {"intent": "prototype"}
    assert load_trained(kind.run).model.head("intent").variant == "prototype"


def test_a_description_without_heads_is_linear(finished_run):
    stored = json.loads((finished_run / "best/model.json").read_text())
    assert stored.pop("heads") == {}
    assert load_trained(finished_run).model.head("intent").variant == ""


def test_vectors_are_computed_for_a_training_alone(config):
    started = job_from_config(config(ROWS), start_heads=True).trained.model.head("intent").linear.weight
    planned = job_from_config(config(ROWS)).trained.model.head("intent").linear.weight
    torch.testing.assert_close(started.norm(dim=1), torch.ones(3))
    assert not torch.allclose(started, planned)


def test_names_move_the_vectors(config):
    plain = job_from_config(config(ROWS), start_heads=True).trained.model.head("intent").linear.weight
    named = config(ROWS, 'names = {pay_bill = "boston"}')
    moved = job_from_config(named, start_heads=True).trained.model.head("intent").linear.weight
    changed = (plain != moved).any(dim=1)
    assert changed.tolist() == [False, True, False]  # book_flight, pay_bill, play_music


def test_resumed_is_unbroken_and_computes_no_vectors(config, fit, kind, monkeypatch):
    settings = config(ROWS, epochs=4)
    fit(settings)
    weights = (kind.run / "last/model.safetensors").read_bytes()
    steps = []
    fit(settings, overwrite=True, stop=lambda: steps.append(1) or len(steps) == 3)
    monkeypatch.setattr("palm_trainer.runs.job_from_config.start_prototype_heads", lambda *_: pytest.fail("computed"))
    fit(settings, resume=True)
    assert (kind.run / "last/model.safetensors").read_bytes() == weights


def test_a_class_by_its_name_alone_is_answered(config, fit, kind):
    rows = [("fly to boston", "book_flight"), ("play my jazz", "play_music"), ("does my rain pay", "weather")]
    rows.append(("a bill of rain", "weather"))
    more = 'names_only = true\nnames = {pay_bill = "pay my bill", weather = "rain or snow"}'
    fit(config(rows, more))
    trained = load_trained(kind.run)
    assert trained.tasks["intent"].labels == ("book_flight", "pay_bill", "play_music", "weather")
    answer = Predictor(trained).answers([Example("pay my bill")])[0]["intent"]
    assert answer.label.name == "pay_bill"
    kind.serve()


def test_a_class_by_its_name_leaves_mahalanobis_out(config, fit, kind):
    fit(config(ROWS, 'false_rejection = 0.2\nnames_only = true\nnames = {goodbye = "play to boston"}'))
    calibration = load_trained(kind.run).tasks["intent"].calibration
    assert calibration.out_of_scope == "energy"


def test_one_example_in_all(config, fit, kind):
    fit(config([("fly to boston", "book_flight")], 'names_only = true\nnames = {pay_bill = "to to"}'))
    answers = Predictor(load_trained(kind.run)).answers([Example("fly to boston"), Example("to to")])
    assert [answer["intent"].label.name for answer in answers] == ["book_flight", "pay_bill"]


def test_two_classes_with_one_name(config):
    """Their texts tell them apart, and their names are the same words."""
    rows = [("fly to boston", "pay_bill"), ("play some jazz", "PayBill")]
    weight = job_from_config(config(rows), start_heads=True).trained.model.head("intent").linear.weight
    assert not torch.allclose(weight[0], weight[1])


def test_a_label_without_words_has_its_texts_alone(config):
    rows = [("fly to boston", "???"), ("play some jazz", "play_music")]
    trained = job_from_config(config(rows), start_heads=True).trained
    expected = one_vector(trained, "fly to boston")
    np.testing.assert_allclose(trained.model.head("intent").linear.weight[0].detach().numpy(), expected, atol=1e-6)


def test_chinese_names(config, fit, kind):
    rows = [("我 要 去 北京", "订机票"), ("放 一首 歌", "放音乐")]
    fit(config(rows, 'names_only = true\nnames = {"查天气" = "北京 天气"}'))
    assert load_trained(kind.run).tasks["intent"].labels == ("放音乐", "查天气", "订机票")


def test_a_class_that_the_encoder_cannot_read_is_refused(config):
    settings = config(ROWS, 'names_only = true\nnames = {"x" = "查天气"}')
    with pytest.raises(ConfigError) as refused:
        job_from_config(settings, start_heads=True)
    assert str(refused.value) == (
        "tasks.intent.names must have words for 'x' that the encoder can read, got '查天气'. "
        "Describe the class in the language of the encoder, or add texts of it."
    )


def test_ten_thousand_classes(config):
    rows = [(f"fly to boston {number}", f"class_{number}") for number in range(10_000)]
    head = job_from_config(config(rows), start_heads=True).trained.model.head("intent")
    assert head.linear.weight.shape == (10_000, 16)
    torch.testing.assert_close(head.linear.weight.norm(dim=1), torch.ones(10_000))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            'names = {pay = "pay"}',
            "tasks.intent.names must be of labels that a training text has, got 'pay'. "
            "Add texts of it, set tasks.intent.names_only = true, or remove it.",
        ),
        ('names = {pay_bill = "?"}', "tasks.intent.names.pay_bill must be words with a letter or digit, got '?'."),
    ],
)
def test_names_that_fit_no_class_are_refused(config, more, message):
    with pytest.raises(PalmError) as refused:
        next(train(config(ROWS, more)))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("old", "more", "message"),
    [
        ('head = "prototype"', 'names = {a = "b"}', "tasks.intent.names is only for head = 'prototype', got 'linear'."),
        ('head = "prototype"', "names_only = true", "tasks.intent.names_only is only for head = 'prototype'"),
        (
            "",
            'names_only = true\nout_of_scope_score = "mahalanobis"',
            "tasks.intent.out_of_scope_score must be softmax or energy with names_only, got 'mahalanobis'",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(kind, old, more, message):
    with pytest.raises(ConfigError) as refused:
        kind.config(PROTOTYPE.format(more=more).replace(old, ""))
    assert message in str(refused.value)


def train_in_folder(folder: Path) -> None:
    torch.set_num_threads(1)
    from palm_trainer.cli.train import app, command

    raise SystemExit(command(app, ["run", str(folder / "tiny.toml")]))


def test_several_processes_start_at_the_vectors_of_the_first(config, fit, kind, together):
    settings = config(ROWS, epochs=2)
    path = kind.folder / "tiny.toml"
    text = path.read_text().replace("learning_rate = 1e-2", "learning_rate = 1e-6")
    path.write_text(text.replace("[encoder]", '[encoder]\ndropout = 0.0\npooling = "mean"'))
    assert together(2, train_in_folder, kind.folder).codes() == [0, 0]
    shared = load_trained(kind.run, "last").model.state_dict()
    fit(settings, overwrite=True)
    alone = load_trained(kind.run, "last").model.state_dict()
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, atol=1e-4, rtol=1e-3)
