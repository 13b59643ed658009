"""Trainer and MultiHeadTrainer: what they say, plan, train, save, load and predict; the faults of the original that must not come back."""

import json
import re

import numpy as np
import pytest
import torch

import palm_trainer as palm
from palm_trainer.api.declarations import TaskStep
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.errors import CheckpointError, ConfigError, DataError, WiringError
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.training.loop import Step


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- log lines --------------------------------------------------------------------------------------------------------


def test_log_lines_are_the_articles_to_the_byte():
    view = TaskStep(Step(5, "slot", {"slot": 68.9649}, 1e-5, 16, 0.1), "slot", 3, 309, 0, 68.9649)
    assert view.global_line(0.5849) == "global step: 5, slot: step 3/309 (epoch 0), loss: 68.965, speed: 0.58 steps/s"
    assert view.line(8.76) == "step 3/309 (epoch 0), loss: 68.965, speed: 8.76 steps/s"


def test_multi_task_training_says_the_articles_lines(article, tmp_path):
    one = article()
    one.trainer.set_saver(tmp_path / "out", save_steps=3)
    one.trainer.train(print_steps=2)
    assert one.said[:5] == [
        "slot: expected train steps 4.",
        "slot: 2.0 epochs of its data.",
        "intent: expected train steps 4.",
        "intent: 2.0 epochs of its data.",
        "Estimated overall train steps 8.",
    ]
    line = r"global step: {}, (slot|intent): step [12]/2 \(epoch [01]\), loss: \d+\.\d{{3}}, speed: \d+\.\d\d steps/s"
    logged = [text for text in one.said if text.startswith("global")]
    assert all(re.fullmatch(line.format(2 * i), text) for i, text in enumerate(logged, 1))
    assert len(logged) == 4
    assert {"slot train finish!", "intent train finish!"} <= set(one.said)
    assert [text for text in one.said if "saved" in text] == [
        f"checkpoint has been saved at {tmp_path / 'out' / f'ckpt.step{n}'}" for n in (3, 6, 8)
    ]


def test_single_task_training_says_palms_lines(single):
    one = single(num_epochs=2)
    one.trainer.train(print_steps=1)
    assert one.said[0] == "ok!"
    steps = [
        re.match(r"step (\d)/2 \(epoch (\d)\), loss: \d+\.\d{3}, speed: \d+\.\d\d steps/s$", t) for t in one.said[1:-1]
    ]
    assert [match.groups() for match in steps] == [("1", "0"), ("2", "0"), ("1", "1"), ("2", "1")]
    assert one.said[-1] == "intent train finish!"


# -- rules ------------------------------------------------------------------------------------------------------


def test_same_reader_is_one_encoder_pass_with_two_losses(vocab_path, config, tmp_path, files):
    reader = palm.reader.JointReader(vocab_path, 32)
    lines = ["text_a\tlabel\tintent", *files.slot(tmp_path).read_text(encoding="utf-8").splitlines()[1:]]
    rows = [lines[0], *(f"{text}\t{'ab'[i % 2]}" for i, text in enumerate(lines[1:]))]
    reader.load_data(files.write(tmp_path / "joint.tsv", rows), batch_size=4)
    bert = palm.backbone.BERT.from_config(config)
    slot, intent = palm.Trainer("slot"), palm.Trainer("intent")
    trainer = palm.MultiHeadTrainer({"slot": slot, "intent": intent}, say=lambda line: None)
    slot.build_forward(bert, palm.head.SequenceLabel(5, 16))
    intent.build_forward(bert, palm.head.Classify(2, 16))
    trainer.build_backward(palm.optimizer.Adam(trainer.build_forward(), 1e-3), device="cpu", precision="fp32")
    batches = trainer.fit_readers_with_mixratio({"slot": reader, "intent": reader}, "intent", 1)
    losses = [trainer.train_one_step(batch)[0] for batch in batches]
    assert len(losses) == 2
    assert all(set(one) == {"slot.loss", "intent.loss"} for one in losses)
    assert slot.cur_train_step == intent.cur_train_step == 2
    records = trainer.predict(reader, tmp_path / "joint")
    assert set(records) == {"slot", "intent"}
    assert records["slot"][0]["words"] == ["fly", "to", "boston"]
    assert (tmp_path / "joint/slot/predictions.json").is_file()
    intent.mix_ratio = 0.5
    with pytest.raises(
        WiringError, match=r"share the reader of 'slot' have different mix ratios \(slot: 1, intent: 0.5\)"
    ):
        trainer.fit_readers_with_mixratio([reader, reader], "slot", 1)


