"""Target: where in a window of the passage the answer to a question begins and ends."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from palm_serve.bundle.manifest import Decode, TaskInfo
from palm_serve.decoding.mrc import DEFAULT_ANSWER_TOKENS, null_position, passage_range
from palm_serve.decoding.sequence_label import trim
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding
from palm_trainer.data.example import Example, LabelledSpan, spans_in
from palm_trainer.data.inputs import Inputs, PassageWindows
from palm_trainer.data.targets.base import collate_indices
from palm_trainer.errors import DataError
from palm_trainer.tensors import IGNORE

if TYPE_CHECKING:  # commands that only read data need no torch, which takes seconds to load
    from torch import Tensor


class Place(NamedTuple):
    """Target of a window, all positions of its row: first and last piece of the answer; the pieces of the passage, half-open; "no answer"."""

    start: int
    end: int
    first: int
    after: int
    null: int


class MrcTarget:
    """Positions of answers. A window that does not hold the whole answer is taught to say "no answer" (as BERT does for SQuAD, 1.1 too)."""

    def __init__(self, task: str, field: str, decode: Decode) -> None:
        self.field = field
        self.info = TaskInfo(kind="mrc", outputs=(f"{task}.start_logits", f"{task}.end_logits"), decode=decode)
        windows = self.info.windows
        assert windows is not None
        self.inputs: Inputs = PassageWindows(windows)

    @classmethod
    def learn(
        cls,
        task: str,
        field: str,
        examples: Iterable[Example],
        *,
        max_length: int,
        max_query_tokens: int | None = None,
        doc_stride_tokens: int | None = None,
        max_answer_tokens: int | None = None,
        n_best: int = 20,
        null_threshold: float = 0.0,
        tokenizer: TextTokenizer | None = None,
    ) -> "MrcTarget":
        """Build the target. "No answer" is only ever given where the training data has questions without an answer.

        Args:
            task: its name.
            field: of the answers, spans of the pair.
            examples: the training examples.
            max_length: tokens of a window with its question; what is not given below follows from it.
            max_query_tokens, doc_stride_tokens, max_answer_tokens, n_best, null_threshold: as in `Decode`.
            tokenizer: measures the answers where `max_answer_tokens` is None; without one, that is 30.

        Raises:
            DataError: an answer without a passage, classes, or no answer at all.
        """
        answered = unanswerable = False
        texts: set[str] = set()
        for example in examples:
            spans = _answers(example, field)
            if spans is None:
                continue
            if example.pair is None:
                raise DataError(
                    f"{example.source}: task '{task}' looks for answers in a passage, but this row has none. Add it as text_pair."
                )
            answered, unanswerable = answered or bool(spans), unanswerable or not spans
            for span in spans:
                texts.add(example.pair[span.start : span.end])
        if not answered:
            raise DataError(
                f"task '{task}': the training data holds no answer in the field '{field}'. Check the field's name and the file."
            )
        decode = Decode(
            pairs=True,
            max_answer_tokens=max_answer_tokens or longest_answer(sorted(texts), tokenizer),
            max_query_tokens=max_query_tokens or min(64, max_length // 3),
            doc_stride_tokens=doc_stride_tokens or max_length // 3,
            n_best=n_best,
            null_threshold=null_threshold if unanswerable else None,
        )
        return cls(task, field, decode)

    def encode(self, example: Example, encoding: Encoding) -> Place:
        """Return the place of the first answer that the window holds whole.

        That of "no answer" stands where it holds none, IGNORE where the example is unlabelled.
        """
        (first, after), null = passage_range(encoding), null_position(encoding)
        spans = _answers(example, self.field)
        if spans is None:
            return Place(IGNORE, IGNORE, first, after, null)
        for span in spans:
            tokens = _tokens_of(span, example.pair or "", encoding, first, after)
            if tokens is not None:
                return Place(*tokens, first, after, null)
        return Place(null, null, first, after, null)

    def collate(self, targets: Sequence[Place], length: int) -> "Tensor":
        """Return int64 [B, 5]: the fields of `Place`."""
        return collate_indices(targets)


def longest_answer(texts: Sequence[str], tokenizer: TextTokenizer | None) -> int:
    """Return the tokens that 99.5 % of the answers do not exceed, at least 30.

    A few faults of the data then do not slow every search.
    """
    if tokenizer is None:
        return DEFAULT_ANSWER_TOKENS
    lengths = [encoding.segments.count(0) for encoding in tokenizer.encode_batch(texts)]
    return max(DEFAULT_ANSWER_TOKENS, int(np.percentile(lengths, 99.5, method="inverted_cdf")))


def _answers(example: Example, field: str) -> tuple[LabelledSpan, ...] | None:
    """Return the spans of the answer, None when unlabelled. Raise DataError for classes."""
    value = example.fields.get(field)
    if value is None:
        return None
    if isinstance(value, str) or any(isinstance(item, str) for item in value):
        raise DataError(
            f"{example.source}: reading comprehension needs spans of the passage in '{field}', not {value!r}. Choose another field or kind."
        )
    return tuple(spans_in(value))


def _tokens_of(span: LabelledSpan, passage: str, encoding: Encoding, first: int, after: int) -> tuple[int, int] | None:
    """Return the first and last token of the visible part of the span, None unless the window holds all of it."""
    if first == after:
        return None
    offsets = encoding.offsets
    start, end = trim(passage, span.start, span.end)
    window_start, window_end = trim(passage, offsets[first][0], offsets[after - 1][1])
    if start >= end or start < window_start or end > window_end:
        return None
    touching = []
    for token in range(first, after):
        token_start, token_end = offsets[token]
        if token_start < end and token_end > start:
            touching.append(token)
    return (touching[0], touching[-1]) if touching else None
