"""The acceptance tests of the original's faults, by number, in the calls of the Python API. Number 10, the D-Net tasks, is in test_kinds.py."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import palm_trainer as palm
from palm_serve.decoding.crf import Potentials, Viterbi
from palm_trainer.api.lr_sched import TriangularScheduler
from palm_trainer.errors import PalmError
from palm_trainer.model.heads.crf import LinearChainCrf
from palm_trainer.model.heads.sequence_label import SequenceLabelHead
from palm_trainer.tensors import IGNORE

PRINTED = r"loss: \d+\.\d{3}, speed: \d+\.\d\d steps/s"


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# 1 -------------------------------------------------------------------------------------------------------------------


def test_last_full_batch_is_trained(single):
    one = single(rows=8, batch=4)
    assert one.trainer.steps_pur_epoch == 2
    assert [len(batch["token_ids"]) for batch in one.batches] == [4, 4]


def test_rows_that_fill_no_batch_are_trained(single):
    one = single(rows=9, batch=4)
    assert sorted(len(batch["token_ids"]) for batch in one.batches) == [1, 4, 4]


@pytest.mark.parametrize("rows", [3, 4, 5])
def test_predicts_every_row_without_labels(single, vocab_path, tmp_path, rows, files):
    one = single()
    reader = palm.reader.ClassifyReader(vocab_path, 32, phase="predict")
    reader.load_data(files.write(tmp_path / "p.tsv", ["text_a", *["fly to boston"] * rows]), batch_size=4)
    batches = list(one.trainer.fit_reader(reader, phase="predict"))
    records = one.trainer.predict(tmp_path / "predictions")
    assert sum(len(batch["token_ids"]) for batch in batches) == len(records) == rows
    assert one.trainer.predict() == records  # nothing is kept between calls
    lines = (tmp_path / "predictions/predictions.json").read_text(encoding="utf-8").splitlines()
    assert [json.loads(text)["index"] for text in lines] == list(range(rows))
    assert one.said[-1] == f"Predictions saved at {tmp_path / 'predictions/predictions.json'}"
    assert set(records[0]) == {"index", "label", "name", "logits", "probs", "text_a"}
    assert records[0]["name"] == ["fare", "flight", "hotel"][records[0]["label"]]
    assert sum(records[0]["probs"]) == pytest.approx(1)


# 2 -------------------------------------------------------------------------------------------------------------------


def test_quota_counts_epochs_of_the_reference_and_warns(article):
    with pytest.warns(
        UserWarning, match=r"'intent' is planned for 50\.0 epochs of its data, not 10.*per_task_epochs=True"
    ):
        one = article(slot_rows=1000, intent_rows=200, epochs=10, batch=1)
    assert one.trainer._session.plan.mixing.quotas == {"slot": 10_000, "intent": 10_000}
    assert one.trainer.overall_train_steps == 20_000


def test_per_task_epochs_count_each_tasks_own_data(article):
    one = article(slot_rows=1000, intent_rows=200, epochs=10, batch=1, per_task_epochs=True)
    assert one.trainer._session.plan.mixing.quotas == {"slot": 10_000, "intent": 2_000}
    assert {"slot: 10.0 epochs of its data.", "intent: 10.0 epochs of its data."} <= set(one.said)


# 3 -------------------------------------------------------------------------------------------------------------------


def test_palms_curve_jumps_on_request_only():
    ours, palms = TriangularScheduler(10, 100), palm.lr_sched.TriangularSchedualer(10, 100, compat=True)
    assert (palms(9), palms(10)) == pytest.approx((0.9, 0.9))  # 1.0 was due in step 10: PALM went on at 1 - 10/100
    assert abs(np.diff([ours(step) for step in range(101)])).max() == pytest.approx(0.1)
    assert ours(9) == ours(10) == 1


def test_articles_schedule_warns_and_is_fitted(article):
    one = article()
    one.adam.lr_schedualer = palm.lr_sched.TriangularSchedualer(24, 240)
    with pytest.warns(
        UserWarning, match=r"warm-up of 24 steps would never end, because the training has 8 steps.*Write n_steps"
    ):
        loop = one.trainer._session.loop
    rates = []
    for _ in range(8):
        one.trainer.train_one_step(one.trainer.get_one_batch())
        rates.append(one.adam.get_cur_learning_rate())
    assert loop.step == 8
    assert max(rates) == pytest.approx(5e-3)
    assert rates == sorted(rates, reverse=True)


# 4 -------------------------------------------------------------------------------------------------------------------


def test_build_predict_forward_leaves_the_trained_weights(single, config):
    one = single()
    one.trainer.train()
    before = weights(one.trainer._session.ready.model)
    names = one.trainer.build_predict_forward(
        palm.backbone.BERT.from_config(config, phase="predict"), palm.head.Classify(3, 16, phase="predict")
    )
    assert names == {"logits": "intent.logits"}
    after = weights(one.trainer._session.ready.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


# 5 -------------------------------------------------------------------------------------------------------------------

TAGS = ("O", "B-x", "I-x", "B-y", "I-y")


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_viterbi_scores_at_least_what_the_best_tag_of_each_piece_scores(seed, length):
    generator = torch.Generator().manual_seed(seed)
    crf = LinearChainCrf(TAGS)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    emissions = torch.randn(1, length, len(TAGS), generator=generator).numpy()
    chain = Potentials(*(getattr(crf, name).detach().numpy() for name in ("start", "transitions", "end")))

    def score(path):
        inside = sum(emissions[0, t, tag] for t, tag in enumerate(path))
        steps = sum(chain.transitions[a, b] for a, b in itertools.pairwise(path))
        return chain.start[path[0]] + inside + steps + chain.end[path[-1]]

    best = Viterbi(chain)(emissions, np.array([length]))[0].tolist()
    assert score(best) >= score(emissions[0].argmax(axis=1).tolist()) - 1e-4


def test_untrained_crf_of_130_tags_loses_what_chance_loses():
    tags = ("O", *(f"{prefix}-{i}" for i in range(64) for prefix in "BI"), "B-64")
    torch.manual_seed(0)
    head = SequenceLabelHead(tags, 16)
    assert len(tags) == 130
    length = 14
    outputs = head.eval()({"sequence_output": torch.zeros(1, length, 16)})
    total, pieces = head.loss(outputs, torch.zeros(1, length, dtype=torch.int64))
    assert int(pieces) == length
    # a B- or O may follow anything, an I- only its own: fewer than 130 tags are legal at each piece
    assert total.item() == pytest.approx(length * math.log(130), rel=0.2)
    assert total.item() / length == pytest.approx(math.log(130), rel=0.2)  # a mean a piece: comparable across tasks


# 6 -------------------------------------------------------------------------------------------------------------------


def test_token_accuracy_stands_beside_chunk_f1_and_is_not_it(vocab_path, config, tmp_path, files):
    """Characters with mostly O, as in MSRA-NER: a tagger that finds nothing has high token accuracy and no F1."""
    rows = ["text_a\tlabel"]
    for i in range(6):
        words = [*"abcd", "boston"] * 2
        tags = [*["O"] * 9, "B-LOC" if i == 0 else "O"]
        rows.append("\x02".join(words) + "\t" + "\x02".join(tags))
    reader = palm.reader.SequenceLabelReader(vocab_path, 32, {"B-LOC": 0, "I-LOC": 1, "O": 2})
    reader.load_data(files.write(tmp_path / "ner.tsv", rows), batch_size=6)
    trainer = palm.Trainer("ner", say=lambda line: None)
    loss = trainer.build_forward(palm.backbone.BERT.from_config(config), palm.head.SequenceLabel(3, 16))
    trainer.build_backward(palm.optimizer.Adam(loss, 1e-2), device="cpu", precision="fp32")
    reader.num_epochs = 12
    trainer.fit_reader(reader)
    trainer.train(print_steps=100)
    metrics = trainer.evaluate(reader)["ner"]
    assert set(metrics) == {"f1", "precision", "recall", "token_accuracy"}
    assert metrics["f1"] == 0
    assert metrics["token_accuracy"] == pytest.approx(59 / 60)


# 7 -------------------------------------------------------------------------------------------------------------------


def test_another_reader_leaves_the_order_of_the_first(vocab_path, tmp_path, files):
    def order(between):
        reader = palm.reader.ClassifyReader(vocab_path, 32, seed=3)
        reader.load_data(files.intent(tmp_path, 16), batch_size=4)
        reader.require_attr("position_ids")
        batches = reader.iterate()
        first = next(batches)
        between()
        return [first["token_ids"].tolist(), *(batch["token_ids"].tolist() for batch in batches)]

    assert order(lambda: None) == order(lambda: palm.reader.ClassifyReader(vocab_path, 32))


# 8 -------------------------------------------------------------------------------------------------------------------


def test_load_pretrain_of_nothing_raises(single, tmp_path):
    one = single()
    with pytest.raises(PalmError, match="no pretrained weights there"):
        one.trainer.load_pretrain(tmp_path)


# 9 -------------------------------------------------------------------------------------------------------------------


def test_special_tokens_and_padding_are_never_trained_as_the_maps_last_tag(vocab_path, tmp_path, files):
    """ATIS' label map ends with `B-flight`, which PALM trained CLS, SEP and padding as."""
    label_map = {"PAD": 0, "O": 1, "B-city": 2, "I-city": 3, "B-day": 4, "B-flight": 5}
    reader = palm.reader.SequenceLabelReader(vocab_path, 32, label_map)
    reader.load_data(files.slot(tmp_path), batch_size=8)
    target = reader.target("slot", "sequence_label")
    dataset = reader.dataset({"slot": target}, ("input_ids", "attention_mask"))
    batch = dataset.batch(np.arange(8))
    labels, mask = batch.targets["slot"], batch.inputs["attention_mask"]
    special = (batch.inputs["input_ids"] == 2) | (batch.inputs["input_ids"] == 3) | (mask == 0)
    assert special.sum() > 16
    assert (labels[special] == IGNORE).all()
    assert (labels[~special] != IGNORE).all()
    assert target.info.labels.index("B-flight") not in labels.unique()