def test_learns_and_evaluates_and_keeps_the_best_as_a_run(article, vocab_path, tmp_path, files):
    one = article(epochs=25)
    dev = [reader.clone("predict") for reader in one.readers]
    dev[0].load_data(files.slot(tmp_path, 4, "dev_slot.tsv"), batch_size=4)
    dev[1].load_data(files.intent(tmp_path, 4, "dev_intent.tsv"), batch_size=4)
    one.trainer.set_saver(tmp_path / "out", save_steps=1000, save_type="ckpt,predict")
    one.trainer.set_evaluator(dev, eval_steps=40)
    one.trainer.train(print_steps=1000)
    metrics = one.trainer.evaluate()
    assert metrics["intent"]["accuracy"] == 1
    assert metrics["slot"]["f1"] == 1
    assert [text.partition(":")[0] for text in one.said if "evaluation" in text] == [
        "evaluation at step 40",
        "evaluation at step 80",
        "evaluation at step 100",
    ]
    run = tmp_path / "out"
    config = load_config(run / "config.toml")
    assert (config.tasks["slot"].role, config.tasks["intent"].role) == ("slots", "intent")
    assert (config.data["slot"].format, config.data["intent"].format) == ("palm", "tsv")
    assert json.loads((run / "metrics.json").read_text())["dev"]["intent"]["accuracy"] == 1
    assert {path.name for path in run.iterdir()} == {
        "best",
        "config.toml",
        "metrics.json",
        "events.jsonl",
        "report.html",
        "ckpt.step100",
        "pred.step100",
    }
    answer = Predictor(load_trained(run / "pred.step100")).answers([Example("fly to new york")])[0]
    assert [span.value for span in answer["slot"].spans] == ["new york"]
    assert answer["intent"].label.name == "flight"


def test_checkpoint_predicts_in_a_new_trainer(article, config, vocab_path, tmp_path):
    one = article()
    one.trainer.set_saver(tmp_path / "out", save_steps=4)
    one.trainer.train()
    said = []
    fresh = palm.Trainer("intent", say=said.append)
    fresh.build_predict_forward(
        palm.backbone.ERNIE.from_config(config, phase="predict"), palm.head.Classify(3, 16, phase="predict")
    )
    fresh.load_ckpt(tmp_path / "out/ckpt.step8")
    one.intent.fit_reader(one.readers[1], phase="predict")
    fresh.fit_reader(one.readers[1], phase="predict")
    assert fresh.predict() == one.intent.predict()
    assert said == [f"Load model from {tmp_path / 'out/ckpt.step8'}"]
    other = palm.Trainer("mood", say=said.append)
    with pytest.raises(CheckpointError, match=r"has no task 'mood'. It has: slot, intent"):
        other.load_predict_model(tmp_path / "out/ckpt.step8")
    wrong = palm.Trainer("intent", say=said.append)
    wrong.build_predict_forward(palm.backbone.BERT.from_config(config), palm.head.SequenceLabel(3, 16))
    with pytest.raises(
        CheckpointError, match="task 'intent' is of kind 'classify', but the trainer's head of kind 'sequence_label'"
    ):
        wrong.load_ckpt(tmp_path / "out/ckpt.step8")


