"""Perplexity: the metric of tasks that are measured by their loss, such as masked_lm."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from palm_trainer.data.dataset import EncodedDataset
from palm_trainer.evaluation.evaluate import Metrics, add_data_sets
from palm_trainer.model.multi_task import TrainedModel

_BATCH = 32
_LARGEST_EXPONENT = 700.0
"""exp(710) is no number."""


@dataclass(frozen=True)
class MaskedRows:
    """The encoded rows of a masked_lm task, with its own target.

    `positions` holds the rows of each data set, in their order.
    """

    rows: EncodedDataset
    positions: Mapping[str, range]


def add_perplexities(metrics: Metrics, trained: TrainedModel, masked: Mapping[str, MaskedRows]) -> Metrics:
    """Return metrics with `{"words": {"perplexity": 12.3}}` of masked_lm tasks.

    A perplexity is exp of the mean loss of the masked tokens, in fp32, without dropout. What is masked is that of the
    first epoch, always the same, so that evaluations compare.

    Args:
        metrics: of the other tasks.
        trained: the model.
        masked: rows by task.
    """
    perplexities: Metrics = {}
    by_data_set: dict[str, Metrics] = {}
    for task, task_rows in masked.items():
        total = 0.0
        labels = 0
        for data, positions in task_rows.positions.items():
            data_total, data_labels = _sum_losses(trained, task, task_rows.rows, positions)
            total += data_total
            labels += data_labels
            if data_labels:
                by_data_set.setdefault(data, {})[task] = _perplexity(data_total, data_labels)
        if labels:
            perplexities[task] = _perplexity(total, labels)
    return add_data_sets({**metrics, **perplexities}, by_data_set)


@torch.no_grad()
def _sum_losses(trained: TrainedModel, task: str, rows: EncodedDataset, positions: Sequence[int]) -> tuple[float, int]:
    """Return the summed loss of some rows, and the number of labels in it."""
    model = trained.model.eval()
    device = next(model.parameters()).device
    total = 0.0
    labels = 0
    order = np.asarray(positions)[np.argsort(rows.lengths[positions], kind="stable")]
    for begin in range(0, len(order), _BATCH):
        batch = rows.batch(order[begin : begin + _BATCH])
        inputs = {name: value.to(device) for name, value in batch.inputs.items()}
        outputs = model(**inputs, tasks=(task,))
        head = model.head(task)
        head_outputs = model.head_outputs(task, outputs)
        loss = head.loss(head_outputs, batch.targets[task].to(device))
        total += float(loss.total)
        labels += int(loss.labels)
    return total, labels


def _perplexity(total: float, labels: int) -> dict[str, float]:
    return {"perplexity": math.exp(min(total / labels, _LARGEST_EXPONENT))}
