"""Depth of the parameters for every family, layer-wise rates, and frozen layers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from palm_trainer.errors import ConfigError
from palm_trainer.model.encoders import (
    Encoder,
    build_scratch,
    encoder_layers,
    freeze_layers,
    freeze_unused_rows,
    rate_factors,
)
from palm_trainer.training.optimization.adamw import build_adamw

_BERT = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "pad_token_id": 0,
}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
FAMILIES = {
    "bert": ("bert", _BERT),
    "ernie": ("ernie", _BERT),
    "roberta": ("roberta", _BERT),
    "xlm-roberta": ("xlm-roberta", _BERT),
    "albert": ("albert", {**_BERT, "embedding_size": 8}),
    "electra": ("electra", {**_BERT, "embedding_size": 8}),
    "deberta-v2": ("deberta-v2", {**_BERT, **_RELATIVE, "position_buckets": 8, "conv_kernel_size": 3}),
    "modernbert": ("modernbert", {**_BERT, "cls_token_id": 1, "sep_token_id": 2}),
    "distilbert": ("distilbert", {"vocab_size": 20, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}),
    "xlnet": ("xlnet", {"vocab_size": 20, "d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 32}),
}


def backbone_of(family):
    model_type, settings = FAMILIES[family]
    encoder = AutoModel.from_config(AutoConfig.for_model(model_type, **settings))
    return Encoder(encoder, pooling="cls", takes_types=False)


def names_of(backbone, parameters):
    known = {id(p): name for name, p in backbone.named_parameters()}
    return [known[id(p)] for p in parameters]


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_layers_has_every_parameter_once(family):
    backbone = backbone_of(family)
    layers = encoder_layers(backbone)
    everything = [*layers.embeddings, *layers.top, *(p for block in layers.blocks for p in block)]
    assert sorted(names_of(backbone, everything)) == sorted(name for name, _ in backbone.named_parameters())
    assert len(layers.blocks) == (1 if family == "albert" else 3)
    assert any(p is backbone.embedding_table for p in layers.embeddings)
    below = names_of(backbone, layers.embeddings)
    if family == "deberta-v2":
        assert "encoder.encoder.rel_embeddings.weight" in below
    if family == "modernbert":
        assert names_of(backbone, layers.top) == ["encoder.final_norm.weight"]
    if family == "albert":
        assert "encoder.encoder.embedding_hidden_mapping_in.weight" in below
    for number, block in enumerate(layers.blocks):
        assert all(f".{number}." in name for name in names_of(backbone, block))


@pytest.mark.parametrize("family", FAMILIES)
def test_adamw_decay_depends_on_the_module(family):
    """Matrices decay, and nothing else: no bias, no normalization, no embedding, in any family."""
    backbone = backbone_of(family)
    optimizer = build_adamw(backbone, {}, learning_rate=1.0, head_learning_rate=1.0, weight_decay=0.1)
    groups = [(names_of(backbone, group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    decays = {name for names, decay in groups for name in names if decay}
    plain = {name for names, decay in groups for name in names if not decay}
    assert decays | plain == {name for name, _ in backbone.named_parameters()}
    assert not [name for name in decays if "bias" in name or "norm" in name.lower() or "embeddings." in name]
    parameters = dict(backbone.named_parameters())
    small = {name for name in plain if parameters[name].ndim > 1}
    assert all("embed" in name or "bias" in name or "mask_emb" in name for name in small), small


@given(decay=st.floats(0.05, 1.0))
def test_rate_factors_fall_with_depth(decay):
    """The top block has the whole rate, each below `decay` of the one above, the embeddings the lowest of all."""
    backbone = build_scratch(["fly to boston"], layers=3, hidden_size=16, heads=2).backbone
    freeze_unused_rows(backbone, torch.tensor([0, 1, 2]))
    layers, factors = encoder_layers(backbone), rate_factors(backbone, decay)
    assert set(factors) == set(backbone.parameters())
    for depth, block in enumerate(reversed(layers.blocks)):
        assert [factors[p] for p in block] == pytest.approx([decay**depth] * len(block))
    assert [factors[p] for p in layers.embeddings] == pytest.approx([decay**3] * len(layers.embeddings))
    optimizer = build_adamw(backbone, {}, learning_rate=0.5, head_learning_rate=1.0, rate_factors=factors)
    assert optimizer.param_groups[0]["peak_lr"] == 0.5
    for group in optimizer.param_groups:
        assert all(group["peak_lr"] == 0.5 * factors[p] for p in group["params"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(factors)


@pytest.mark.parametrize("family", FAMILIES)
def test_freeze_layers_leaves_no_gradient(family):
    backbone = backbone_of(family)
    blocks = 1 if family == "albert" else 2
    freeze_layers(backbone, blocks=blocks, embeddings=True)
    layers = encoder_layers(backbone)
    for number, block in enumerate(layers.blocks):
        assert {p.requires_grad for p in block} == {number >= blocks}
    assert not any(p.requires_grad for p in layers.embeddings)
    assert all(p.requires_grad for p in layers.top)


def test_freeze_layers_too_many_blocks_is_refused():
    with pytest.raises(ConfigError, match=r"train.freeze_layers must be at most 3, .* got 4. Choose 3 or less"):
        freeze_layers(backbone_of("bert"), blocks=4)


def test_encoder_layers_several_lists_are_refused():
    encoder = AutoModel.from_config(
        AutoConfig.for_model("xlm", vocab_size=20, emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=8)
    )
    with pytest.raises(
        ConfigError, match=r"XLMModel holds 4 lists of blocks, not one.* Leave out train.regularization.layer_decay"
    ):
        rate_factors(Encoder(encoder, pooling="cls", takes_types=False), 0.9)