def test_resume_goes_on_as_if_it_had_not_stopped(article, tmp_path):
    whole = article()
    whole.trainer.set_saver(tmp_path / "out", save_steps=3)
    whole.trainer.train()
    again = article()
    again.trainer.load_ckpt(tmp_path / "out/ckpt.step3", resume=True)
    again.trainer.train(print_steps=1)
    assert [text.split(",")[0] for text in again.said if text.startswith("global")] == [
        f"global step: {n}" for n in range(4, 9)
    ]
    assert same(weights(whole.trainer._session.ready.model), weights(again.trainer._session.ready.model))


def test_moving_average_is_what_is_saved(single, tmp_path):
    one = single(num_epochs=4, use_ema=True, ema_decay=0.9)
    one.trainer.set_saver(tmp_path / "out", save_steps=100)
    one.trainer.train()
    raw = weights(one.trainer._session.ready.model)
    saved = weights(load_trained(tmp_path / "out").model)
    assert not same(raw, saved)
    session = one.trainer._session
    with session.averaged():
        assert same(weights(session.ready.model), saved)
    assert same(raw, weights(session.ready.model))


def test_auxiliary_head_shapes_the_encoder_only(article, tmp_path):
    one = article(fit=False)
    one.intent.set_as_aux()
    one.trainer.fit_readers_with_mixratio(one.readers, "slot", 1)
    one.trainer.train()
    one.trainer.save(tmp_path / "run")
    assert "slot train finish!" in one.said
    assert "intent train finish!" not in one.said
    assert load_trained(tmp_path / "run").auxiliary == {"intent"}
    assert load_config(tmp_path / "run/config.toml").tasks["intent"].auxiliary
    assert set(one.trainer.predict(one.readers[1])) == {"slot"}


def test_head_is_shared_on_request(vocab_path, config, tmp_path, files):
    bert = palm.backbone.BERT.from_config(config)
    trainers = [palm.Trainer("one"), palm.Trainer("two", reuse_head_with="one")]
    trainer = palm.MultiHeadTrainer(trainers, say=lambda line: None)
    readers = []
    for one in trainers:
        one.build_forward(bert, palm.head.Classify(3, 16))
        readers.append(palm.reader.ClassifyReader(vocab_path, 32))
        readers[-1].load_data(files.intent(tmp_path), batch_size=4)
    trainer.build_backward(palm.optimizer.Adam(trainer.build_forward(), 1e-3), device="cpu", precision="fp32")
    trainer.fit_readers_with_mixratio(readers, "one", 1)
    trainer.train()
    model = trainer._session.ready.model
    assert model.head("one") is model.head("two")
    trainer.save(tmp_path / "run")
    loaded = load_trained(tmp_path / "run").model
    assert same(weights(loaded.head("one")), weights(loaded.head("two")))


def test_joint_readers_give_batches_by_task(article):
    one = article()
    joint = one.trainer.merge_inference_readers([reader.clone("predict") for reader in one.readers])
    with pytest.raises(WiringError, match="has no data yet"):
        next(joint("slot"))
    joint = one.trainer.merge_inference_readers(one.readers)
    batch = next(joint("slot"))
    assert one.trainer.predict_one_batch("slot", batch)["logits"].shape == (4, batch["token_ids"].shape[1], 5)
    probs = one.trainer.predict_one_batch("intent", next(joint("intent")))["probs"]
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
    assert set(one.trainer.predict()) == {"slot", "intent"}
    with pytest.raises(WiringError, match="no reader of a task 'mood'"):
        joint("mood")


# -- wrong usage ------------------------------------------------------------------------------------------------------


