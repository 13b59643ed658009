"""Weight decay and learning rates of the parameter groups."""

from pathlib import Path

import pytest
import torch

from palm_serve.bundle.manifest import Decode, TaskInfo
from palm_trainer.config.schema import TrainConfig
from palm_trainer.model.encoders import ActiveEmbedding, build_scratch, freeze_unused_rows
from palm_trainer.model.heads import make_head
from palm_trainer.model.multi_task import MultiTaskModel
from palm_trainer.training.optimization.adamw import build_adamw, crf_rate


def make(crf_learning_rate=0.3):
    backbone = build_scratch(["fly to boston"], layers=2, hidden_size=16, heads=2).backbone
    infos = {
        "intent": TaskInfo(kind="classify", outputs=("intent.logits",), labels=("a", "b")),
        "slots": TaskInfo(
            kind="sequence_label", outputs=("slots.logits",), labels=("O", "B-x", "I-x"), decode=Decode(crf=True)
        ),
    }
    model = MultiTaskModel(backbone, {name: make_head(name, info, 16) for name, info in infos.items()})
    freeze_unused_rows(backbone, torch.tensor([0, 1, 2]))
    optimizer = build_adamw(
        model.backbone,
        dict(model.heads.items()),
        learning_rate=0.01,
        head_learning_rate=0.05,
        task_learning_rates={"slots": 0.2},
        crf_learning_rate=crf_learning_rate,
        weight_decay=0.1,
    )
    return model, optimizer


def settings_by_name(crf_learning_rate=0.3):
    model, optimizer = make(crf_learning_rate)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [
        (names[id(parameter)], (group["weight_decay"], group["peak_lr"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert sorted(name for name, _ in listed) == sorted(names.values()), "each parameter exactly once"
    return dict(listed)


def test_adamw_only_matrices_decay():
    found = settings_by_name()
    decayed = {name for name, (decay, _) in found.items() if decay}
    assert all(found[name][0] == 0.1 for name in decayed)
    assert decayed == {
        name for name in found if name.endswith(".weight") and "LayerNorm" not in name and "embeddings" not in name
    }
    for plain in (
        "word_embeddings.active",
        "position_embeddings.weight",
        "LayerNorm.weight",
        "query.bias",
        "crf.transitions",
        "crf.start",
    ):
        assert any(name.endswith(plain) for name in found.keys() - decayed), plain


def test_adamw_heads_have_their_own_rates():
    for name, (_, rate) in settings_by_name().items():
        expected = 0.01 if name.startswith("backbone") else 0.2 if name.startswith("heads.slots") else 0.05
        assert rate == (0.3 if ".crf." in name else expected), name


def test_adamw_crf_without_rate_has_that_of_its_head():
    rates = {rate for name, (_, rate) in settings_by_name(None).items() if name.startswith("heads.slots")}
    assert rates == {0.2}


def test_adamw_state_tells_the_crf_rate():
    for rate in (0.3, None):
        _, optimizer = make(rate)
        assert crf_rate(optimizer.state_dict()) == rate


def test_adamw_groups_keep_the_order_of_the_parameters():
    """The state of an optimizer names parameters by their position."""
    orders = []
    for rate in (0.3, None):
        model, optimizer = make(rate)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        orders.append([names[id(p)] for group in optimizer.param_groups for p in group["params"]])
    assert orders[0] == orders[1]


@pytest.mark.parametrize(
    ("rate", "is_learnt"), [(TrainConfig(output=Path("run")).crf_learning_rate, True), (None, False)]
)
def test_adamw_crf_learns_an_order_that_words_do_not_tell(rate, is_learnt):
    """All pieces look alike, so that only the transitions can tell which tag follows which."""
    torch.manual_seed(0)
    info = TaskInfo(
        kind="sequence_label", outputs=("slots.logits",), labels=("O", "B-x", "B-y"), decode=Decode(crf=True)
    )
    head = make_head("slots", info, 16, dropout=0.0)
    optimizer = build_adamw(
        torch.nn.Linear(1, 1), {"slots": head}, learning_rate=1e-4, head_learning_rate=5e-4, crf_learning_rate=rate
    )
    features = {"sequence_output": torch.ones(8, 6, 16)}
    targets = torch.tensor([[1, 2, 0, 1, 2, 0], [2, 0, 1, 2, 0, 1], [0, 1, 2, 0, 1, 2], [1, 2, 0, 1, 2, 0]] * 2)
    for _ in range(300):
        head.loss(head(features), targets).total.div(48).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (head.crf.transitions.abs().max() > 1) == is_learnt
    assert head.crf.transitions.argmax(dim=1).tolist() == [1, 2, 0]


def test_adamw_is_fused():
    _, optimizer = make()
    assert optimizer.defaults["fused"]


def test_adamw_active_embedding_trains_like_plain_table():
    """The unused rows of the embedding keep their values; all else moves as it would without ActiveEmbedding."""

    def trained(active):
        torch.manual_seed(0)
        backbone = build_scratch(
            ["fly to boston", "b o s t n"], layers=1, hidden_size=16, heads=2, dropout=0.0
        ).backbone
        head = make_head("t", TaskInfo(kind="classify", outputs=("t.logits",), labels=("a", "b")), 16, dropout=0.0)
        model = MultiTaskModel(backbone, {"t": head}).train()
        if active:
            freeze_unused_rows(backbone, torch.tensor([0, 2, 3, 5, 6, 7]))
            assert isinstance(backbone.encoder.get_input_embeddings(), ActiveEmbedding)
        optimizer = build_adamw(model.backbone, dict(model.heads.items()), learning_rate=0.01, head_learning_rate=0.05)
        ids = torch.tensor([[2, 5, 6, 3, 0, 0], [2, 7, 7, 5, 6, 3]])
        for _ in range(5):
            outputs = model(input_ids=ids, attention_mask=(ids != 0).long())
            model.head("t").loss({"logits": outputs["t.logits"]}, torch.tensor([0, 1])).total.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.state_dict()

    plain, active = trained(False), trained(True)
    assert plain.keys() == active.keys()
    assert [name for name in plain if not torch.equal(plain[name], active[name])] == []
