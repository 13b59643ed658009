"""Readers, backbones and heads of the user's own: alone, beside the package's, checked before the first step, saved, exported or refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import palm_trainer as palm
from palm_serve.bundle.loader import load_bundle
from palm_trainer.errors import CheckpointError, ConfigError, ExportError, WiringError
from palm_trainer.model.checkpoint import load_trained

PAGE = (Path(__file__).parents[3] / "docs/how-to/train/custom_parts.md").read_text(encoding="utf-8")
[EXAMPLE] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
RATINGS = "5\tgood film\n1\tbad film\n5\tgood book\n1\tbad book\n5\tgood\n"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The names that the page's example leaves, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ratings.tsv").write_text(RATINGS, encoding="utf-8")
    names = {"__name__": "page"}
    exec(EXAMPLE, names)
    return names


class Length(palm.head.base_head.Head):
    """How many pieces a text has, from its vector and the reader's mask. `bad` breaks one promise."""

    def __init__(self, width=16, phase="train", bad=""):
        super().__init__(phase)
        self.linear = torch.nn.Linear(width, 1)
        self.width, self.bad = width, bad

    @property
    def inputs_attrs(self):
        reader = {"input_mask": [[-1, -1, 1], "float32"]} if self.phase == "train" else {}
        if self.bad == "reader":
            reader["boxes"] = [[-1, 4], "int64"]
        backbone = {"sentence_embedding": [[-1, 8 if self.bad == "width" else self.width], "float32"]}
        if self.bad == "backbone":
            backbone["layout"] = [[-1, 8], "float32"]
        return {"reader": reader, "backbone": backbone} | ({"head": {}} if self.bad == "part" else {})

    @property
    def outputs_attr(self):
        if self.phase == "train" and self.bad != "loss":
            return {"loss": [[], "float32"]}
        return {"length": [[-1], "float32"]}

    def build(self, inputs, scope_name=""):
        assert scope_name == "length."
        length = self.linear(inputs["backbone"]["sentence_embedding"]).squeeze(-1)
        if self.bad == "build":
            return {}
        if self.phase == "predict":
            return {"length": length}
        return {"loss": (length - inputs["reader"]["input_mask"].sum(1).float()).square().mean()}

    def epoch_postprocess(self, post_inputs=None, output_dir=None):
        return [{"index": i, "length": round(r["length"])} for i, r in enumerate(super().epoch_postprocess())]


class Focal(palm.head.base_head.Head):
    """A classifier with a loss of its own; served as the package's."""

    kind = "classify"

    def __init__(self, classes, width, phase="train", traceable=True):
        super().__init__(phase)
        self.linear = torch.nn.Linear(width, classes)
        self.traceable = traceable

    @property
    def inputs_attrs(self):
        reader = {"label_ids": [[-1], "int64"]} if self.phase == "train" else {}
        return {"reader": reader, "backbone": {"sentence_embedding": [[-1, -1], "float32"]}}

    @property
    def outputs_attr(self):
        return {"loss" if self.phase == "train" else "logits": [[-1], "float32"]}

    def build(self, inputs, scope_name=""):
        logits = self.linear(inputs["backbone"]["sentence_embedding"])
        if self.phase == "predict":
            return {"logits": logits if self.traceable else torch.linalg.eigvalsh(logits.T @ logits)[None] + logits}
        chosen = logits.softmax(-1).gather(1, inputs["reader"]["label_ids"][:, None])
        return {"loss": (-((1 - chosen) ** 2) * chosen.log()).mean()}


def build(trainers, heads, readers, backbone, epochs=1, lr=1e-2, precision="fp32"):
    """A MultiHeadTrainer that is ready to train, and what it says."""
    said = []
    trainer = palm.MultiHeadTrainer(trainers, say=said.append)
    for one, head in zip(trainers, heads, strict=True):
        one.build_forward(backbone, head)
    trainer.build_backward(palm.optimizer.Adam(trainer.build_forward(), lr), device="cpu", precision=precision)
    trainer.fit_readers_with_mixratio(readers, trainers[0].name, epochs)
    return trainer, said


@pytest.fixture
def reader(vocab_path, tmp_path, files):
    def read(kind=palm.reader.ClassifyReader, phase="train"):
        one = kind(vocab_path, 32, phase=phase)
        one.load_data(files.intent(tmp_path), batch_size=4)
        return one

    return read


