"""Answers as JSON, every kind."""

import pytest

from palm_serve.types import Answer, Classification, Label, Match, Span, Spans
from palm_trainer.data.example import Context, Example
from palm_trainer.errors import DataError
from palm_trainer.runs.predict import answer_to_json, read_inputs, with_pairs

YES, NO = Label("yes", 0.87654321), Label("no", 0.1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            Classification(YES, (YES, NO)),
            {
                "label": "yes",
                "confidence": 0.8765,
                "ranking": [{"label": "yes", "confidence": 0.8765}, {"label": "no", "confidence": 0.1}],
            },
        ),
        (
            Classification(YES, (YES,), labels=(YES,)),
            {
                "label": "yes",
                "confidence": 0.8765,
                "ranking": [{"label": "yes", "confidence": 0.8765}],
                "labels": [{"label": "yes", "confidence": 0.8765}],
            },
        ),
        (
            Spans((Span("city", "rome", 3, 7, 0.5),)),
            [{"label": "city", "value": "rome", "start": 3, "end": 7, "confidence": 0.5}],
        ),
        (Match(YES, 0.87654321), {"label": "yes", "score": 0.8765}),
        (Match(None, 0.3), {"label": None, "score": 0.3}),
        (
            Answer("rome", 3, 7, 0.75, alternatives=(Answer("", 0, 0, 0.25, no_answer=True),)),
            {
                "text": "rome",
                "start": 3,
                "end": 7,
                "confidence": 0.75,
                "no_answer": False,
                "alternatives": [{"text": "", "start": 0, "end": 0, "confidence": 0.25, "no_answer": True}],
            },
        ),
    ],
)
def test_answers_as_json(answer, expected):
    assert answer_to_json(answer) == expected


def test_pairs_of_the_command_line():
    assert with_pairs(["a", "b"], []) == [Example("a"), Example("b")]
    assert with_pairs(["a", "b"], ["x"]) == [Example("a", pair="x"), Example("b", pair="x")]
    assert with_pairs(["a", "b"], ["x", "y"]) == [Example("a", pair="x"), Example("b", pair="y")]
    with pytest.raises(DataError, match=r"--pair is given 3 times for 2 texts. Give it once for all of them"):
        with_pairs(["a", "b"], ["x", "y", "z"])


def test_questions_of_a_file(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text(
        '{"question": "q", "passage": "p"}\n{"question": "q", "context": "c"}\n{"text": "t", "text_pair": "s"}\n'
        '{"text": "t", "context": ["first", "last"], "requested_slots": ["city"]}\n{"text": "t", "context": ["last"]}\n',
        encoding="utf-8",
    )
    assert read_inputs(path) == [
        Example("q", pair="p"),
        Example("q", pair="c"),
        Example("t", pair="s"),
        Example("t", context=Context(("first", "last"), ("city",))),
        Example("t", context=Context(("last",))),
    ]
