"""Answers as JSON: the fields of their messages in `palm_serve.v1`. Written by hand because protobuf's own printer costs five times the rest of an answer."""

import json
from typing import Any, assert_never

from palm_serve.rpc.messages.offsets import Offsets
from palm_serve.rpc.messages.requests import Asked
from palm_serve.types import Answer, Classification, Label, Match, Spans, TaskAnswer


def typed_json(asked: Asked, answer: TaskAnswer) -> bytes:
    """The JSON form of a Classification, Spans, Match or Answer; every field is there, but the label of a ranker."""
    return json.dumps(_fields(asked, answer), ensure_ascii=False).encode()


def _fields(asked: Asked, answer: TaskAnswer) -> dict[str, Any]:
    match answer:
        case Classification():
            return {
                "label": _label(answer.label),
                "ranking": [_label(label) for label in answer.ranking[: asked.top_k]],
                "labels": [_label(label) for label in answer.labels],
            }
        case Spans():
            offsets = Offsets(asked.request.text, asked.unit)
            return {
                "spans": [
                    {
                        "name": span.name,
                        "value": span.value,
                        "start": offsets(span.start),
                        "end": offsets(span.end),
                        "confidence": span.confidence,
                        "role": span.role,
                        "group": span.group,
                    }
                    for span in answer.spans
                ]
            }
        case Match():
            label = {} if answer.label is None else {"label": _label(answer.label)}
            return {**label, "score": answer.score}
        case Answer():
            return _answer(answer, Offsets(asked.request.pair or "", asked.unit))
        case _:
            assert_never(answer)


def _label(label: Label) -> dict[str, Any]:
    return {"name": label.name, "confidence": label.confidence}


def _answer(answer: Answer, offsets: Offsets) -> dict[str, Any]:
    return {
        "text": answer.text,
        "start": offsets(answer.start),
        "end": offsets(answer.end),
        "confidence": answer.confidence,
        "no_answer": answer.no_answer,
        "alternatives": [_answer(other, offsets) for other in answer.alternatives],
    }
