"""The loss of answers: only the passage and "no answer" can be chosen."""

import math

import torch

from palm_serve.bundle.manifest import TaskInfo
from palm_trainer.model.heads import IGNORE, make_head
from palm_trainer.tensors import SEQUENCE_OUTPUT

INFO = TaskInfo(kind="mrc", outputs=("t.start_logits", "t.end_logits"))


def test_question_and_padding_take_no_probability():
    head = make_head("t", INFO, 8)
    # [CLS] q q [SEP] p p p [SEP] pad pad, whose logits outside of passage and [CLS] are huge
    logits = torch.full((1, 10), 100.0, requires_grad=True)
    with torch.no_grad():
        logits[0, [0, 4, 5, 6]] = 0.0
    total, count = head.loss({"start_logits": logits, "end_logits": logits}, torch.tensor([[4, 6, 4, 7, 0]]))
    assert count.item() == 1
    torch.testing.assert_close(total.item(), math.log(4))
    total.backward()
    assert logits.grad[0, [1, 2, 3, 7, 8, 9]].eq(0).all()
    assert logits.grad.isfinite().all()


def test_unlabelled_windows_add_nothing():
    head = make_head("t", INFO, 8, dropout=0.0)
    outputs = head({SEQUENCE_OUTPUT.name: torch.randn(3, 6, 8)})
    assert {name: value.shape for name, value in outputs.items()} == {"start_logits": (3, 6), "end_logits": (3, 6)}
    rows = torch.tensor([[2, 3, 2, 4, 0], [IGNORE, IGNORE, 2, 4, 0], [0, 0, 2, 4, 0]])
    total, count = head.loss(outputs, rows)
    alone = [head.loss({k: v[i : i + 1] for k, v in outputs.items()}, rows[i : i + 1]).total for i in (0, 2)]
    assert count.item() == 2
    torch.testing.assert_close(total, sum(alone))
    none = head.loss(outputs, rows[1:2].expand(3, -1))
    assert (none.total.item(), none.labels.item()) == (0.0, 0)
