"""The pipeline answers texts with one bundle on one engine."""

import json
import weakref

import numpy as np
import pytest

from palm_serve.batching import BatchLimits
from palm_serve.bundle.loader import load_bundle
from palm_serve.engine.providers import select_engine
from palm_serve.errors import BundleError, InvalidRequest
from palm_serve.pipeline import Pipeline
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import EngineInfo, TextRequest


class CountingEngine:
    """Counts runs, and buckets shapes on request."""

    def __init__(self, engine, bucket=False):
        self._engine, self._bucket = engine, bucket
        self.info: EngineInfo = engine.info
        self.shapes, self.outputs = [], []

    def run(self, batch, outputs=None):
        self.shapes.append(batch.arrays["input_ids"].shape)
        self.outputs.append(outputs)
        return self._engine.run(batch, outputs)

    def shape(self, rows, length):
        return (8, -(-length // 16) * 16) if self._bucket else (rows, length)


def open_pipeline(path, bucket=False):
    bundle = load_bundle(path)
    engine = CountingEngine(select_engine(bundle, "CPU"), bucket)
    return Pipeline(bundle, engine), engine


@pytest.fixture(scope="module")
def pipeline(tiny_bundle):
    return open_pipeline(tiny_bundle)[0]


def ask(pipeline, text, *tasks, **options):
    return pipeline.predict([TextRequest(text, tasks, **options)])[0]


def labels(prediction):
    slots = [(span.name, span.value) for span in prediction.answers["slots"].spans]
    return prediction.answers["intent"].label.name, slots, prediction.answers["sentiment"].label.name


def test_predict_answers_all_tasks_on_one_text(pipeline):
    answer = ask(pipeline, "Please show me FLIGHTS from Boston, to New York on Monday!")
    assert labels(answer) == ("flight", [("city", "Boston"), ("city", "New York"), ("day", "Monday")], "positive")
    assert not answer.truncated
    assert answer.seen == 58
    assert answer.timings.batch_size == 1
    assert answer.timings.inference_us > 0


def test_run_of_several_tasks_runs_the_graph_once(tiny_bundle):
    pipeline, engine = open_pipeline(tiny_bundle)
    works = [
        pipeline.prepare(TextRequest("fly to denver", tasks)) for tasks in ((), ("intent",), ("slots", "sentiment"))
    ]
    answers = pipeline.run(works)
    assert len(engine.shapes) == 1
    assert [sorted(answer.answers) for answer in answers] == [
        ["intent", "sentiment", "slots"],
        ["intent"],
        ["sentiment", "slots"],
    ]
    assert answers[0].answers["intent"] == answers[1].answers["intent"]
    assert answers[0].answers["slots"] == answers[2].answers["slots"]


def test_predict_of_one_task_runs_only_its_outputs(tiny_bundle):
    pipeline, engine = open_pipeline(tiny_bundle)
    ask(pipeline, "fly to denver", "intent")
    assert engine.outputs == [["intent.logits"]]


@pytest.mark.parametrize("bucket", [False, True])
def test_batch_answers_as_its_rows_do_alone(tiny_bundle, bucket):
    pipeline, engine = open_pipeline(tiny_bundle, bucket)
    texts = [
        "hi",
        "北京",
        "play a song by adele please",
        "is it awful in new york next week?",
        "zzz",
        "👍🏽",
        "a " * 40,
    ]
    together = pipeline.predict([TextRequest(text, ()) for text in texts])
    for text, answer in zip(texts, together, strict=True):
        single = ask(pipeline, text)
        assert labels(single) == labels(answer)
        assert single.answers["intent"].label.confidence == pytest.approx(
            answer.answers["intent"].label.confidence, abs=1e-5
        )
        assert (single.truncated, single.seen) == (answer.truncated, answer.seen)
    if bucket:
        assert {rows for rows, _ in engine.shapes} == {8}
        assert {length for _, length in engine.shapes} <= {16, 24}, "never longer than the model takes"


def test_long_text_is_cut_and_marked_truncated(pipeline):
    text = "boston " * 30
    answer = ask(pipeline, text)
    assert answer.truncated
    assert answer.seen == 22 * 7 - 1
    assert answer.answers["slots"].spans[-1].end <= answer.seen


@pytest.mark.parametrize("text", ["\u200b", "\u0301", "\x00"])
def test_text_without_tokens_is_answered(pipeline, text):
    assert labels(ask(pipeline, text))[1] == []


def test_top_k_limits_the_ranking(pipeline):
    assert [len(ask(pipeline, "hi", top_k=k).answers["intent"].ranking) for k in (1, 3, 0)] == [1, 3, 4]


def test_predict_keeps_the_order_over_many_batches(tiny_bundle):
    pipeline, engine = open_pipeline(tiny_bundle)
    texts = ["boston " * (1 + i % 9) for i in range(50)]
    answers = pipeline.predict([TextRequest(text, ("slots",)) for text in texts], BatchLimits(max_rows=7))
    assert [len(answer.answers["slots"].spans) for answer in answers] == [1 + i % 9 for i in range(50)]
    assert max(rows for rows, _ in engine.shapes) <= 7


@pytest.mark.parametrize(
    ("request_", "field", "message"),
    [
        (TextRequest("", ()), "text", "text must have at least one visible character"),
        (TextRequest(" \t\u3000", ()), "text", "text must have at least one visible character"),
        (
            TextRequest("hi", ("intent", "mood")),
            "tasks",
            "model 'tiny' has no task 'mood'; it has: intent, slots, sentiment",
        ),
        (TextRequest("hi", ("intent",), pair="ho"), "text_pair", "task 'intent' reads one text"),
        (TextRequest("hi", (), pair="ho"), "tasks", "name the task"),
    ],
)
def test_predict_of_an_invalid_request_names_the_field(pipeline, request_, field, message):
    with pytest.raises(InvalidRequest, match=message) as refusal:
        pipeline.predict([request_])
    assert refusal.value.field == field


def test_prepare_many_returns_the_error_of_one_request(pipeline):
    first, invalid, last = pipeline.prepare_many([TextRequest("hi", ()), TextRequest("", ()), TextRequest("fly", ())])
    assert isinstance(invalid, InvalidRequest)
    assert [work.request.text for work in (first, last)] == ["hi", "fly"]


def test_prepare_of_a_pair_task_needs_a_pair(tmp_path, make_tiny_bundle, reseal_bundle):
    path = make_tiny_bundle(tmp_path / "b")
    tasks = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["tasks"]
    tasks["sentiment"]["decode"]["pairs"] = True
    pipeline = Pipeline(load_bundle(reseal_bundle(path, tasks=tasks)), CountingEngine(NoGraph()))
    with pytest.raises(InvalidRequest, match="task 'sentiment' reads a text and its pair, and the request has no pair"):
        pipeline.prepare(TextRequest("hi", ("sentiment",)))
    work = pipeline.prepare(TextRequest("hi", ("sentiment",), pair="great"))
    assert 1 in work.encoding.segments
    assert pipeline.prepare(TextRequest("hi", ())).tasks == ("intent", "slots")


class NoGraph:
    info = EngineInfo("none", "fp32", "plain")


def test_golden_check_of_a_good_bundle_counts_examples(pipeline):
    assert pipeline.golden_check() == 3


@pytest.mark.parametrize(
    ("task", "expected", "message"),
    [
        (
            "intent",
            {"label": "music"},
            "for 'hi' the task 'intent' answers 'greeting', the export saw 'music'; export again",
        ),
        (
            "slots",
            {"spans": [{"name": "city", "start": 0, "end": 2}]},
            r"the task 'slots' answers no spans, the export saw city\[0:2\]",
        ),
    ],
)
def test_golden_check_of_a_different_answer_raises(tmp_path, make_tiny_bundle, reseal_bundle, task, expected, message):
    path = make_tiny_bundle(tmp_path / "b")
    lines = [{"text": "fly", "answers": {"intent": {"label": "flight"}}}, {"text": "hi", "answers": {task: expected}}]
    (path / "golden.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with pytest.raises(BundleError, match=r"the golden check failed on CPU in fp32: .*" + message):
        open_pipeline(reseal_bundle(path))[0].golden_check()


def test_golden_check_of_an_invalid_example_raises(tmp_path, make_tiny_bundle, reseal_bundle):
    path = make_tiny_bundle(tmp_path / "b")
    (path / "golden.jsonl").write_text('{"text": " ", "answers": {"intent": {"label": "x"}}}', encoding="utf-8")
    with pytest.raises(
        BundleError,
        match=r"golden\.jsonl holds an example that cannot be asked: text must have at least one visible character",
    ):
        open_pipeline(reseal_bundle(path))[0].golden_check()


def test_warm_up_runs_the_shapes_within_its_budget(tiny_bundle):
    pipeline, engine = open_pipeline(tiny_bundle)
    runs = []
    count = pipeline.warm_up(BatchLimits(max_rows=8), budget_s=60, observe=lambda *run: runs.append(run))
    assert count == len(set(engine.shapes)) == len(runs)
    assert len(engine.shapes) == 2 * count, "the first run of a shape may compile, the second is timed"
    assert [tokens for tokens, _ in runs] == sorted(tokens for tokens, _ in runs)
    assert all(seconds > 0 for _, seconds in runs)
    assert {(1, 8), (8, 24)} <= set(engine.shapes)
    assert pipeline.warm_up(BatchLimits(), budget_s=0) == 0


def test_predict_without_type_ids_answers(tmp_path, make_tiny_bundle):
    pipeline, _ = open_pipeline(make_tiny_bundle(tmp_path / "b", token_types=False))
    assert labels(ask(pipeline, "hi"))[0] == "greeting"
    assert np.isfinite(ask(pipeline, "hi").answers["intent"].label.confidence)


def test_versions_share_a_tokenizer_while_one_is_loaded(tiny_bundle):
    """Reading a tokenizer holds the interpreter's lock, so a swap of a version would delay every call."""
    bundle = load_bundle(tiny_bundle)
    engine = select_engine(bundle, "CPU")
    first, second = Pipeline(bundle, engine), Pipeline(load_bundle(tiny_bundle), engine)
    assert first._rows._tokenizer is second._rows._tokenizer
    seven, again = (TextTokenizer.shared(bundle.tokenizer_json, 7) for _ in range(2))
    assert seven is again
    assert seven.max_length == 7, "another length is another tokenizer"
    reference = weakref.ref(seven)
    del seven, again
    assert reference() is None, "nothing else keeps it"
