"""Losses of the heads: sums over what is labelled, whatever stands around it."""

import pytest
import torch
from torch.nn import functional as F

from palm_serve.bundle.manifest import TaskInfo
from palm_trainer.errors import WiringError
from palm_trainer.model.heads import IGNORE, make_head
from palm_trainer.model.heads.classify import ClassifyHead
from palm_trainer.model.heads.sequence_label import SequenceLabelHead

TAGS = ("O", "B-x", "I-x")


def test_classify_sums_over_labelled_rows():
    head = ClassifyHead(3, 4, 0.0)
    logits = torch.randn(4, 3)
    total, labels = head.loss({"logits": logits}, torch.tensor([0, IGNORE, 2, IGNORE]))
    expected = F.cross_entropy(logits[[0, 2]], torch.tensor([0, 2]), reduction="sum")
    assert labels.item() == 2
    torch.testing.assert_close(total, expected)


def test_classify_smooths_labels():
    head = ClassifyHead(3, 4, 0.0, label_smoothing=0.3)
    logits = torch.randn(2, 3)
    log_p = logits.log_softmax(1)
    expected = -(0.8 * log_p[0, 1] + 0.1 * log_p[0, 0] + 0.1 * log_p[0, 2])
    total, _ = head.loss({"logits": logits}, torch.tensor([1, IGNORE]))
    torch.testing.assert_close(total, expected)


def test_softmax_tagger_sums_over_tagged_pieces():
    head = SequenceLabelHead(TAGS, 4, 0.0, crf=False)
    logits = torch.randn(2, 3, 3)
    total, labels = head.loss({"logits": logits}, torch.tensor([[IGNORE, 1, IGNORE], [IGNORE, 0, 2]]))
    assert labels.item() == 3
    torch.testing.assert_close(total, -(logits.log_softmax(2)[[0, 1, 1], [1, 1, 2], [1, 0, 2]]).sum())
    assert head.decode_arrays() == {}


def test_crf_reads_the_pieces_of_the_text_only():
    """Special tokens, the second text and padding stand around the tagged run, at a different place in each row."""
    head = SequenceLabelHead(TAGS, 4, 0.0)
    logits = torch.randn(3, 6, 3)
    targets = torch.tensor(
        [[IGNORE, 0, 1, 2, IGNORE, IGNORE], [IGNORE, IGNORE, IGNORE, IGNORE, IGNORE, 0], [IGNORE] * 6]
    )
    total, labels = head.loss({"logits": logits}, targets)
    crf = head.crf.negative_log_likelihood
    first = crf(logits[:1, 1:4], torch.tensor([[0, 1, 2]]), torch.tensor([3]))
    second = crf(logits[1:2, 5:6], torch.tensor([[0]]), torch.tensor([1]))
    assert labels.item() == 4
    torch.testing.assert_close(total, first + second)


def test_crf_of_unlabelled_rows_only_is_zero():
    head = SequenceLabelHead(TAGS, 4, 0.0)
    total, labels = head.loss({"logits": torch.randn(2, 3, 3)}, torch.full((2, 3), IGNORE))
    assert (total.item(), labels.item()) == (0.0, 0)


@pytest.mark.parametrize("crf", [True, False])
def test_half_precision_logits_are_summed_in_float32(crf):
    head = SequenceLabelHead(TAGS, 4, 0.0, crf=crf)
    logits = torch.randn(1, 3, 3).bfloat16()
    targets = torch.tensor([[0, 1, 2]])
    total, _ = head.loss({"logits": logits}, targets)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, head.loss({"logits": logits.float()}, targets).total)


def test_masked_lm_needs_the_embedding_table():
    with pytest.raises(WiringError, match=r"task 'words': a masked_lm head decodes with the embedding table"):
        make_head("words", TaskInfo(kind="masked_lm", outputs=()), 8)
