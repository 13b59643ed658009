"""The encoders of the Python API with the tokenizer of their own kind: trained, exported, equal."""

import pytest
import torch

import palm_trainer as palm
from palm_trainer.errors import WiringError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.exporter import export_bundle
from palm_trainer.model.checkpoint import load_trained

LABEL_MAP = {"O": 0, "B-city": 1, "I-city": 2}
SHARED = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 400,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.3,
}
XLNET = {
    "d_model": 16,
    "n_layer": 2,
    "n_head": 2,
    "d_inner": 32,
    "ff_activation": "gelu",
    "n_token": 400,
    "pad_token_id": 5,
    "initializer_range": 0.3,
}
ENCODERS = {
    "BERT": ("bert", {**SHARED, "max_position_embeddings": 32}),
    "ERNIE": ("ernie", {**SHARED, "max_position_embeddings": 32, "task_type_vocab_size": 3}),
    "RoBERTa": ("roberta", {**SHARED, "max_position_embeddings": 34, "type_vocab_size": 1}),
    "XLNet": ("xlnet", XLNET),
}


def readers_of(directory, folder, max_len=32):
    """Slots and intents over the same texts."""
    cities = ("boston", "new york", "São Paulo", "北京")
    rows = [(("fly", "to", *city.split()), ["O", "O", "B-city", "I-city"][: 2 + len(city.split())]) for city in cities]
    slots = ["text_a\tlabel", *("\x02".join(words) + "\t" + "\x02".join(tags) for words, tags in rows)]
    intents = ["label\ttext_a", *(f"{i % 2}\t{' '.join(words)}" for i, (words, _) in enumerate(rows))]
    for name, lines in (("slot.tsv", slots), ("intent.tsv", intents)):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    slot = palm.reader.SequenceLabelReader(directory, max_len, LABEL_MAP, seed=1)
    intent = palm.reader.ClassifyReader(directory, max_len, seed=1)
    slot.load_data(folder / "slot.tsv", batch_size=2)
    intent.load_data(folder / "intent.tsv", batch_size=2)
    return slot, intent


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_of_the_api_exports(name, directory_of, tmp_path, monkeypatch):
    monkeypatch.setattr("palm_trainer.export.gate.SHAPES", 12)
    family, config = ENCODERS[name]
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_bytes((directory_of(family) / "tokenizer.json").read_bytes())
    slot, intent = readers_of(tokenizer, tmp_path)
    backbone = getattr(palm.backbone, name).from_config(config)
    if name == "ERNIE":
        table = backbone.encoder.embeddings.task_type_embeddings.weight
        assert not table.any()
        torch.nn.init.normal_(table)  # as that of ERNIE 2.0
    trainers = [palm.Trainer("slot"), palm.Trainer("intent")]
    trainer = palm.MultiHeadTrainer(trainers, say=lambda line: None)
    trainers[0].build_forward(backbone, palm.head.SequenceLabel(3, 16))
    trainers[1].build_forward(backbone, palm.head.Classify(2, 16))
    adam = palm.optimizer.Adam(trainer.build_forward(), 1e-3)
    trainer.build_backward(optimizer=adam, device="cpu", precision="fp32")
    trainer.fit_readers_with_mixratio([slot, intent], "slot", 1)
    trainer.train()
    trainer.save(tmp_path / "run")
    trained = load_trained(tmp_path / "run")
    sets = [
        EvaluationSet("slot", slot.examples, {"slot": "label"}),
        EvaluationSet("intent", intent.examples, {"intent": "label"}),
    ]
    manifest, _ = export_bundle(trained, sets, tmp_path / "bundle", precision="fp32")
    assert set(manifest.tasks) == {"slot", "intent"}
    assert all(gate.passed for gate in manifest.variants["plain"].gates)


def test_more_tokens_than_roberta_has_positions_for(directory_of, tmp_path):
    """34 positions are for 32 tokens: the first two stand for padding."""
    slot, _ = readers_of(directory_of("roberta"), tmp_path, max_len=33)
    trainer = palm.Trainer("slot", say=lambda line: None)
    trainer.build_forward(palm.backbone.RoBERTa.from_config(ENCODERS["RoBERTa"][1]), palm.head.SequenceLabel(3, 16))
    with pytest.raises(
        WiringError, match=r"max_len=33 tokens, but the backbone has positions for 32. Write 32 or less"
    ):
        trainer.fit_reader(slot)


def test_a_vocabulary_that_pads_otherwise_than_roberta(directory_of, tmp_path):
    """RoBERTa counts positions without padding: with another id, the piece that has its number would lose its place."""
    slot, _ = readers_of(directory_of("bert"), tmp_path)
    trainer = palm.Trainer("slot", say=lambda line: None)
    trainer.build_forward(palm.backbone.RoBERTa.from_config(ENCODERS["RoBERTa"][1]), palm.head.SequenceLabel(3, 16))
    with pytest.raises(
        WiringError, match=r"pads with the id 0, but the backbone's positions leave out the id 1. Write pad_token_id 0"
    ):
        trainer.fit_reader(slot)
