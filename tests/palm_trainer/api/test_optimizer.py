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