def test_the_pages_example_learns_and_predicts(page, tmp_path):
    stars = [record["stars"] for record in page["answers"]]
    assert stars == pytest.approx([5, 1, 5, 1, 5], abs=0.7)
    lines = (tmp_path / "predictions/predict").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["stars"] for line in lines] == stars
    fresh = palm.Trainer("rating", say=lambda line: None)
    fresh.build_predict_forward(page["BagOfWords"](6, 8, phase="predict"), page["Rating"](8, phase="predict"))
    fresh.load_ckpt(tmp_path / "outputs/ckpt.step120")
    fresh.fit_reader(page["reader"].clone("predict"), phase="predict")
    assert fresh.predict() == page["answers"]


def test_own_parts_of_a_checkpoint_are_named(page, tmp_path):
    with pytest.raises(CheckpointError, match=r"heads\.rating: page\.Rating, backbone: page\.BagOfWords.*load_ckpt"):
        load_trained(tmp_path / "outputs")
    fresh = palm.Trainer("rating", say=lambda line: None)
    with pytest.raises(CheckpointError, match=r"its backbone is your own \(page\.BagOfWords\)\. Declare it first"):
        fresh.load_ckpt(tmp_path / "outputs")


def test_own_backbone_head_and_reader_train_beside_the_packages(page, reader, config):
    """PALM#80: what worked alone failed combined."""
    backbone, own = page["BagOfWords"](100, 8), page["reader"].clone()
    own.load_data("ratings.tsv", batch_size=4)
    trainers = [palm.Trainer("rating"), palm.Trainer("intent")]
    heads = [page["Rating"](8), palm.head.Classify(3, 8)]
    trainer, _ = build(trainers, heads, [own, reader()], backbone, epochs=20, lr=5e-2)
    losses = {"rating.loss": [], "intent.loss": []}
    for batch in iter(trainer.get_one_batch, None):
        found, position = trainer.train_one_step(batch)
        [(name, loss)] = found.items()
        assert name == ("rating.loss", "intent.loss")[position]
        losses[name].append(float(loss))
        if sum(map(len, losses.values())) == trainer.overall_train_steps:
            break
    assert [len(values) for values in losses.values()] == [40, 40]
    assert all(np.mean(values[-5:]) < np.mean(values[:5]) for values in losses.values())
    joint = trainer.merge_inference_readers({"rating": own.clone("predict"), "intent": reader()})
    assert trainer.predict_one_batch("rating", next(joint("rating")))["stars"].shape == (4,)
    assert trainer.predict_one_batch("intent", next(joint("intent")))["probs"].shape == (4, 3)
    found = trainer.predict()
    assert (len(found["rating"]), len(found["intent"])) == (5, 8)


def test_own_head_computes_in_full_precision(reader, config):
    """The encoder computes in bf16, but the own head gets fp32, which its fp32 weights fit."""
    head = Length()
    dtypes = set()
    head.linear.register_forward_hook(lambda _, inputs, output: dtypes.update((inputs[0].dtype, output.dtype)))
    bert = palm.backbone.BERT.from_config(config)
    trainer, _ = build([palm.Trainer("length")], [head], [reader()], bert, precision="bf16")
    trainer.train(print_steps=99)
    assert dtypes == {torch.float32}


def test_own_reader_trains_the_packages_classifier(page, config):
    class Moods(page["RatingReader"]):
        @property
        def outputs_attr(self):
            texts = {name: [[-1, -1], "int64"] for name in ("token_ids", "segment_ids")}
            return {**texts, "input_mask": [[-1, -1, 1], "float32"], "label_ids": [[-1], "int64"]}  # the mask as PALM's

        def _iterator(self):
            for batch in super()._iterator():
                labels = (batch["stars"] > 3).astype(int)
                mask = batch["input_mask"][:, :, None].astype(float)
                zeros = np.zeros_like(batch["token_ids"])
                yield {"token_ids": batch["token_ids"], "input_mask": mask, "segment_ids": zeros, "label_ids": labels}

        def _get_registed_attrs(self, attrs):
            return attrs

    reader = Moods({word: i + 10 for i, word in enumerate(["good", "bad", "film", "book"])})
    reader.load_data("ratings.tsv", batch_size=5, num_epochs=40)
    trainer = palm.Trainer("mood", say=lambda line: None)
    loss = trainer.build_forward(palm.backbone.BERT.from_config(config), palm.head.Classify(2, 16))
    trainer.build_backward(palm.optimizer.Adam(loss, 1e-2), device="cpu", precision="fp32")
    trainer.fit_reader(reader)
    trainer.train(print_steps=1000)
    trainer.fit_reader(reader.clone("predict"), phase="predict")
    records = trainer.predict()
    assert [record["label"] for record in records] == [1, 0, 1, 0, 1]
    assert set(records[0]) == {"index", "label", "name", "logits", "probs"}
    with pytest.raises(ExportError, match=r"no reader of palm\.reader was fitted"):
        trainer.export("bundle")


