"""Context of a text: its rows, which tasks read it, and a real server."""

import json
import subprocess
import sys

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from palm_serve import Model
from palm_serve.bundle.loader import load_bundle
from palm_serve.bundle.manifest import TaskInfo, tasks_digest
from palm_serve.client import Client
from palm_serve.engine.providers import select_engine
from palm_serve.errors import InvalidRequest
from palm_serve.pipeline import Pipeline
from palm_serve.types import TextRequest, context_text
from palm_serve.v1 import palm_pb2 as pb

TEXT = "the new york"
TURNS = ["is the weather awful", "what is the weather"]


@pytest.fixture(scope="module")
def context_bundle(make_tiny_bundle, reseal_bundle, tmp_path_factory):
    """The tiny bundle, whose intent and slots read the context. Its sentiment does not."""
    path = make_tiny_bundle(tmp_path_factory.mktemp("context") / "tiny")
    content = json.loads((path / "manifest.json").read_text())
    tasks = content["tasks"]
    for name in ("intent", "slots"):
        tasks[name]["decode"]["context"] = True
    graph = onnx.load(path / "model.onnx")
    infos = {name: TaskInfo.model_validate(task) for name, task in tasks.items()}
    helper.set_model_props(graph, {"palm.digest": tasks_digest(infos, (path / "tokenizer.json").read_bytes())})
    onnx.save(graph, path / "model.onnx")
    return reseal_bundle(path, tasks=tasks)


@pytest.fixture(scope="module")
def context_pipeline(context_bundle):
    return open_pipeline(context_bundle)


def open_pipeline(path):
    bundle = load_bundle(path)
    return Pipeline(bundle, select_engine(bundle, "CPU"))


@pytest.mark.parametrize(
    ("turns", "slots", "expected"),
    [
        ([], [], ""),
        (["for when?"], [], "for when?"),
        (["book a table", "for how many?"], ["party_size"], "party size | for how many? | book a table"),
        ([" a\n b ", "  "], ["date.start", "_"], "date start | a b"),
    ],
)
def test_the_newest_turn_is_read_first(turns, slots, expected):
    assert context_text(turns, slots) == expected


def test_only_tasks_that_learnt_it_read_the_context(context_pipeline):
    context = context_text(TURNS)
    [plain, asked] = context_pipeline.predict([TextRequest(TEXT, ()), TextRequest(TEXT, (), context=context)])
    assert asked.answers["intent"].label.name == "weather"
    assert plain.answers["intent"].label != asked.answers["intent"].label
    assert asked.answers["sentiment"] == plain.answers["sentiment"]
    assert [span.value for span in asked.answers["slots"].spans] == ["new york"]
    for task in ("intent", "slots", "sentiment"):
        [alone] = context_pipeline.predict([TextRequest(TEXT, (task,), context=context)])
        assert describe(alone.answers[task]) == describe(asked.answers[task])


@given(
    asked=st.lists(
        st.tuples(
            st.sampled_from([TEXT, "play adele", "hello", "awful rain in boston on monday"]),
            st.sampled_from(["", "what is the weather", "great song | hi"]),
            st.lists(st.sampled_from(["intent", "slots", "sentiment"]), unique=True).map(tuple),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_requests_in_a_batch_are_answered_as_alone(context_pipeline, asked):
    requests = [TextRequest(text, tasks, context=context) for text, context, tasks in asked]
    together = context_pipeline.run([context_pipeline.prepare(request) for request in requests])
    for request, prediction in zip(requests, together, strict=True):
        [alone] = context_pipeline.run([context_pipeline.prepare(request)])
        assert prediction.answers.keys() == alone.answers.keys()
        for name, answer in alone.answers.items():
            assert describe(prediction.answers[name]) == describe(answer)


def describe(answer):
    """Return what is decided, without probabilities, which differ by rounding."""
    if hasattr(answer, "spans"):
        return [(span.name, span.start, span.end) for span in answer.spans]
    return answer.label.name


def test_a_bundle_without_it_ignores_the_context(tiny_bundle):
    with Model.open(tiny_bundle, provider="CPU") as model:
        plain = model.parse(TEXT)
        asked = model.parse(TEXT, context=pb.Context(turns=TURNS))
        plain.ClearField("timings")
        asked.ClearField("timings")
        plain.ClearField("request_id")
        asked.ClearField("request_id")
        assert asked == plain


@pytest.mark.parametrize(
    ("context", "field", "message"),
    [
        (pb.Context(turns=["hi"] * 65), "context.turns", "must have at most 64, got 65"),
        (pb.Context(requested_slots=["city"] * 65), "context.requested_slots", "must have at most 64, got 65"),
        (pb.Context(turns=["é" * 3_000, "é" * 3_000]), "context", "must have at most 10,000 bytes, got 12,000"),
    ],
)
def test_context_has_limits(context_bundle, context, field, message):
    with Model.open(context_bundle, provider="CPU") as model:
        with pytest.raises(InvalidRequest, match=message) as caught:
            model.parse(TEXT, context=context)
        assert caught.value.field == field


def test_a_server_reads_the_context(context_bundle, start_server):
    target = start_server(context_bundle, "--provider", "CPU", "--log-level", "error", "--keep-answers", "100").target()
    context = pb.Context(turns=TURNS, requested_slots=["city"])
    with Client(target) as client:
        plain = client.parse(TEXT)
        for _ in range(2):  # the second answer comes from the cache
            assert client.parse(TEXT, context=context).intent.name == "weather"
        assert client.parse(TEXT).intent == plain.intent
        assert client.predict("intent", TEXT, context=context).result.classification.label.name == "weather"
        batch = client.parse_batch([TEXT, "play adele"], context=context)
        assert [answer.intent.name for answer in batch] == ["weather", "weather"]
        [model] = client.models()
    assert {task.name: task.reads_context for task in model.tasks} == {
        "intent": True,
        "slots": True,
        "sentiment": False,
    }
    command = [sys.executable, "-m", "palm_serve.cli", "call", TEXT, "--target", target, "--json"]
    called = subprocess.run(
        [*command, "--context", TURNS[0], "--context", TURNS[1], "--requested-slot", "city"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(called.stdout)["intent"]["name"] == "weather"
