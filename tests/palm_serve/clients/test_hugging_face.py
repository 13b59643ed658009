"""`huggingface_hub.InferenceClient`: text and token classification as gRPC answers."""

import pytest

pytestmark = pytest.mark.slow

SCRIPT = r"""
import json, os, sys
del os.environ["HF_HUB_OFFLINE"]  # of the tests here
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

url, file = sys.argv[1:]
texts = json.load(open(file, encoding="utf-8"))
classifier = InferenceClient(model=url + "/hf/text-classification")
tagger = InferenceClient(model=url + "/hf/token-classification?model=tiny")
labels, spans = [], []
for text in texts:
    labels.append([[one.label, one.score] for one in classifier.text_classification(text)])
    found = tagger.token_classification(text)
    assert all(text[one.start : one.end] == one.word for one in found), text
    spans.append([[one.entity_group, one.start, one.end, one.word, one.score] for one in found])
top = classifier.text_classification(texts[0], top_k=1)
sentiment = InferenceClient(model=url + "/hf/text-classification?task=sentiment").text_classification("please")
try:
    classifier.text_classification(" ")
except HfHubHTTPError as error:
    fault = [error.response.status_code, str(error)]
print(json.dumps({"labels": labels, "spans": spans, "top": len(top), "sentiment": sentiment[0].label, "fault": fault}))
"""


def test_inference_client_gets_the_answers_of_grpc(environments, door, texts, text_file, ask):
    python = environments.make_environment("huggingface_hub", ["huggingface_hub==2.4.0"])
    found = environments.run_python(python, SCRIPT, door.url, text_file)
    answers = ask(texts, top_k=99)
    rankings = [[[label.name, label.confidence] for label in answer.ranking] for answer in answers]
    assert found["labels"] == rankings
    slots = []
    for answer in answers:
        slots.append([[slot.name, slot.start, slot.end, slot.value, slot.confidence] for slot in answer.slots])
    assert found["spans"] == slots
    assert sum(map(len, slots)) > 50
    assert (found["top"], found["sentiment"]) == (1, "positive")
    status, message = found["fault"]
    assert status == 400
    assert "visible character" in message
