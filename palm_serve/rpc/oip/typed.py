"""Conversion of answers to JSON with the fields of their messages in `palm_serve.v1`.

It does not use the JSON printer of protobuf, which takes five times as long as the rest of a response.
"""

import json
from typing import Any, assert_never

from palm_serve.rpc.messages.offsets import Offsets
from palm_serve.rpc.messages.requests import CheckedRequest
from palm_serve.types import Answer, Classification, Label, Match, Span, Spans, TaskAnswer


def typed_json(checked: CheckedRequest, answer: TaskAnswer) -> bytes:
    """Encode a Classification, Spans, Match or Answer as JSON with all fields. A ranker has no label."""
    return json.dumps(_fields(checked, answer), ensure_ascii=False).encode()


def _fields(checked: CheckedRequest, answer: TaskAnswer) -> dict[str, Any]:
    match answer:
        case Classification():
            return {
                "label": _label(answer.label),
                "ranking": [_label(label) for label in answer.ranking[: checked.top_k]],
                "labels": [_label(label) for label in answer.labels],
            }
        case Spans():
            offsets = Offsets(checked.request.text, checked.unit)
            return {"spans": [_span(span, offsets) for span in answer.spans]}
        case Match():
            label = {} if answer.label is None else {"label": _label(answer.label)}
            return {**label, "score": answer.score}
        case Answer():
            return _answer(answer, Offsets(checked.request.pair or "", checked.unit))
        case _:
            assert_never(answer)


def _span(span: Span, offsets: Offsets) -> dict[str, Any]:
    return {
        "name": span.name,
        "value": span.value,
        "start": offsets(span.start),
        "end": offsets(span.end),
        "confidence": span.confidence,
        "role": span.role,
        "group": span.group,
    }


def _label(label: Label) -> dict[str, Any]:
    return {"name": label.name, "confidence": label.confidence}


def _answer(answer: Answer, offsets: Offsets) -> dict[str, Any]:
    return {
        "text": answer.text,
        "start": offsets(answer.start),
        "end": offsets(answer.end),
        "confidence": answer.confidence,
        "no_answer": answer.no_answer,
        "alternatives": [_answer(alternative, offsets) for alternative in answer.alternatives],
    }
