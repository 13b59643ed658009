"""`/openapi.json` is the checked-in description, and what the server answers fits it."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from palm_serve.http.openapi import openapi

GOLDEN = Path(__file__).with_name("openapi.json")
CONTENT = {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["fly to boston", "hello"]}]}


def test_description_is_the_golden_one(door):
    assert json.loads(GOLDEN.read_text(encoding="utf-8")) == openapi(), (
        "write the file again: json.dumps(palm_serve.http.openapi.openapi(), indent=1)"
    )
    response = door.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == openapi()
    assert openapi()["openapi"].startswith("3.1")


def test_every_schema_is_valid_and_every_reference_leads_to_one():
    document = openapi()
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for part in json.dumps(document).split('"$ref": "')[1:]:
        name = part.partition('"')[0]
        assert name.removeprefix("#/components/schemas/") in document["components"]["schemas"], name


def validate(path, method, status, content):
    """Check a response against the description."""
    document = openapi()
    responses = document["paths"][path][method]["responses"]
    schema = responses.get(str(status), responses["default"])["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": document["components"]}).validate(content)


@pytest.mark.parametrize("method_path", [(m, p) for p, methods in openapi()["paths"].items() for m in methods])
def test_answers_of_every_route_fit_their_schema(door, method_path):
    method, path = method_path
    bodies = {
        "/model/parse": [{"text": "fly to boston on monday"}, {"text": 1}, {}],
        "/hf/text-classification": [{"inputs": "hello"}, {"inputs": ["a", "b"]}, {"inputs": None}],
        "/hf/token-classification": [{"inputs": "boston"}, {"inputs": ["boston", "hello"]}, {}],
        "/v2/models/{model}/infer": [CONTENT, {}, {"inputs": []}],
    }
    for model, body in [(name, body) for name in ("tiny", "nosuch") for body in bodies.get(path, [None])]:
        response = door.client.request(method, path.replace("{model}", model), json=body)
        assert response.status_code < 500 or path.endswith("/ready")
        validate(path, method, response.status_code, response.json())
