"""Perplexity: the metric of tasks that are measured by their loss, such as masked_lm."""

import math
from collections.abc import Mapping

import numpy as np
import torch

from palm_trainer.data.dataset import EncodedDataset
from palm_trainer.model.multi_task import TrainedModel

_BATCH = 32


@torch.no_grad()
def perplexities(trained: TrainedModel, datasets: Mapping[str, EncodedDataset]) -> dict[str, dict[str, float]]:
    """Return `{"words": {"perplexity": 12.3}}`: exp of the mean loss of the masked tokens, in fp32, without dropout.

    Args:
        trained: the model.
        datasets: by task, with its own target. What is masked is that of the first epoch, always the same, so that evaluations compare.
    """
    model = trained.model.eval()
    device = next(model.parameters()).device
    perplexities_by_task = {}
    for task, dataset in datasets.items():
        total, labels = 0.0, 0
        order = np.argsort(dataset.lengths, kind="stable")
        for begin in range(0, len(order), _BATCH):
            batch = dataset.batch(order[begin : begin + _BATCH])
            inputs = {name: value.to(device) for name, value in batch.inputs.items()}
            outputs = model(**inputs, tasks=(task,))
            head = model.head(task)
            head_outputs = model.head_outputs(task, outputs)
            loss = head.loss(head_outputs, batch.targets[task].to(device))
            total, labels = total + float(loss.total), labels + int(loss.labels)
        if labels:
            perplexities_by_task[task] = {"perplexity": math.exp(min(total / labels, 700.0))}  # exp(710) is no number
    return perplexities_by_task
