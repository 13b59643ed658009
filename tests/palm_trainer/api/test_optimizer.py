"""Rates by depth and frozen parts through the Python API."""

import pytest
import torch

import palm_trainer as palm
from palm_trainer.config.loader import load_config
from palm_trainer.errors import ConfigError


def test_layer_decay_and_frozen_parts(single, tmp_path):
    made = single()
    adam = palm.optimizer.AdamW(
        made.adam.loss_var, 1e-2, layer_decay=0.5, freeze_embeddings=True, head_lr=2e-2, max_grad_norm=5.0
    )
    made.trainer.build_backward(optimizer=adam, device="cpu", precision="fp32")
    before = {name: value.clone() for name, value in made.backbone.state_dict().items()}
    made.trainer.train(print_steps=99)
    after = made.backbone.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if ".layer.0." in name}
    made.trainer.save(tmp_path / "run")
    assert load_config(tmp_path / "run/config.toml").train.regularization.layer_decay == 0.5


def test_the_lowest_block_is_frozen(single):
    made = single()
    adam = palm.optimizer.Adam(made.adam.loss_var, 1e-2, layer_decay=0.5, freeze_layers=1)
    made.trainer.build_backward(optimizer=adam, device="cpu", precision="fp32")
    before = {name: value.clone() for name, value in made.backbone.state_dict().items()}
    made.trainer.train(print_steps=99)
    after = made.backbone.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("embeddings" in name for name in moved)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layer_decay": 0.0}, "Adam: layer_decay must be above 0 and at most 1, got 0.0"),
        ({"layer_decay": 1.5}, "Adam: layer_decay must be above 0 and at most 1, got 1.5"),
        ({"freeze_layers": -1}, "Adam: freeze_layers must be at least 0, got -1"),
    ],
)
def test_values_out_of_range(options, match):
    with pytest.raises(ConfigError, match=match):
        palm.optimizer.AdamW(None, 1e-4, **options)


class Sgd(palm.optimizer.base_optimizer.Optimizer):
    """An optimizer as users write one."""

    def build(self, groups):
        return torch.optim.SGD(groups)


@pytest.mark.parametrize("kind", [palm.optimizer.Adam, Sgd])
def test_crf_scores_have_the_rate_of_the_options(article, kind):
    made = article()
    adam = kind(made.adam.loss_var, 5e-3)
    made.trainer.build_backward(
        optimizer=adam, device="cpu", precision="fp32", options={"crf_learning_rate": 0.3, "log_every_steps": 1}
    )
    made.trainer.train(print_steps=99)
    session = made.trainer._session
    crf = session.ready.model.head("slot").crf
    rates = {id(p): group["peak_lr"] for group in session.loop.optimizer.param_groups for p in group["params"]}
    assert {rates[id(scores)] for scores in crf.parameters()} == {0.3}
    assert crf.transitions.abs().max() > 0


def test_crf_scores_resume_at_the_rate_of_an_older_checkpoint(article, tmp_path):
    """Checkpoints from before `crf_learning_rate` have the scores in the group of their head."""
    older = article()
    older.trainer.build_backward(older.adam, device="cpu", precision="fp32", options={"crf_learning_rate": None})
    older.trainer.set_saver(tmp_path / "older", save_steps=2, save_type="ckpt")
    older.trainer.train(print_steps=99)
    resumed = article()
    resumed.trainer.load_ckpt(tmp_path / "older/ckpt.step2", resume=True)
    resumed.trainer.set_saver(tmp_path / "resumed", save_steps=99, save_type="ckpt")
    resumed.trainer.train(print_steps=99)
    expected = older.trainer._session.ready.model.state_dict()
    actual = resumed.trainer._session.ready.model.state_dict()
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []
    assert load_config(tmp_path / "older/config.toml").train.crf_learning_rate is None
    assert "crf_learning_rate" not in (tmp_path / "resumed/config.toml").read_text()