def test_own_head_beside_a_head_of_the_package_on_bert(reader, config, tmp_path):
    trainers = [palm.Trainer("length"), palm.Trainer("intent")]
    bert = palm.backbone.BERT.from_config(config)
    one = reader()
    trainer, _ = build(trainers, [Length(), palm.head.Classify(3, 16)], [one, one], bert, epochs=60, lr=2e-2)
    trainer.set_saver(tmp_path / "out", save_steps=1000)
    trainer.set_evaluator([one, one], eval_steps=60)
    trainer.train(print_steps=1000)
    assert set(trainer.evaluate()) == {"intent"}
    found = trainer.predict(reader(phase="predict"), tmp_path / "answers")
    assert [record["length"] for record in found["length"][:4]] == [5, 6, 6, 6]
    assert [record["name"] for record in found["intent"][:4]] == ["flight", "flight", "fare", "hotel"]
    with pytest.raises(ExportError, match="trainer 'length': Length has no kind, so that no server could decode"):
        trainer.export(tmp_path / "bundle")
    trainers[0].set_as_aux()
    assert set(trainer.export(tmp_path / "bundle", precision="fp32").tasks) == {"intent"}
    alone = palm.Trainer("intent", say=lambda line: None)
    alone.load_ckpt(tmp_path / "out/ckpt.step120")
    alone.fit_reader(reader(phase="predict"), phase="predict")
    assert alone.predict() == found["intent"]


def test_own_head_of_a_kind_is_evaluated_exported_and_served_as_one(reader, config, tmp_path):
    trainer = palm.Trainer("intent", say=lambda line: None)
    loss = trainer.build_forward(palm.backbone.BERT.from_config(config), Focal(3, 16))
    trainer.build_backward(palm.optimizer.Adam(loss, 2e-2), device="cpu", precision="fp32")
    one = reader()
    one.num_epochs = 30
    trainer.fit_reader(one)
    trainer.train(print_steps=1000)
    assert trainer.evaluate(one)["intent"]["accuracy"] == 1
    manifest = trainer.export(tmp_path / "bundle", precision="fp32")
    assert manifest.tasks["intent"].labels == ("fare", "flight", "hotel")
    assert manifest.variants["plain"].gates[0].passed
    assert load_bundle(tmp_path / "bundle").manifest.task_with_role("intent") == "intent"
    trainer.task.custom_head.traceable = False
    with pytest.raises(ExportError, match=r"cannot be exported to ONNX opset 17.*eigvalsh"):
        trainer.export(tmp_path / "other", precision="fp32")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("reader", r"trainer 'length': Length needs 'boxes', but its ClassifyReader gives: token_ids, position_ids"),
        ("backbone", r"Length needs 'layout', but backbone BERT gives: encoder_outputs, sentence_embedding"),
        ("width", r"needs 'sentence_embedding' of shape \[-1, 8\], but backbone BERT gives \[-1, 16\]"),
        ("loss", r"its outputs_attr has no 'loss' in phase 'train'"),
        ("part", r"inputs_attrs must name 'reader' and 'backbone' only, got 'head'"),
    ],
)
def test_what_does_not_fit_is_said_before_the_first_step(reader, config, bad, message):
    trainer = palm.Trainer("length", say=lambda line: None)
    trainer.build_forward(palm.backbone.BERT.from_config(config), Length(bad=bad))
    with pytest.raises(WiringError, match=message):
        trainer.fit_reader(reader())


