"""`Classify(head="prototype")`: class vectors in the Python API."""

from types import SimpleNamespace

import pytest
import torch

import palm_trainer as palm
from palm_trainer.config.loader import load_config
from palm_trainer.errors import WiringError
from palm_trainer.model.checkpoint import load_trained


@pytest.fixture
def built(tmp_path, vocab_path, config, files):
    """`built(names={...})`: a classifier by class vectors, ready to train."""

    def build(lr: float = 1e-6, name: str = "intent.tsv", **head: object) -> SimpleNamespace:
        reader = palm.reader.ClassifyReader(vocab_path, 32, seed=1)
        reader.load_data(files.intent(tmp_path, 8, name), batch_size=4, num_epochs=2)
        trainer = palm.Trainer("intent", say=lambda line: None)
        torch.manual_seed(3)
        bert = palm.backbone.BERT.from_config(config)
        declared = palm.head.Classify(3, 16, head="prototype", **head)
        adam = palm.optimizer.Adam(trainer.build_forward(bert, declared), lr)
        trainer.build_backward(optimizer=adam, device="cpu", precision="fp32")
        trainer.fit_reader(reader)
        return SimpleNamespace(trainer=trainer, reader=reader)

    return build


def trained_head(trainer):
    return trainer._session.ready.model.head("intent").linear


def test_it_starts_at_class_vectors_and_is_saved(built, tmp_path):
    one = built()
    one.trainer.train()
    weight = trained_head(one.trainer).weight.detach()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(3), atol=1e-3, rtol=1e-3)
    one.trainer.save(tmp_path / "saved")
    assert load_config(tmp_path / "saved/config.toml").tasks["intent"].head == "prototype"
    loaded = load_trained(tmp_path / "saved").model.head("intent")
    assert loaded.variant == "prototype"
    assert torch.equal(loaded.linear.weight, weight)


def test_names_move_the_vector_of_their_class(built):
    plain, named = built(lr=1e-9), built(lr=1e-9, names={"fare": "boston"})
    for one in (plain, named):
        one.trainer.train()
    changed = ~torch.isclose(trained_head(plain.trainer).weight, trained_head(named.trainer).weight, rtol=0, atol=1e-6)
    assert changed.any(dim=1).tolist() == [True, False, False]  # fare, flight, hotel


def test_a_loaded_checkpoint_keeps_its_vectors(built, tmp_path):
    one = built(lr=5e-2)
    one.trainer.train()
    one.trainer.save(tmp_path / "saved")
    learnt = load_trained(tmp_path / "saved").model.head("intent").linear.weight
    other = built()
    other.trainer.load_ckpt(tmp_path / "saved")
    other.trainer.train()
    torch.testing.assert_close(trained_head(other.trainer).weight, learnt, atol=1e-3, rtol=1e-2)


def test_options_that_do_not_fit_are_refused(built):
    with pytest.raises(WiringError, match="head must be 'linear' or 'prototype', got 'cosine'"):
        palm.head.Classify(3, 16, head="cosine")
    with pytest.raises(WiringError, match="names must be given with head='prototype', got 'linear'"):
        palm.head.Classify(3, 16, names={"a": "b"})
    with pytest.raises(WiringError, match="names must be of labels in the data, got 'taxi'"):
        built(names={"taxi": "a cab"}).trainer.train()
