"""Answers as JSON have the fields of their messages."""

import json

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from palm_serve.rpc.messages.requests import CheckedRequest
from palm_serve.rpc.messages.responses import task_result
from palm_serve.rpc.oip.typed import typed_json
from palm_serve.types import Answer, Classification, Label, Match, Span, Spans, TaskAnswer, TextRequest
from palm_serve.v1 import palm_pb2 as pb

TEXT = "😀 Zoë é"
A, B = Label("a", 0.75), Label("b", 0.25)
ANSWERS = [
    Classification(A, (A, B, B), (A,), 0.5),
    Spans((Span("who", "Zoë", 2, 5, 0.5, "r", "g"), Span("x", "é", 6, 7, 0.25))),
    Spans(()),
    Match(A, 0.75),
    Match(None, 0.25),
    Answer("Zoë", 2, 5, 0.5, alternatives=(Answer("é", 6, 7, 0.25), Answer("", 0, 0, 0.125, no_answer=True))),
]


@pytest.mark.parametrize("unit", pb.OffsetUnit.values())
@pytest.mark.parametrize("answer", ANSWERS)
def test_typed_json_equals_the_json_of_the_message(answer: TaskAnswer, unit: int) -> None:
    asked = CheckedRequest(TextRequest(TEXT, ("t",), pair=TEXT), unit, top_k=2)
    result = task_result("t", answer, asked)
    message = getattr(result, str(result.WhichOneof("result")))
    found = json.loads(typed_json(asked, answer))
    assert ParseDict(found, type(message)()) == message
    told = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    assert found == told
