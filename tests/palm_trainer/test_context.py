"""Context of a text, from the data file to the bundle: a model whose label depends on what was asked before."""

import json

from palm_serve.types import TextRequest, context_text
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Context, Example
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.evaluate_run import evaluate_run
from palm_trainer.runs.predict import predict_lines

TASKS = """
[data.answers]
format = "jsonl"
train = "answers.jsonl"
dev = "answers.jsonl"
test = "test.jsonl"

[data.moods]
format = "jsonl"
train = "moods.jsonl"
dev = "moods.jsonl"

[tasks.intent]
kind = "classify"
role = "intent"
data = ["answers"]

[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["answers"]
crf = false

[tasks.mood]
kind = "classify"
data = ["moods"]
"""
QUESTIONS = {"size": "for how many people ?", "time": "at what hour ?"}


def answers():
    rows = []
    for number in ("six", "seven", "eight", "nine"):
        for intent, question in QUESTIONS.items():
            text = f"at {number} please"
            span = {"start": 3, "end": 3 + len(number), "label": intent}
            context = {"context": ["book a table", question], "requested_slots": [intent]}
            rows.append({"text": text, "intent": intent, "slots": [span], **context})
    return rows


def train(kind):
    kind.rows("answers.jsonl", answers())
    kind.rows("test.jsonl", answers()[2:6])
    moods = []
    for word in ("film", "table", "song", "food"):
        moods.append({"text": f"great {word}", "mood": "good"})
        moods.append({"text": f"awful {word}", "mood": "bad"})
    kind.rows("moods.jsonl", moods)
    return kind.train(TASKS, epochs=30, max_length=32)


def test_the_same_text_is_understood_by_its_context(kind):
    done = train(kind)
    assert done.metrics["test"]["intent"]["accuracy"] == 1.0
    assert done.metrics["test"]["slots"]["f1"] == 1.0
    assert evaluate_run(kind.run, load_config(kind.run / "config.toml"), "test") == done.metrics["test"]
    tasks = load_trained(kind.run).tasks
    assert {name: info.decode.context for name, info in tasks.items()} == {"intent": True, "slots": True, "mood": False}

    examples = []
    for intent, question in QUESTIONS.items():
        context = Context(("book a table", question), (intent,))
        examples.append(Example("at seven please", context=context))
    trained_answers = Predictor(load_trained(kind.run)).answers(examples)
    assert [answer["intent"].label.name for answer in trained_answers] == ["size", "time"]
    assert trained_answers[0]["mood"] == trained_answers[1]["mood"]

    pipeline = kind.serve()
    assert any(example.context for example in pipeline.bundle.golden)
    assert any(example.context for example in pipeline.bundle.proof.info.examples)
    for example, expected in zip(examples, trained_answers, strict=True):
        spoken = context_text(example.context.turns, example.context.requested_slots)
        [served] = pipeline.predict([TextRequest(example.text, (), context=spoken)])
        for task, answer in expected.items():
            if task == "slots":
                spans = served.answers[task].spans
                assert [(span.name, span.value) for span in spans] == [(span.name, span.value) for span in answer.spans]
            else:
                assert served.answers[task].label.name == answer.label.name
                assert abs(served.answers[task].label.confidence - answer.label.confidence) < 1e-4


def test_predict_writes_the_context_beside_the_answer(kind):
    train(kind)
    examples = [Example("at six please", context=Context((QUESTIONS["size"],))), Example("at six please")]
    records = list(map(json.loads, predict_lines(kind.run, examples)))
    assert records[0]["context"] == [QUESTIONS["size"]]
    assert "context" not in records[1]
    assert records[0]["intent"]["label"] == "size"
