"""A bundle whose slots are decoded given the intent: the pipeline, a real server, and bundles that do not fit."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper

from palm_serve.bundle.loader import load_bundle
from palm_serve.bundle.manifest import TaskInfo, tasks_digest
from palm_serve.client import Client
from palm_serve.engine.providers import select_engine
from palm_serve.errors import BundleError
from palm_serve.pipeline import Pipeline
from palm_serve.types import TextRequest
from palm_serve.v1 import palm_pb2 as pb

GIVEN = {"flight": ("city", "day"), "weather": ("city", "day"), "music": ("artist",), "greeting": ("city",)}
TEXT = "play the song in boston"


@pytest.fixture
def make_bundle(make_tiny_bundle, reseal_bundle, tmp_path):
    """Return `make_bundle(**thresholds)`: the tiny bundle, whose slots are decoded given its intent."""

    def make(given="intent", allowed=None, **thresholds):
        path = make_tiny_bundle(tmp_path / "tiny")
        content = json.loads((path / "manifest.json").read_text())
        tasks = content["tasks"]
        tasks["intent"]["thresholds"].update(thresholds)
        decode = tasks["slots"]["decode"]
        decode["given"] = given
        decode["arrays"]["given"] = "slots.given"
        tags = tasks["slots"]["labels"]
        if allowed is None:
            rows = []
            for label in tasks["intent"]["labels"]:
                rows.append([tag == "O" or tag[2:] in GIVEN[label] for tag in tags])
            allowed = np.array(rows, np.float32)
        arrays = dict(np.load(path / "decode.npz"))
        np.savez(path / "decode.npz", **arrays, **{"slots.given": allowed})
        graph = onnx.load(path / "model.onnx")
        infos = {name: TaskInfo.model_validate(task) for name, task in tasks.items()}
        helper.set_model_props(graph, {"palm.digest": tasks_digest(infos, (path / "tokenizer.json").read_bytes())})
        onnx.save(graph, path / "model.onnx")
        return reseal_bundle(path, tasks=tasks)

    return make


def open_pipeline(path):
    bundle = load_bundle(path)
    return Pipeline(bundle, select_engine(bundle, "CPU"))


def spans(prediction):
    return [(span.name, span.value) for span in prediction.answers["slots"].spans]


def test_slots_alone_are_decoded_given_the_intent(make_bundle, tiny_bundle):
    [plain] = open_pipeline(tiny_bundle).predict([TextRequest(TEXT, ("slots",))])
    assert spans(plain) == [("city", "boston")]
    pipeline = open_pipeline(make_bundle())
    [alone] = pipeline.predict([TextRequest(TEXT, ("slots",))])
    assert spans(alone) == []
    assert alone.answers.keys() == {"slots"}
    [together] = pipeline.predict([TextRequest(TEXT, ())])
    assert together.answers.keys() == {"intent", "slots", "sentiment"}
    assert together.answers["intent"].label.name == "music"
    assert together.answers["slots"] == alone.answers["slots"]


def test_requests_for_other_tasks_share_a_batch(make_bundle):
    """Each row has the mask of its own intent, whoever asked for the intent."""
    pipeline = open_pipeline(make_bundle())
    texts = (TEXT, "fly to boston on monday", "hello boston", "the rain in boston next week")
    tasks = (("slots",), ("sentiment",), ("slots", "sentiment"), ("intent", "slots"))
    requests = [TextRequest(text, names) for text, names in zip(texts, tasks, strict=True)]
    together = pipeline.run([pipeline.prepare(request) for request in requests])
    alone = [pipeline.run([pipeline.prepare(request)])[0] for request in requests]
    for request, one, other in zip(requests, together, alone, strict=True):
        assert one.answers.keys() == other.answers.keys() == {*request.tasks}
    assert [spans(together[i]) for i in (0, 2, 3)] == [spans(alone[i]) for i in (0, 2, 3)]
    assert spans(together[2]) == [("city", "boston")]
    assert spans(together[3]) == [("city", "boston"), ("day", "next week")]


def test_only_thresholds_of_the_manifest_switch_it_off(make_bundle):
    pipeline = open_pipeline(make_bundle(intent_confidence=0.999))
    [prediction] = pipeline.predict([TextRequest(TEXT, ("slots",), top_k=1)])
    assert spans(prediction) == [("city", "boston")]


def test_a_server_answers_as_the_pipeline(make_bundle, start_server):
    path = make_bundle()
    [expected] = open_pipeline(path).predict([TextRequest(TEXT, ("slots",))])
    target = start_server(path, "--provider", "CPU", "--log-level", "error").target()
    with Client(target) as client:
        parsed = client.parse(TEXT)
        only_slots = client.parse(TEXT, tasks=["slots"])
        predicted = client.predict("slots", TEXT)
        lenient = client.parse(TEXT, thresholds=pb.Thresholds(intent_confidence=1.0))
        [model] = client.models()
    assert parsed.intent.name == "music"
    assert [(span.name, span.value) for span in parsed.slots] == spans(expected)
    assert only_slots.slots == parsed.slots
    assert not only_slots.HasField("intent")
    assert predicted.result.spans.spans == parsed.slots
    assert lenient.fallback.triggered
    assert lenient.slots == parsed.slots  # thresholds of a request change no answer
    assert [task.name for task in model.tasks] == ["intent", "slots", "sentiment"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"given": "nothing"}, "given 'nothing', none; export again"),
        ({"given": "slots"}, "given 'slots', one of kind 'sequence_label'; export again"),
        ({"given": "sentiment"}, r"classes of 'sentiment' and its tags, \(2, 7\), got the shape \(4, 7\)"),
        ({"allowed": np.ones((4, 6), np.float32)}, r"\(4, 7\), got the shape \(4, 6\); export again"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused(make_bundle, changes, message):
    with pytest.raises(BundleError, match=message):
        open_pipeline(make_bundle(**changes))
