"""Reading comprehension from its files to a server's answer, with limits chosen on dev."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from palm_serve.errors import InvalidRequest
from palm_serve.types import Answer, Match, TextRequest
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.errors import ConfigError, DataError
from palm_trainer.evaluation.evaluate import evaluate
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.evaluation.thresholds import with_limit
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.evaluate_run import evaluate_run
from palm_trainer.runs.events import Finished
from palm_trainer.runs.job_from_config import evaluation_sets, job_from_config
from palm_trainer.runs.predict import predict_lines
from palm_trainer.runs.run import train

MATCH = """
[data.pairs]
format = "jsonl"
train = "pairs.jsonl"
dev = "pairs.jsonl"
[tasks.same]
kind = "match"
data = ["pairs"]
"""


MRC = """
[data.squad]
format = "squad"
train = "squad.json"
dev = "squad.json"
[tasks.reading]
kind = "mrc"
data = ["squad"]
dropout = 0.0
max_query_tokens = 6
doc_stride_tokens = 5
"""

NAMES = ("anna", "bob", "carl", "dora", "emil")
PLACES = ("paris", "oslo", "rome", "lima")


def write_squad(path: Path, *, negatives: bool) -> None:
    """Passages of several windows, each with a question for every name in it; with `negatives`, one for a name that is not."""
    paragraphs = []
    for shift in range(4):
        homes = {name: PLACES[(i + shift) % 4] for i, name in enumerate(NAMES[: 4 + shift % 2])}
        context = " and then ".join(f"{name} lives in {place}" for name, place in homes.items())
        questions = []
        for name in NAMES:
            start = context.find(f"{name} lives in ") + len(f"{name} lives in ")
            answers = [{"text": homes[name], "answer_start": start}] if name in homes else []
            if answers or negatives:
                known = {"is_impossible": not answers} if negatives else {}
                questions.append(
                    {"id": f"{shift}-{name}", "question": f"where is {name} ?", "answers": answers, **known}
                )
        paragraphs.append({"context": context, "qas": questions})
    path.write_text(json.dumps({"version": "x", "data": [{"title": "t", "paragraphs": paragraphs}]}), encoding="utf-8")


@pytest.mark.parametrize("negatives", [False, True])
def test_mrc_training_from_files_finds_answers(kind, negatives: bool) -> None:
    write_squad(kind.folder / "squad.json", negatives=negatives)
    done = kind.train(MRC, epochs=2, max_length=20)
    assert done.metrics["dev"]["reading"].keys() == {"exact_match", "f1", "ece"}
    decode = load_trained(kind.run).tasks["reading"].decode
    assert (decode.null_threshold is not None) == negatives
    assert done.thresholds == ({"reading": decode.null_threshold} if negatives else {})
    pipeline = kind.serve()
    assert pipeline.bundle.manifest.tasks["reading"].decode == decode
    passage = " and then ".join(f"{name} lives in {place}" for name, place in zip(NAMES, PLACES, strict=False))
    asked = [
        TextRequest("where is anna ?", ("reading",), pair=p, top_k=4) for p in (passage, "anna lives in rome", "北京")
    ]
    asked.append(TextRequest("where is anna " * 20, ("reading",), pair=passage))
    predictions = pipeline.predict(asked)
    own = Predictor(load_trained(kind.run), top_k=4).answers([Example(a.text, pair=a.pair) for a in asked])
    for request, prediction, found in zip(asked, predictions, own, strict=True):
        answer = prediction.answers["reading"]
        assert isinstance(answer, Answer)
        assert (answer.start, answer.end) == (found["reading"].start, found["reading"].end)
        assert len(answer.alternatives) < request.top_k
        for one in (answer, *answer.alternatives):
            assert one.text == request.pair[one.start : one.end]
            assert one.no_answer == (one.text == "")
    assert [p.truncated for p in predictions] == [False, False, False, True]
    assert predictions[0].timings.batch_size > 1


def test_mrc_windows_stay_apart_from_other_tasks(kind) -> None:
    write_squad(kind.folder / "squad.json", negatives=False)
    pairs = [
        {"text": f"of {a}", "text_pair": f"on {b}", "label": "yes" if a == b else "no"} for a in "ab" for b in "ab"
    ]
    kind.rows("pairs.jsonl", pairs)
    kind.train(MRC + MATCH, max_length=20)
    pipeline = kind.serve()
    card = (kind.folder / "bundle/README.md").read_text(encoding="utf-8")
    assert 'palm-serve call "your question" --task reading --pair "its passage"' in card
    assert "Passages of reading comprehension are read in windows" in card
    with pytest.raises(
        InvalidRequest, match="task 'reading' reads its passage in windows; ask it in a request of its own"
    ):
        pipeline.check(TextRequest("a", ("reading", "same"), pair="b"))
    together = pipeline.predict(
        [TextRequest("where?", (t,), pair="anna lives in rome " * 9) for t in ("same", "reading")]
    )
    assert [type(p.answers[t]) for p, t in zip(together, ("same", "reading"), strict=True)] == [Match, Answer]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"text": "q", "answer": [{"start": 0, "end": 1, "label": "x"}]}, "this row has none. Add it as text_pair"),
        ({"text": "q", "text_pair": "p", "answer": []}, "holds no answer in the field 'answer'"),
        ({"text": "q", "text_pair": "p", "answer": "p"}, "0 fields of the data suit kind 'mrc'"),
    ],
)
def test_mrc_invalid_data_is_refused(kind, row: dict, match: str) -> None:
    kind.rows("squad.json", [row])
    with pytest.raises(DataError, match=match):
        kind.train(MRC.replace('"squad"\n', '"jsonl"\n', 1))


@pytest.mark.parametrize(
    ("max_length", "match"),
    [
        (8, "encoder.max_length must be at least 12 for reading comprehension"),
        (12, "must be at most half of encoder.max_length = 12, got 7"),
    ],
)
def test_mrc_too_short_windows_are_refused(kind, max_length: int, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        kind.config(MRC.replace("max_query_tokens = 6", "max_query_tokens = 7"), max_length=max_length)


def test_mrc_limits_agree_with_evaluation_and_server(kind) -> None:
    """Chosen on dev they are no worse there than the defaults; what the configuration names stays; a second end changes nothing."""
    write_squad(kind.folder / "squad.json", negatives=True)
    done = kind.train(MRC, epochs=2, max_length=20)
    config = load_config(kind.run / "config.toml")
    assert config.tasks["reading"].null_threshold is None
    assert evaluate_run(kind.run, config, "dev") == done.metrics["dev"]
    trained = load_trained(kind.run)
    sets, kinds = evaluation_sets(config, "dev"), {"reading": "mrc"}
    for limit in (0.0, -1.0, 1.0, done.thresholds["reading"]):
        other = replace(trained, tasks={"reading": with_limit(trained.tasks["reading"], limit)})
        score = evaluate(Predictor(other), kinds, sets)["reading"]["f1"]
        assert score <= done.metrics["dev"]["reading"]["f1"] + 1e-9
    [line] = predict_lines(kind.run, [Example("where is anna ?", pair="anna lives in oslo")])
    assert json.loads(line)["reading"].keys() >= {"text", "start", "end", "no_answer"}
    with pytest.raises(
        DataError, match=r"'where': every task of this model \('reading'\) reads a second text. Give the pass"
    ):
        list(predict_lines(kind.run, [Example("where")]))
    before = (kind.run / "best/model.json").read_bytes()
    again = list(train(config, resume=True))[-1]
    assert isinstance(again, Finished)
    assert again.thresholds == done.thresholds
    assert (kind.run / "best/model.json").read_bytes() == before


def test_mrc_configured_limit_has_priority(kind) -> None:
    write_squad(kind.folder / "squad.json", negatives=True)
    done = kind.train(MRC + "null_threshold = 2.5\n", epochs=1, max_length=20)
    assert done.thresholds == {}
    assert load_trained(kind.run).tasks["reading"].decode.null_threshold == 2.5


def test_mrc_longest_answer_is_learnt(kind) -> None:
    """Answers of 45 pieces: the manifest allows them; the configuration may say otherwise."""
    passage = "he said " + "very " * 44 + "well"
    rows = [{"text": "what ?", "text_pair": passage, "answer": [{"start": 8, "end": len(passage), "label": ""}]}]
    kind.rows("squad.json", rows)
    tables = MRC.replace('"squad"\n', '"jsonl"\n', 1).replace("max_query_tokens = 6\ndoc_stride_tokens = 5\n", "")
    for extra, wanted in (("", 45), ("max_answer_tokens = 7\n", 7)):
        training = job_from_config(kind.config(tables + extra, max_length=80))
        assert training.trained.tasks["reading"].decode.max_answer_tokens == wanted
