"""Answers as JSON, every kind."""

import json
import shutil

import pytest
from google.protobuf.json_format import MessageToDict

from palm_serve import Model
from palm_serve.types import Answer, Classification, Label, Match, ResolvedValue, Span, Spans
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Context, Example
from palm_trainer.errors import CheckpointError, DataError
from palm_trainer.export.exporter import export_bundle
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.job_from_config import evaluation_sets
from palm_trainer.runs.predict import answer_to_json, predict_lines, read_inputs, with_pairs
from palm_trainer.runs.run_values import read_values

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
        (
            Spans((Span("city", "nyc", 3, 6, 0.5, resolved=ResolvedValue("New York", "synonym", '"New York"')),)),
            [
                {
                    "label": "city",
                    "value": "nyc",
                    "start": 3,
                    "end": 6,
                    "confidence": 0.5,
                    "resolved": {"canonical": "New York", "kind": "synonym", "json": '"New York"'},
                }
            ],
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


VALUED = """
[data.d]
format = "jsonl"
train = "train.jsonl"
dev = "train.jsonl"
[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["d"]
values = {count = "number"}
"""


@pytest.mark.parametrize("with_resolver", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_predict_resolves_values_as_a_server_does(kind, with_resolver):
    if with_resolver:
        pytest.importorskip("duckling")
        pytest.importorskip("jionlp")
    rows = [{"values": {"city": {"New York": ["nyc"]}}}]
    for number in range(30):
        spans = [{"start": 4, "end": 7, "label": "city"}, {"start": 8, "end": 11, "label": "count"}]
        rows.append({"text": f"fly {('nyc', 'rom')[number % 2]} two", "slots": spans})
    kind.rows("train.jsonl", rows)
    kind.train(VALUED if with_resolver else VALUED.replace('values = {count = "number"}', ""), epochs=30)
    text = "fly nyc two"
    [line] = predict_lines(kind.run, [Example(text)])
    answered = json.loads(line)["slots"]
    assert [slot["label"] for slot in answered] == ["city", "count"]
    config = load_config(kind.run / "config.toml")
    trained = load_trained(kind.run)
    values = read_values(kind.run, trained.tasks)
    export_bundle(trained, evaluation_sets(config, "dev"), kind.folder / "bundle", precision="fp32", values=values)
    with Model.open(kind.folder / "bundle", provider="CPU") as model:
        served = model.parse(text).slots
    resolved = [MessageToDict(slot.resolved) if slot.HasField("resolved") else None for slot in served]
    assert [slot.get("resolved") for slot in answered] == resolved
    assert resolved[0] == {"canonical": "New York", "kind": "synonym", "json": '"New York"'}
    if with_resolver:
        assert (resolved[1]["canonical"], resolved[1]["kind"]) == ("2", "number")
    else:
        assert resolved[1] is None


def test_predict_without_the_libraries_of_a_resolver_is_one_message(finished_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "values.json").write_text('{"tasks": {"slots": {"day": {"resolver": "date"}}}}')
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        CheckpointError, match=r"values\.json cannot be used: .* pip install -c constraints\.txt '\.\[values\]'"
    ):
        list(predict_lines(run, [Example("fly")]))
