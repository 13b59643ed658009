"""Text and token classification as Hugging Face's inference API, with its own client."""

import grpc
import pytest
from huggingface_hub import InferenceClient, constants

from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

TEXTS = [
    "fly from boston to new york on monday",
    "hello",
    "\N{GRINNING FACE} in 北京 on monday",
    "e\u0301 مرحبا boston",
]


def parse(door, text, **fields):
    with grpc.insecure_channel(door.target) as channel:
        return stubs.DialogueUnderstandingStub(channel).Parse(pb.ParseRequest(text=text, **fields))


def pairs(labels):
    return [(label["label"], label["score"]) for label in labels]


def test_inference_client_reads_both_routes(door, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # it calls this machine only
    texts = InferenceClient(model=f"{door.url}/hf/text-classification", timeout=60)
    tokens = InferenceClient(model=f"{door.url}/hf/token-classification", timeout=60)
    for text in TEXTS:
        expected = parse(door, text, top_k=4)
        labels = texts.text_classification(text)
        assert [(label.label, label.score) for label in labels] == [
            (label.name, label.confidence) for label in expected.ranking
        ]
        assert len(texts.text_classification(text, top_k=2)) == 2
        entities = tokens.token_classification(text)
        assert [(entity.entity_group, entity.word, entity.score) for entity in entities] == [
            (slot.name, slot.value, slot.confidence) for slot in expected.slots
        ]
        assert all(text[entity.start : entity.end] == entity.word for entity in entities)


def test_several_texts_are_answered_in_order(door):
    answers = door.post("/hf/text-classification", {"inputs": TEXTS, "parameters": {"top_k": 1}}).json()
    assert [labels[0]["label"] for labels in answers] == [parse(door, text).intent.name for text in TEXTS]
    answers = door.post(
        "/hf/token-classification", {"inputs": TEXTS, "parameters": {"aggregation_strategy": "simple"}}
    ).json()
    assert [[entity["word"] for entity in entities] for entities in answers] == [
        [slot.value for slot in parse(door, text).slots] for text in TEXTS
    ]
    assert door.post("/hf/token-classification", {"inputs": []}).json() == []
    (labels,) = door.post("/hf/text-classification", {"inputs": "hello"}).json()
    assert len(labels) == 4


def test_task_of_the_query_answers(door):
    (labels,) = door.post(
        "/hf/text-classification?task=sentiment&model=tiny&version=stable", {"inputs": "awful"}
    ).json()
    assert [label["label"] for label in labels] == ["negative", "positive"]
    assert door.post("/hf/token-classification?task=slots", {"inputs": "boston"}).json()[0]["entity_group"] == "city"


@pytest.mark.parametrize(
    ("path", "content", "status", "message"),
    [
        ("text-classification", {}, 400, "inputs"),
        ("text-classification", {"inputs": 3}, 400, "inputs"),
        ("text-classification", {"inputs": ""}, 400, "text must have"),
        ("text-classification", {"inputs": ["hello", " "]}, 400, "text must have"),
        ("text-classification", {"inputs": "a", "parameters": {"top_k": 0}}, 400, "top_k"),
        ("text-classification", {"inputs": ["a"] * 1025}, 400, "at most 1,024 items"),
        ("text-classification?task=slots", {"inputs": "a"}, 400, "classifier of texts"),
        ("text-classification?task=nosuch", {"inputs": "a"}, 400, "unknown task 'nosuch'"),
        ("text-classification?model=nosuch", {"inputs": "a"}, 404, "no model 'nosuch'"),
        ("token-classification?task=intent", {"inputs": "a"}, 400, "finds spans"),
        ("token-classification?task=sentiment", {"inputs": "a"}, 400, "finds spans"),
        ("token-classification", {"inputs": "a" * 10_001}, 400, "at most 10,000 bytes"),
    ],
)
def test_errors_are_told(door, path, content, status, message):
    response = door.post(f"/hf/{path}", content)
    assert response.status_code == status
    assert message in response.json()["error"]