def test_calls_in_a_wrong_order_say_which_is_missing(config, vocab_path, tmp_path, files):
    trainer = palm.Trainer("intent", say=lambda line: None)
    reader = palm.reader.ClassifyReader(vocab_path, 32)
    loss = trainer.build_forward(palm.backbone.BERT.from_config(config), palm.head.Classify(3, 16))
    with pytest.raises(WiringError, match=r"ClassifyReader has no data yet\. Call load_data"):
        trainer.fit_reader(reader)
    reader.load_data(files.intent(tmp_path), batch_size=4)
    with pytest.raises(WiringError, match=r"no head yet. Call its build_forward\(backbone, head\) first"):
        palm.Trainer("intent").fit_reader(reader)
    trainer.fit_reader(reader)
    with pytest.raises(WiringError, match=r"no optimizer yet. Call build_backward"):
        trainer.train()
    with pytest.raises(WiringError, match=r"no data to predict. Call fit_reader\(reader, phase='predict'\)"):
        trainer.predict()
    trainer.build_backward(palm.optimizer.Adam(loss, 1e-3), device="cpu", precision="fp32")
    with pytest.raises(WiringError, match="this is no batch of this trainer"):
        trainer.train_one_step({"token_ids": np.zeros((1, 3))})
    empty = palm.Trainer("intent", say=lambda line: None)
    empty.fit_reader(reader, phase="predict")
    with pytest.raises(WiringError, match=r"has nothing to predict with yet\. Train it, or call load_ckpt"):
        empty.predict()


def test_held_trainers_are_trained_together_only(article):
    one = article()
    for call in (one.slot.train, lambda: one.slot.fit_reader(one.readers[0])):
        with pytest.raises(WiringError, match="trainer 'slot' is held by a MultiHeadTrainer"):
            call()
    with pytest.raises(WiringError, match="is held by a MultiHeadTrainer already"):
        palm.MultiHeadTrainer([one.slot])


@pytest.mark.parametrize(
    ("trainers", "message"),
    [
        (list, "must hold at least one trainer, got none"),
        (lambda: [palm.Trainer("a"), palm.Trainer("a")], "two trainers are called 'a'"),
        (lambda: {"b": palm.Trainer("a")}, "the keys of the dict must be the names of its trainers \\(a\\), got b"),
    ],
)
def test_wrong_trainers(trainers, message):
    with pytest.raises(WiringError, match=message):
        palm.MultiHeadTrainer(trainers())


def test_wrong_readers(article):
    one = article(fit=False)
    fit = one.trainer.fit_readers_with_mixratio
    with pytest.raises(WiringError, match=r"1 readers for 2 trainers \(slot, intent\)"):
        fit([one.readers[0]], "slot", 1)
    with pytest.raises(WiringError, match="no trainer 'mood' for the reader"):
        fit({"mood": one.readers[0]}, "slot", 1)
    with pytest.raises(WiringError, match="trainer 'intent' got no reader"):
        fit({"slot": one.readers[0]}, "slot", 1)
    with pytest.raises(WiringError, match="sampling_reference must be one of slot, intent, got 'mood'"):
        fit(one.readers, "mood", 1)
    with pytest.raises(ConfigError, match="num_epochs must be above 0 and at most 100,000, got 0"):
        fit(one.readers, "slot", 0)
    with pytest.raises(
        WiringError, match=r"the kind of its head must be one that ClassifyReader reads .*, got 'sequence_label'"
    ):
        fit(one.readers[::-1], "slot", 1)
    one.readers[0].num_epochs = 3
    with pytest.raises(
        WiringError, match=r"num_epochs of its reader must be None, since the MultiHeadTrainer plans the epochs, got 3"
    ):
        fit(one.readers, "slot", 1)


