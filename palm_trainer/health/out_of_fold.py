"""Out-of-fold probabilities: what a logistic head on frozen vectors says of rows that it was not trained on.

And the rule of confident learning (Northcutt, Jiang and Chuang, Journal of Artificial Intelligence Research 70, 2021), which
tells from them which labels are wrong.
"""

from collections.abc import Hashable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from palm_serve.types import FloatArray

IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

FOLDS = 5
_STEPS = 30
"""Steps of L-BFGS. The heads are convex, and more steps hardly change which labels are suspected."""
_PENALTY = 1e-3
"""Weight of the squared weights against the mean loss of a row."""
_SCALE = 8.0
"""Length that each vector is given. The heads of shorter ones would hardly leave zero."""


def out_of_fold_probabilities(
    vectors: FloatArray, labels: IntArray, groups: Sequence[Hashable], classes: int, seed: int
) -> FloatArray:
    """Return probabilities [N, C] of heads that were trained on the other folds.

    Args:
        vectors: of the rows, [N, H].
        labels: number of the class of each row, [N].
        groups: rows of one group come into one fold, so that no head has seen the same text.
        classes: number of classes, C.
        seed: of the folds.
    """
    unit = _normalize(vectors)
    folds = _draw_folds(groups, seed)
    probabilities = np.zeros((len(labels), classes), np.float32)
    for fold in range(FOLDS):
        tested = folds == fold
        if tested.any() and not tested.all():
            head = _fit(unit[~tested], labels[~tested], classes)
            probabilities[tested] = _predict(head, unit[tested])
    return probabilities


def _normalize(vectors: FloatArray) -> FloatArray:
    """Return centred vectors of equal length, so that one penalty suits every encoder."""
    centred = vectors - vectors.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    scaled: FloatArray = (_SCALE * centred / np.maximum(lengths, 1e-6)).astype(np.float32)
    return scaled


def _draw_folds(groups: Sequence[Hashable], seed: int) -> IntArray:
    """Return the fold of each row. Groups have their order of first occurrence, so that the same data has the same folds."""
    numbers: dict[Hashable, int] = {}
    for group in groups:
        numbers.setdefault(group, len(numbers))
    fold_of_group = np.random.default_rng(seed).permutation(len(numbers)) % FOLDS
    return np.array([fold_of_group[numbers[group]] for group in groups], np.int64)


_Head: TypeAlias = tuple[torch.Tensor, torch.Tensor]


def _fit(vectors: FloatArray, labels: IntArray, classes: int) -> _Head:
    """Fit a logistic regression: weights [H, C] and bias [C]."""
    inputs = torch.from_numpy(vectors)
    targets = torch.from_numpy(labels)
    weights = torch.zeros(vectors.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(inputs @ weights + bias, targets) + _PENALTY * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach(), bias.detach()


def _predict(head: _Head, vectors: FloatArray) -> FloatArray:
    weights, bias = head
    probabilities: FloatArray = torch.softmax(torch.from_numpy(vectors) @ weights + bias, dim=1).numpy()
    return probabilities


def count_label_issues(labels: IntArray, probabilities: FloatArray) -> int:
    """Return how many labels are wrong by the confident joint: its entries off the diagonal.

    A class counts as confident for a row if its probability reaches the mean that rows with this label have. A label
    counts as wrong if the likeliest confident class is another one.

    Args:
        labels: number of the class of each row, [N].
        probabilities: out-of-fold probabilities, [N, C].
    """
    classes = probabilities.shape[1]
    thresholds = np.full(classes, np.inf)
    for label in range(classes):
        members = probabilities[labels == label, label]
        if len(members):
            thresholds[label] = members.mean()
    confident = np.where(probabilities >= thresholds - 1e-6, probabilities, -1.0)
    guesses = confident.argmax(axis=1)
    return int(((confident.max(axis=1) >= 0) & (guesses != labels)).sum())


def find_label_issues(labels: IntArray, probabilities: FloatArray) -> BoolArray:
    """Return which labels are wrong: those of the least probability, as many as the confident joint counts.

    A label that is the likeliest class of its row is never among them.

    Args:
        labels: number of the class of each row, [N].
        probabilities: out-of-fold probabilities, [N, C].
    """
    scores = wrong_scores(labels, probabilities)
    issues: BoolArray = np.zeros(len(labels), np.bool_)
    issues[np.argsort(-scores, kind="stable")[: count_label_issues(labels, probabilities)]] = True
    issues &= probabilities.argmax(axis=1) != labels
    return issues


def wrong_scores(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Return one minus the probability of each label, from 0 to 1: it orders wrong labels better than a margin does.

    Args:
        labels: number of the class of each row, [N].
        probabilities: out-of-fold probabilities, [N, C].
    """
    scores: FloatArray = 1.0 - probabilities[np.arange(len(labels)), labels]
    return scores
