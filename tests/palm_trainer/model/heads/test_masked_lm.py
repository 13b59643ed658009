"""The masked-LM head: tied to the embedding table, at masked positions only."""

import torch
from torch.nn import functional as F

from palm_serve.bundle.manifest import TaskInfo
from palm_trainer.model.encoders import build_scratch
from palm_trainer.model.heads import IGNORE, make_head
from palm_trainer.model.multi_task import MultiTaskModel

INFO = TaskInfo(kind="masked_lm", outputs=())


def test_the_loss_is_that_of_decoding_everything():
    torch.manual_seed(1)
    head = make_head("t", INFO, 6, dropout=0.0, embedding=(11, 4))
    outputs = {"hidden": torch.randn(2, 5, 6), "embedding_table": torch.randn(11, 4)}
    targets = torch.full((2, 5), IGNORE)
    targets[0, 1], targets[1, 3], targets[1, 4] = 7, 0, 10
    total, count = head.loss(outputs, targets)
    logits = head.norm(F.gelu(head.linear(outputs["hidden"]))) @ outputs["embedding_table"].T + head.bias
    wanted = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    assert count.item() == 3
    torch.testing.assert_close(total, wanted)
    none = head.loss(outputs, torch.full((2, 5), IGNORE))
    assert (none.total.item(), none.labels.item()) == (0.0, 0)


def test_the_embedding_table_learns_as_input_and_as_decoder():
    encoder = build_scratch(["some words to learn"], layers=1, hidden_size=8, heads=2, vocab_size=64).backbone
    rows, columns = encoder.embedding_table.shape
    model = MultiTaskModel(encoder, {"t": make_head("t", INFO, 8, embedding=(rows, columns))})
    ids = torch.tensor([[2, 6, 7, 3]])
    outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids))
    total, _ = model.head("t").loss(
        {name: outputs[f"t.{name}"] for name in model.head("t").tensors}, torch.tensor([[IGNORE, 8, IGNORE, IGNORE]])
    )
    total.backward()
    gradient = encoder.embedding_table.grad
    assert gradient[8].abs().sum() > 0  # the wanted piece, which is not in the input
    assert gradient[9].abs().sum() > 0  # all others too
    assert "heads.t.embedding_table" not in model.state_dict()
    assert sum(value.shape == (rows, columns) for value in model.state_dict().values()) == 1