# 11 ------------------------------------------------------------------------------------------------------------------


def test_log_of_one_task_is_palms(single, tmp_path):
    one = single(num_epochs=2)
    one.trainer.set_saver(tmp_path / "out", save_steps=2)
    one.trainer.train(print_steps=1)
    expected = [
        "ok!",
        rf"step 1/2 \(epoch 0\), {PRINTED}",
        rf"step 2/2 \(epoch 0\), {PRINTED}",
        re.escape(f"checkpoint has been saved at {tmp_path / 'out/ckpt.step2'}"),
        rf"step 1/2 \(epoch 1\), {PRINTED}",
        rf"step 2/2 \(epoch 1\), {PRINTED}",
        "intent train finish!",
        re.escape(f"checkpoint has been saved at {tmp_path / 'out/ckpt.step4'}"),
    ]
    assert len(one.said) == len(expected)
    assert all(re.fullmatch(line, said) for line, said in zip(expected, one.said, strict=True))


def test_log_of_several_tasks_is_the_articles(article):
    one = article(slot_rows=8, intent_rows=8, epochs=1)
    one.trainer.train(print_steps=1)
    assert one.said[:5] == [
        "slot: expected train steps 2.",
        "slot: 1.0 epochs of its data.",
        "intent: expected train steps 2.",
        "intent: 1.0 epochs of its data.",
        "Estimated overall train steps 4.",
    ]
    steps = [line for line in one.said if line.startswith("global step: ")]
    assert [re.fullmatch(rf"global step: (\d), .*{PRINTED}", line)[1] for line in steps] == ["1", "2", "3", "4"]
    for task in ("slot", "intent"):
        own = [line for line in steps if f", {task}: step " in line]
        assert [re.search(r": step (\d/2 \(epoch 0\)), loss", line)[1] for line in own] == [
            "1/2 (epoch 0)",
            "2/2 (epoch 0)",
        ]
    assert {"slot train finish!", "intent train finish!"} <= set(one.said)
