"""Weight decay and learning rates of the parameter groups."""

import torch

from palm_serve.bundle.manifest import Decode, TaskInfo
from palm_trainer.model.encoders import ActiveEmbedding, build_scratch, freeze_unused_rows
from palm_trainer.model.heads import make_head
from palm_trainer.model.multi_task import MultiTaskModel
from palm_trainer.training.optimization.adamw import build_adamw


def make():
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
        weight_decay=0.1,
    )
    return model, optimizer


def settings_by_name():
    model, optimizer = make()
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
        assert rate == (0.01 if name.startswith("backbone") else 0.2 if name.startswith("heads.slots") else 0.05), name


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
