"""What the API trained and saved, in the commands' hands; and the calls of the original that never worked."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import palm_trainer as palm
from palm_serve.bundle.loader import load_bundle
from palm_serve.cli import app as serve
from palm_trainer.cli.export import app as export
from palm_trainer.cli.train import app as train
from palm_trainer.errors import ExportError, WiringError


def command(app, *arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_commands_work_on_what_the_api_saved(article, files, tmp_path):
    one = article(epochs=25)
    dev = [reader.clone("predict") for reader in one.readers]
    dev[0].load_data(files.slot(tmp_path, 4, "dev_slot.tsv"), batch_size=4)
    dev[1].load_data(files.intent(tmp_path, 4, "dev_intent.tsv"), batch_size=4)
    one.trainer.set_evaluator(dev, eval_steps=1000)
    one.trainer.set_saver(tmp_path / "out", save_steps=1000, save_type="ckpt,predict")
    one.trainer.train(print_steps=1000)

    command(train, "evaluate", tmp_path / "out", "--split", "dev", "--json", tmp_path / "metrics.json")
    measured = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["dev"]
    assert all(
        0 <= own.pop("ece") <= 1 for own in measured.values()
    )  # of confidences, which while training have no meaning yet
    assert measured == one.trainer.evaluate()
    said = command(train, "predict", tmp_path / "out", "--text", "fly to new york")
    assert "flight" in said
    assert "new york" in said

    bundle = tmp_path / "bundle"
    command(export, tmp_path / "out/pred.step100", "--output", bundle, "--precision", "fp32")
    assert "intent" in command(serve, "check", bundle)
    ours = one.trainer.export(tmp_path / "exported", precision="fp32")
    assert ours.tasks == load_bundle(bundle).manifest.tasks
    assert one.said[-1] == f"bundle has been saved at {tmp_path / 'exported'}"
    with pytest.raises(ExportError, match="exists"):
        one.trainer.export(tmp_path / "exported", precision="fp32")


def test_joint_prediction_encodes_once_for_all_heads(article):
    one = article()
    one.trainer.train(print_steps=100)
    calls = []
    model = one.trainer._session.ready.model
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    found = one.trainer.predict(one.readers[1])
    assert (len(found["slot"]), len(found["intent"]), len(calls)) == (8, 8, 1)
    record = found["slot"][1]
    assert set(record) == {"index", "label", "tags", "words", "spans", "text_a"}
    assert len(record["words"]) == len(record["tags"]) == len(record["label"]) == 4
    assert record["words"] == ["fly", "from", "new", "york"]


def test_calls_that_never_worked(single, config, tmp_path):
    one = single(rows=6, batch=4)
    assert (one.trainer.name, one.trainer.mix_ratio, one.trainer.num_examples) == ("intent", 1.0, 6)
    assert (one.trainer.num_epochs, one.trainer.steps_pur_epoch, one.trainer.cur_train_step) == (1, 2, 0)
    batch = one.trainer.get_one_batch()
    losses = one.trainer.train_one_step(batch)
    assert set(losses) == {"intent.loss"}
    assert (one.trainer.cur_train_step, one.trainer.cur_train_epoch) == (1, 0)
    one.trainer.fit_reader(one.reader.clone("predict"), phase="predict")
    with pytest.raises(WiringError, match="has no data yet"):
        one.trainer.get_one_batch("predict")
    one.trainer.fit_reader(one.reader, phase="predict")
    outputs = one.trainer.predict_one_batch(one.trainer.get_one_batch("predict"))
    assert outputs["probs"].shape == (4, 3)
    one.trainer.reset_buffer()
    records = one.trainer.predict(print_steps=1)
    assert any(line.startswith("batch 2/2, speed: ") for line in one.said)
    np.testing.assert_allclose([r["probs"] for r in records[:4]], outputs["probs"], rtol=1e-4)
    one.trainer.save(tmp_path / "run")
    fresh = palm.Trainer("intent", say=lambda line: None)
    fresh.build_predict_forward(palm.backbone.BERT.from_config(config, "predict"), palm.head.Classify(3, 16))
    fresh.load_predict_model(tmp_path / "run")
    fresh.fit_reader(one.reader, phase="predict")
    assert fresh.predict() == records


def test_readers_without_a_mix_ratio(article):
    one = article(fit=False)
    one.readers[0].num_epochs = 3
    batches = list(one.trainer.fit_readers({"slot": one.readers[0], "intent": one.readers[1]}))
    assert len(batches) == one.trainer.overall_train_steps == 12
    drawn = [batch.data for batch in batches]  # several before training: the plan's order all the same
    assert (drawn.count("slot"), drawn.count("intent")) == (6, 6)


def test_fixed_faults_say_what_to_write_instead(vocab_path):
    with pytest.warns(UserWarning, match="remove_noanswer has no effect.*Leave it out"):
        palm.reader.MRCReader(vocab_path, 32, 8, 8, "wordpiece", "en", 1, None, True, "train")
