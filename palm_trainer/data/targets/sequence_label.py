"""Target: one BIO tag for each token, from character spans.

A piece takes its tag from the span that it overlaps: the first piece `B-`, the others `I-`. Pieces of white space only belong to a span
when they lie inside it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from palm_serve.bundle.manifest import Decode, Role, TaskInfo
from palm_serve.bundle.span_types import parse_span_label
from palm_serve.decoding.sequence_label import OUTSIDE, is_punctuation, tagged_range
from palm_serve.types import Encoding
from palm_trainer.data.example import Example, LabelledSpan, spans_in
from palm_trainer.data.inputs import Inputs, Texts
from palm_trainer.data.roles import fold_spans, has_roles
from palm_trainer.data.targets.base import collate_rows
from palm_trainer.errors import DataError
from palm_trainer.tensors import IGNORE

if TYPE_CHECKING:  # commands that only read data need no torch, which takes seconds to load
    from torch import Tensor


class SequenceLabelTarget:
    """Tag indices over tokens. Every span type has both a `B-` and an `I-` tag, since any value may be several tokens.

    Args:
        task: task name.
        field: field of the examples that holds the spans.
        types: names of the spans, with `roles` their labels (`span_label`).
        role: role of the task in `Parse`.
        crf: use a CRF over the tags.
        value_punctuation: punctuation inside the values of the training data. None: any.
        roles: learn the roles and groups of spans.
        context: read what was said before a text.
    """

    inputs: Inputs = Texts()

    def __init__(
        self,
        task: str,
        field: str,
        types: Sequence[str],
        *,
        role: Role = "",
        crf: bool = True,
        value_punctuation: str | None = None,
        roles: bool = False,
        context: bool = False,
    ) -> None:
        self.field = field
        self._roles = roles
        tags = [OUTSIDE]
        for name in types:
            tags += [f"B-{name}", f"I-{name}"]
        arrays = {array: f"{task}.{array}" for array in ("start", "transitions", "end")} if crf else {}
        span_types = {label: parse_span_label(label) for label in types} if roles else {}
        self.info = TaskInfo(
            kind="sequence_label",
            role=role,
            outputs=(f"{task}.logits",),
            labels=tuple(tags),
            decode=Decode(
                scheme="BIO",
                crf=crf,
                arrays=arrays,
                value_punctuation=value_punctuation,
                span_types=span_types,
                context=context,
            ),
        )
        self._index = {tag: i for i, tag in enumerate(tags)}

    @classmethod
    def learn(
        cls,
        task: str,
        field: str,
        examples: Sequence[Example],
        *,
        role: Role = "",
        crf: bool = True,
        roles: bool = True,
    ) -> "SequenceLabelTarget":
        """Build the target with the span types, and the punctuation inside values, of the training examples.

        Args:
            task: task name.
            field: field of the examples that holds the spans.
            examples: training examples.
            role: role of the task in `Parse`.
            crf: use a CRF over the tags.
            roles: learn the roles and groups of spans, where there are any.

        Raises:
            DataError: a field holds classes, or there is no span.
        """
        roles = roles and has_roles(examples, field)
        types: set[str] = set()
        punctuation: set[str] = set()
        for example in examples:
            for span in fold_spans(spans_of(example, field, task), learnt=roles):
                types.add(span.label)
                value = example.text[span.start : span.end]
                punctuation.update(filter(is_punctuation, value))
        if not types:
            raise DataError(
                f"task '{task}': the training data holds no span in the field '{field}'. Check the field's name and the file."
            )
        values = "".join(sorted(punctuation))
        context = any(field in example.fields and example.context is not None for example in examples)
        return cls(
            task, field, sorted(types), role=role, crf=crf, value_punctuation=values, roles=roles, context=context
        )

    def encode(self, example: Example, encoding: Encoding) -> list[int]:
        """Return a tag for each token of the text, IGNORE elsewhere. All are IGNORE when the example is unlabelled."""
        tags = [IGNORE] * len(encoding)
        if self.field not in example.fields:
            return tags
        first, after = tagged_range(encoding)
        tags[first:after] = [self._index[OUTSIDE]] * (after - first)
        position = first
        for span in fold_spans(spans_of(example, self.field), learnt=self._roles):
            prefix = "B-"
            while position < after and encoding.offsets[position][1] <= span.start:
                position += 1
            while position < after and encoding.offsets[position][0] < span.end:
                tag = self._index.get(prefix + span.label)
                if (
                    tag is not None
                    and tags[position] == self._index[OUTSIDE]
                    and (prefix == "I-" or _begins(example.text, encoding.offsets[position], span))
                ):
                    tags[position] = tag
                    prefix = "I-"
                position += 1
            position = max(first, position - 1)  # a piece may reach into the next span
        return tags

    def collate(self, targets: Sequence[Sequence[int]], length: int) -> "Tensor":
        """Return int64 [B, S], IGNORE beyond a row's end."""
        return collate_rows(targets, length)


def spans_of(example: Example, field: str, task: str = "") -> tuple[LabelledSpan, ...]:
    """Return the spans of a field in text order, none when the example has no such field.

    Args:
        example: the example.
        field: field that holds the spans.
        task: task name, for messages.

    Raises:
        DataError: the field holds classes.
    """
    value = example.fields.get(field, ())
    if isinstance(value, str) or any(isinstance(item, str) for item in value):
        raise DataError(
            f"{example.source}: task '{task}' tags spans and needs them in '{field}', not {value!r}. Choose kind = \"classify\" or another field."
        )
    return tuple(sorted(spans_in(value), key=lambda span: span.start))


def _begins(text: str, piece: tuple[int, int], span: LabelledSpan) -> bool:
    """Return True if a token shows something of the span.

    Once the span has begun, invisible tokens (blanks, empty ones) belong to it too: tags have no holes.
    """
    start, end = max(piece[0], span.start), min(piece[1], span.end)
    return start < end and not text[start:end].isspace()
