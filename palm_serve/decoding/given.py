"""Decoding of tags given the class that another task answers for the same text.

A span type that no training text of the class has is not answered. The mask is off for a text whose class is rejected by a threshold of the
manifest. Thresholds of a request change no answer.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from palm_serve.bundle.manifest import TaskThresholds
from palm_serve.decoding.classify import ClassifyDecoder
from palm_serve.decoding.decoder_input import Item
from palm_serve.decoding.fallback_policy import judge, model_thresholds
from palm_serve.decoding.sequence_label import SequenceLabelDecoder
from palm_serve.types import FallbackReason, FloatArray, Int64Array, Spans

_ALLOWED = 0.5
"""Entries of the array above it allow a tag: they are 0 and 1."""
_REJECTED = -1
"""Row of a text without an accepted class: the last, which allows all tags."""


class GivenDecoder:
    """Decodes the spans of a text among those that its class can have.

    Args:
        tagger: decoder of the tags.
        classifier: decoder of the task that answers the class.
        classes: labels of that task.
        thresholds: limits of that task, which reject a class.
        allowed: 1 for a tag that a class can have, else 0, float32 [classes, tags].
    """

    def __init__(
        self,
        tagger: SequenceLabelDecoder,
        classifier: ClassifyDecoder,
        classes: Sequence[str],
        thresholds: TaskThresholds,
        allowed: FloatArray,
    ) -> None:
        self._tagger = tagger
        self._classifier = classifier
        self._class_numbers = {label: number for number, label in enumerate(classes)}
        self._thresholds = model_thresholds(thresholds)
        nothing = np.zeros((1, allowed.shape[1]), dtype=np.bool_)
        self._forbidden: npt.NDArray[np.bool_] = np.concatenate([allowed < _ALLOWED, nothing])

    def __call__(self, outputs: Mapping[str, FloatArray], items: Sequence[Item]) -> list[Spans]:
        """Return the spans of each item. `outputs` holds those of both tasks."""
        return self._tagger(outputs, items, self._forbidden[self._find_classes(outputs, items)])

    def _find_classes(self, outputs: Mapping[str, FloatArray], items: Sequence[Item]) -> Int64Array:
        """Return the number of the class of each item, [items]."""
        # The second label decides whether a class is ambiguous, however many a request wants.
        ranked_items = [Item(item.text, item.encoding, top_k=2) for item in items]
        classes = np.full(len(items), _REJECTED, dtype=np.int64)
        for row, answer in enumerate(self._classifier(outputs, ranked_items)):
            if judge(answer, self._thresholds) is FallbackReason.NONE:
                classes[row] = self._class_numbers[answer.label.name]
        return classes
