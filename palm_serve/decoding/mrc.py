"""Decoding of `mrc` heads: beginnings and ends over the windows of a passage -> the best answer and those after it.

An answer's score is the sum of the logits of its first and last piece; of all windows the best counts, "no answer" by its least score, since
one window with an answer is enough (as in BERT's script for SQuAD 2.0).
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from palm_serve.bundle.golden import GoldenAnswer, GoldenSpan
from palm_serve.bundle.manifest import KINDS, TaskInfo
from palm_serve.decoding.decoder_input import Item
from palm_serve.decoding.sequence_label import tagged_range, trim
from palm_serve.decoding.served_kind import OutputAxes, OutputColumn, ServedKind
from palm_serve.errors import BundleError
from palm_serve.types import SPECIAL, Answer, Encoding, FloatArray

DEFAULT_ANSWER_TOKENS, DEFAULT_N_BEST = 30, 20

Candidate = tuple[float, int, int]
"""Score, and the range of the passage in code points; an empty range is "no answer"."""


def passage_range(encoding: Encoding) -> tuple[int, int]:
    """Return the positions [first, after) of the tokens of the passage."""
    return tagged_range(encoding, segment=1)


def null_position(encoding: Encoding) -> int:
    """Return the position that stands for "no answer".

    It is the classification token, first in most encoders and last in XLNet.
    """
    return 0 if encoding.segments[0] == SPECIAL else len(encoding) - 1


class MrcDecoder:
    """N-best answers over `<task>.start_logits` and `<task>.end_logits`, float32 [B, S] each, with a row for each window of an item."""

    def __init__(self, task: TaskInfo) -> None:
        if len(task.outputs) != 2:
            raise BundleError(f"a reading task must have 2 outputs, got {', '.join(task.outputs)}; export again")
        self._start, self._end = task.outputs
        self._longest = task.decode.max_answer_tokens or DEFAULT_ANSWER_TOKENS
        self._count = task.decode.n_best or DEFAULT_N_BEST
        self._null_threshold = task.decode.null_threshold
        self._temperature = task.calibration.temperature

    def __call__(self, outputs: Mapping[str, FloatArray], items: Sequence[Item]) -> list[Answer]:
        """Return the best answer of each item, with the next ones as `alternatives`, `top_k` in all (0: all that are ranked)."""
        answers = []
        row = 0
        for item in items:
            after = row + len(item.rows)
            answers.append(self._answer(item, outputs[self._start][row:after], outputs[self._end][row:after]))
            row = after
        return answers

    def _answer(self, item: Item, starts: FloatArray, ends: FloatArray) -> Answer:
        passage = item.pair or ""
        scores: dict[tuple[int, int], float] = {}
        for encoding, start, end in zip(item.rows, starts, ends, strict=True):
            for score, *span in self._candidates(passage, encoding, start, end):
                key = (span[0], span[1])
                scores[key] = max(score, scores.get(key, -np.inf))
        candidates = []
        for (first, after), score in scores.items():
            candidates.append((score, first, after))
        ranked = sorted(candidates, key=lambda c: (-c[0], c[1], c[2]))
        ranked = ranked[: self._count]
        if self._null_threshold is not None or not ranked:
            null_scores = []
            for encoding, start_scores, end_scores in zip(item.rows, starts, ends, strict=True):
                null_token = null_position(encoding)
                null_scores.append(float(start_scores[null_token] + end_scores[null_token]))
            ranked = _with_null(ranked, min(null_scores), self._null_threshold or 0.0)
        logits = np.array([score for score, _, _ in ranked]) / self._temperature
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        answers = []
        for probability, (_, start, end) in zip(probabilities, ranked, strict=True):
            answers.append(Answer(passage[start:end], start, end, float(probability), no_answer=start == end))
        best, alternatives = answers[0], tuple(answers[1 : item.top_k or None])
        return Answer(best.text, best.start, best.end, best.confidence, best.no_answer, alternatives)

    def _candidates(self, passage: str, encoding: Encoding, start: FloatArray, end: FloatArray) -> list[Candidate]:
        """Return the best answers of one window, trimmed of white space."""
        first, after = passage_range(encoding)
        longest = min(self._longest, after - first)
        if not longest:
            return []
        # [i, j]: from token i over j further tokens
        padded = np.concatenate([end[first:after], np.full(longest - 1, -np.inf, dtype=np.float32)])
        scores = (start[first:after, None] + sliding_window_view(padded, longest)).ravel()
        best = np.argpartition(-scores, min(self._count, len(scores)) - 1)[: self._count]
        candidates = []
        for index in best.tolist():
            begin, extra = divmod(index, longest)
            if begin + extra < after - first:
                start_offset = encoding.offsets[first + begin][0]
                end_offset = encoding.offsets[first + begin + extra][1]
                start_offset, end_offset = trim(passage, start_offset, end_offset)
                if start_offset < end_offset:
                    candidates.append((float(scores[index]), start_offset, end_offset))
        return candidates


def _with_null(ranked: list[Candidate], score: float, threshold: float) -> list[Candidate]:
    """Return the ranking with "no answer" in its place.

    It comes first exactly when it exceeds the best answer by more than `threshold`.
    """
    null = (score, 0, 0)
    if not ranked or score - ranked[0][0] > threshold:
        return [null, *ranked]
    for place, (rank_score, _, _) in enumerate(ranked):
        if place and rank_score < score:
            return [*ranked[:place], null, *ranked[place:]]
    return [*ranked, null]


class ServedMrc(ServedKind[Answer]):
    """The answer to a question in its passage."""

    facts = KINDS["mrc"]

    def decoder(self, task: TaskInfo, arrays: Mapping[str, FloatArray]) -> MrcDecoder:
        """Build the decoder."""
        return MrcDecoder(task)

    def golden(self, answer: Answer) -> GoldenAnswer:
        """Return the span of the answer, none for "no answer"."""
        if answer.no_answer:
            return GoldenAnswer(spans=())
        return GoldenAnswer(spans=(GoldenSpan(name="", start=answer.start, end=answer.end),))

    def output_axes(self, task: TaskInfo) -> Mapping[str, OutputAxes]:
        """Return the tokens, for the beginnings and the ends of answers."""
        return dict.fromkeys(task.outputs, (None,))

    def columns(self, task: TaskInfo) -> Mapping[str, OutputColumn]:
        """Return the text of the answer and its confidence."""
        return {
            "text": OutputColumn(attrgetter("text"), is_text=True),
            "confidence": OutputColumn(attrgetter("confidence")),
        }