def test_wrong_forward_and_backward(article, config):
    one = article()
    with pytest.raises(WiringError, match=r"declared with input_dim=8, but the backbone's hidden size is 16"):
        palm.Trainer("x").build_forward(one.backbone, palm.head.Classify(3, 8))
    with pytest.raises(WiringError, match=r"is no backbone\. Pass one of palm\.backbone"):
        palm.Trainer("x").build_forward(config, palm.head.Classify(3, 16))
    adam = palm.optimizer.Adam(one.intent.build_forward(one.backbone, palm.head.Classify(3, 16)), 1e-3)
    with pytest.raises(WiringError, match="minimizes the loss of intent, but this trainer's is that of intent, slot"):
        one.trainer.build_backward(adam)
    one.intent.build_forward(palm.backbone.ERNIE.from_config(config), palm.head.Classify(3, 16))
    with pytest.raises(WiringError, match="trainers 'slot' and 'intent' have different backbones"):
        one.trainer.build_forward()
    for trainer in (one.slot, one.intent):
        trainer.set_as_aux()
    with pytest.raises(WiringError, match="at least one trainer must not be auxiliary"):
        one.trainer.build_forward()


def test_wrong_classes_are_said_with_the_right_number(single, article, vocab_path, tmp_path, config):
    one = single()
    one.trainer.build_forward(one.backbone, palm.head.Classify(2, 16))
    with pytest.raises(
        WiringError, match=r"num_classes must be 3, because .* holds 3 labels.*got 2.*Write num_classes=3"
    ):
        one.trainer.fit_reader(one.reader)
    two = article(fit=False)
    two.slot.build_forward(two.backbone, palm.head.SequenceLabel(130, 16))
    with pytest.raises(
        WiringError, match=r"num_classes must be 4, because the label map holds 4 tags, got 130. Write num_classes=4"
    ):
        two.trainer.fit_readers_with_mixratio(two.readers, "slot", 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.set_saver("out", 0), "save_steps must be at least 1, got 0"),
        (lambda t: t.set_saver("out", 5, "model"), "save_type must be .*, got 'model'"),
        (lambda t: palm.Trainer("a.b"), "name must be letters, digits, _ and -.*got 'a.b'"),
        (lambda t: palm.Trainer("a", mix_ratio=0), "mix_ratio must be above 0, got 0"),
        (lambda t: palm.optimizer.Adam(None, 0), "lr must be above 0 and at most 10, got 0"),
        (lambda t: palm.optimizer.Adam(None, 1e30), "lr must be above 0 and at most 10, got"),
        (lambda t: palm.optimizer.Adam(None, 1e-3, 5), "lr_schedualer must be a function of the step, got 5"),
        (lambda t: t.build_backward(None, use_ema=True, ema_decay=2), "ema_decay is 2"),
        (lambda t: t.build_backward(None, weight_decay=-1), "weight_decay is -1"),
    ],
)
def test_wrong_numbers(call, message):
    with pytest.raises(ConfigError, match=message):
        call(palm.Trainer("a"))


def test_pairs_are_needed_where_they_are_read(vocab_path, config, tmp_path, files):
    reader = palm.reader.MatchReader(vocab_path, 32)
    rows = [f"{i % 2}\tfly to {'ab'[i % 2]}\tfly to a" for i in range(4)]
    reader.load_data(files.write(tmp_path / "m.tsv", ["label\ttext_a\ttext_b", *rows]), batch_size=2)
    trainer = palm.Trainer("match", say=lambda line: None)
    loss = trainer.build_forward(palm.backbone.BERT.from_config(config), palm.head.Match(2, 16))
    trainer.build_backward(palm.optimizer.Adam(loss, 1e-3), device="cpu", precision="fp32")
    trainer.fit_reader(reader)
    trainer.train()
    trainer.fit_reader(reader, phase="predict")
    assert set(trainer.predict()[0]) == {"index", "label", "name", "logits", "probs", "score", "text_a"}
    lone = palm.reader.ClassifyReader(vocab_path, 32, phase="predict")
    lone.load_data(files.intent(tmp_path), batch_size=2)
    trainer.fit_reader(lone, phase="predict")
    with pytest.raises(DataError, match="task 'match' reads pairs, but this row has one text"):
        trainer.predict()