def test_build_that_breaks_its_promise(reader, config):
    trainer = palm.Trainer("length", say=lambda line: None)
    loss = trainer.build_forward(palm.backbone.BERT.from_config(config), Length(bad="build"))
    trainer.build_backward(palm.optimizer.Adam(loss, 1e-3), device="cpu", precision="fp32")
    trainer.fit_reader(reader())
    with pytest.raises(WiringError, match=r"Length.build must return 'loss' in phase 'train'.*got: nothing"):
        trainer.train()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs_attr": {"token_ids": [[-1, -1], "int64"]}}, "does not give 'input_mask'|needs 'input_mask'"),
        ({"_iterator": lambda self: iter([{"stars": [1.0]}])}, "its batch has no 'input_mask', which is registered"),
        ({"_iterator": lambda self: iter([])}, "its _iterator must yield a batch, got none"),
        ({"load_data": lambda self, *_, **__: setattr(self, "rows", [])}, "has no data yet"),
        (
            {"num_examples": 5, "_shape": (2, 2, 1)},
            r"'stars' is float32 of shape \[2, 2, 1\], but outputs_attr declares",
        ),
    ],
)
def test_readers_that_break_their_promise(page, change, message):
    shape = change.pop("_shape", None)
    if shape:
        wrong = {"token_ids": np.ones((2, 2), int), "input_mask": np.ones((2, 2), int), "stars": np.ones(shape)}
        change["_iterator"] = lambda self: iter([wrong])
    one = type("Own", (page["RatingReader"],), change)(page["words"])
    one.load_data("ratings.tsv", batch_size=4)
    trainer = palm.Trainer("rating", say=lambda line: None)
    trainer.build_forward(page["BagOfWords"](6, 8), page["Rating"](8))
    with pytest.raises(WiringError, match=message):
        trainer.fit_reader(one)


def test_declared_heads_are_not_for_subclassing(config):
    own = type("Mine", (palm.head.Classify,), {"build": lambda self, inputs, scope_name="": {}})
    with pytest.raises(WiringError, match=r"Mine has a build method, which nothing would call.*base_head\.Head"):
        palm.Trainer("x").build_forward(palm.backbone.BERT.from_config(config), own(3, 16))


def test_heads_of_the_package_that_no_own_reader_trains(page, config):
    trainer = palm.Trainer("x", say=lambda line: None)
    trainer.build_forward(page["BagOfWords"](6, 8), palm.head.MRC(4, 8))
    with pytest.raises(WiringError, match="a reader of your own, trains heads of your own, and Classify"):
        trainer.fit_reader(page["reader"].clone())


def test_bases_say_what_is_missing():
    for base, names in (
        (palm.head.base_head.Head, ("inputs_attrs", "outputs_attr")),
        (palm.backbone.base_backbone.Backbone, ("inputs_attr", "outputs_attr")),
        (palm.reader.base_reader.Reader, ("outputs_attr", "num_examples")),
    ):
        for name in names:
            with pytest.raises(NotImplementedError, match=f"Mine lacks {name}"):
                getattr(type("Mine", (base,), {})(), name)
        with pytest.raises(WiringError, match=r"phase must be .*, got 'test'"):
            base("test")


def test_batches_of_an_own_reader_are_not_cut(page):
    reader = page["RatingReader"](page["words"])
    reader.load_data("ratings.tsv", batch_size=4)
    trainer = palm.Trainer("rating", say=lambda line: None)
    loss = trainer.build_forward(page["BagOfWords"](6, 8), page["Rating"](8))
    trainer.build_backward(palm.optimizer.Adam(loss, 1e-3), device="cpu", precision="fp32", accumulate_steps=2)
    trainer.fit_reader(reader)
    with pytest.raises(
        ConfigError, match=r"options\.accumulate_steps: cuts batches, and a reader of your own gives whole"
    ):
        trainer.train()


def test_custom_parts_get_a_log_but_no_configuration(page, tmp_path):
    reader = page["RatingReader"](page["words"])
    reader.load_data("ratings.tsv", batch_size=4)
    trainer = palm.Trainer("rating", say=lambda line: None)
    loss = trainer.build_forward(page["BagOfWords"](6, 8), page["Rating"](8))
    trainer.build_backward(palm.optimizer.Adam(loss, 1e-3), device="cpu", precision="fp32", log_every_steps=1)
    trainer.fit_reader(reader)
    trainer.set_saver(tmp_path / "out", save_steps=100)
    trainer.train()
    assert (tmp_path / "out/events.jsonl").is_file()
    assert (tmp_path / "out/best").is_dir()
    assert not (tmp_path / "out/config.toml").exists()
    assert not (tmp_path / "out/report.html").exists()
