"""The D-Net tasks together, through the API: reading comprehension with matching and masked words beside it (acceptance test 10)."""

import pytest

import palm_trainer as palm
from palm_trainer.config.loader import load_config
from palm_trainer.errors import WiringError
from palm_trainer.model.checkpoint import load_trained

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "paragraphs": [
                {
                    "context": f"fly to {city} in monday",
                    "qas": [{"id": f"q{i}", "question": "where to ?", "answers": [{"text": city, "answer_start": 7}]}],
                }
            ]
        }
        for i, city in enumerate(["boston", "denver", "new york"])
    ],
}


@pytest.fixture
def dnet(vocab_path, config, tmp_path, files, json_file):
    squad = json_file("squad.json", SQUAD)
    pairs = [f"{i % 2}\tfly to {'ab'[i % 2]}\tfly to a" for i in range(6)]
    rows = ["fly to boston in monday"] * 6
    readers = {
        "mrc": palm.reader.MRCReader(vocab_path, 24, 6, 6),
        "mlm": palm.reader.MaskLMReader(vocab_path, 24, whole_word=True),
        "match": palm.reader.MatchReader(vocab_path, 24),
    }
    readers["mrc"].load_data(squad, batch_size=3)
    readers["mlm"].load_data(files.write(tmp_path / "mlm.tsv", ["text_a", *rows]), batch_size=3)
    readers["match"].load_data(files.write(tmp_path / "m.tsv", ["label\ttext_a\ttext_b", *pairs]), batch_size=3)
    bert = palm.backbone.BERT.from_config(config)
    heads = {"mrc": palm.head.MRC(6, 16), "mlm": palm.head.MaskLM(16, 100, "gelu"), "match": palm.head.Match(2, 16)}
    trainers = {
        name: palm.Trainer(name, mix_ratio=ratio) for name, ratio in (("mrc", 1.0), ("mlm", 0.5), ("match", 0.5))
    }
    trainer = palm.MultiHeadTrainer(trainers, say=lambda line: None)
    for name, one in trainers.items():
        one.build_forward(bert, heads[name])
    for name in ("mlm", "match"):
        trainers[name].set_as_aux()
    adam = palm.optimizer.Adam(trainer.build_forward(), 2e-3, palm.lr_sched.cosine(24, 2))
    trainer.build_backward(adam, device="cpu", precision="fp32")
    trainer.fit_readers_with_mixratio(readers, "mrc", 12)
    return trainer, trainers, readers


def test_dnet_trains_answers_and_is_saved(dnet, tmp_path):
    trainer, trainers, readers = dnet
    assert trainer.overall_train_steps == 24
    trainer.set_evaluator({"mrc": readers["mrc"]}, eval_steps=24)
    trainer.train()
    assert (trainers["mrc"].cur_train_step, trainers["mlm"].cur_train_step) == (12, 6)
    assert set(trainer.evaluate()) == {"mrc"}
    trainer.save(tmp_path / "run")
    assert load_trained(tmp_path / "run").auxiliary == {"mlm", "match"}
    saved = load_config(tmp_path / "run/config.toml")
    assert saved.tasks["mrc"].max_query_tokens == 6
    assert saved.tasks["mlm"].auxiliary
    assert set(trainer.export(tmp_path / "bundle", precision="fp32").tasks) == {"mrc"}
    trainers["mrc"].fit_reader(readers["mrc"], phase="predict")
    records = trainers["mrc"].predict(tmp_path / "answers")
    assert [record["id"] for record in records] == ["q0", "q1", "q2"]
    assert all(record["text"] and record["nbest"][0]["text"] == record["text"] for record in records)
    assert {path.name for path in (tmp_path / "answers").iterdir()} == {"predictions.json", "nbest_predictions.json"}


def test_masked_words_have_no_answer(dnet):
    trainer, trainers, readers = dnet
    trainers["mlm"].fit_reader(readers["mlm"], phase="predict")
    with pytest.raises(
        WiringError, match="trainer 'mlm' has a masked LM head, which trains the encoder only and has no predictions"
    ):
        trainers["mlm"].predict()
    assert set(trainer.merge_inference_readers(readers)("mrc").__next__()) >= {"token_ids"}
