"""Metrics, all fractions from 0 to 1. Plain Python: nothing here knows a model."""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from palm_trainer.data.example import LabelledSpan

Unit = tuple[int, int, str]
"""A span over the data's own units: first, last (inclusive), label."""


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def accuracy(gold: Sequence[object], predicted: Sequence[object]) -> float:
    """Return the share of equal labels, or sets of labels.

    A gold label that training never saw cannot be predicted and counts as an error.
    """
    return sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(gold) if gold else 0.0


def span_scores(gold: Sequence[frozenset[Unit]], predicted: Sequence[frozenset[Unit]]) -> dict[str, float]:
    """Return micro-averaged precision, recall and F1 of whole spans with their labels: seqeval's strict mode on BIO."""
    hits = sum(len(g & p) for g, p in zip(gold, predicted, strict=True))
    return _scores(hits, sum(map(len, gold)), sum(map(len, predicted)))


def token_accuracy(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Return the share of tokens with the right tag, O among them: the number that Baidu's PALM reported as F1.

    Where most tokens are O it is high for a tagger that finds nothing.
    """
    right = 0
    total = 0
    for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
        right += sum(tag == answer for tag, answer in zip(gold_tags, predicted_tags, strict=True))
        total += len(gold_tags)
    return right / total if total else 0.0


def to_units(spans: Iterable[LabelledSpan], words: Sequence[tuple[int, int]] | None) -> frozenset[Unit]:
    """Project spans to the words that they touch (None: to their characters).

    Of two spans that touch one word the first keeps it.
    """
    ordered = sorted(spans, key=lambda span: span.start)
    if words is None:
        return frozenset((span.start, span.end, span.label) for span in ordered)
    units: set[Unit] = set()
    word = 0
    for span in ordered:
        while word < len(words) and words[word][1] <= span.start:
            word += 1
        first = word
        while word < len(words) and words[word][0] < span.end:
            word += 1
        if word > first:
            units.add((first, word - 1, span.label))
    return frozenset(units)


def set_scores(gold: Sequence[frozenset[str]], predicted: Sequence[frozenset[str]]) -> dict[str, float]:
    """Return the share of sets that are exactly right, and micro-averaged precision, recall and F1 of their labels."""
    hits = sum(len(g & p) for g, p in zip(gold, predicted, strict=True))
    return {"accuracy": accuracy(gold, predicted), **_scores(hits, sum(map(len, gold)), sum(map(len, predicted)))}


def label_scores(gold: Sequence[str], predicted: Sequence[str], label: str) -> dict[str, float]:
    """Return the accuracy over all labels, and precision, recall and F1 of one of them.

    Args:
        gold: right label of each example.
        predicted: answered label of each example.
        label: the label that precision, recall and F1 are of.
    """
    hits = sum(g == p == label for g, p in zip(gold, predicted, strict=True))
    gold_count = sum(name == label for name in gold)
    answer_count = sum(name == label for name in predicted)
    return {"accuracy": accuracy(gold, predicted), **_scores(hits, gold_count, answer_count)}


def expected_calibration_error(points: Iterable[tuple[float, bool]], bins: int = 15) -> float:
    """Return the mean distance of confidence from the share that is right (Guo et al. 2017).

    The mean is over `bins` ranges (low, high] of equal width, weighted by their answers.

    Args:
        points: the confidence of each answer, and whether it is right.
        bins: ranges from 0 to 1.
    """
    gaps = [0.0] * bins
    total = 0
    for confidence, right in points:
        gaps[min(bins - 1, max(0, math.ceil(confidence * bins) - 1))] += float(confidence) - bool(right)
        total += 1
    return sum(map(abs, gaps)) / total if total else 0.0


def pairwise_accuracy(scores: Sequence[float]) -> float:
    """Return the share of rows that score above their negative, which follows each of them.

    Equal scores rank nothing and count as errors.
    """
    ranked = list(zip(scores[::2], scores[1::2], strict=True))
    return sum(positive > negative for positive, negative in ranked) / len(ranked) if ranked else 0.0


def reading_scores(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, float]:
    """Return SQuAD's exact match and F1 of answers, each against the best of its right ones ("" stands for none).

    Texts are compared as `answer_tokens`; F1 is over the bag of tokens, so over characters in Chinese.
    """
    exact = overlap = 0.0
    for answers, answer_text in zip(gold, predicted, strict=True):
        tokens = answer_tokens(answer_text)
        exact += max(tokens == answer_tokens(answer) for answer in answers)
        overlap += max(_token_f1(answer_tokens(answer), tokens) for answer in answers)
    count = max(len(gold), 1)
    return {"exact_match": exact / count, "f1": overlap / count}


def answer_tokens(text: str) -> list[str]:
    """Return lower-case words without ASCII punctuation and articles (SQuAD's normalization).

    Of Chinese text they are characters without any punctuation.
    """
    text = text.lower()
    if _HAN.search(text):
        plain = "".join(" " if unicodedata.category(c)[0] in "PS" else c for c in text)
        return _HAN.sub(r" \g<0> ", plain).split()
    plain = "".join(c for c in text if c not in string.punctuation)
    return _ARTICLES.sub(" ", plain).split()


def _token_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    if not gold or not predicted:
        return float(gold == predicted)
    return _scores((Counter(gold) & Counter(predicted)).total(), len(gold), len(predicted))["f1"]


def _scores(hits: int, gold_count: int, answer_count: int) -> dict[str, float]:
    precision = hits / answer_count if answer_count else 0.0
    recall = hits / gold_count if gold_count else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}
