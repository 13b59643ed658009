"""`kserve`'s REST client: answers of gRPC, health of a server that drains."""

import signal

import pytest

pytestmark = pytest.mark.slow
PACKAGE = "kserve==0.21.0"

SCRIPT = r"""
import asyncio, json, logging, sys
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

logging.disable()
url, file = sys.argv[1:]
texts = json.load(open(file, encoding="utf-8"))
WANTED = ("intent.label", "intent.confidence", "slots.json")

def decoded(values):
    return [value.decode() if isinstance(value, bytes) else value for value in values]

async def main():
    seen = {"binary": {}, "json": {}}
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    seen["ready"] = [await client.is_server_live(url), await client.is_server_ready(url)]
    seen["models"] = [await client.is_model_ready(url, "tiny"), await client.is_model_ready(url, "x")]
    for begin in range(0, len(texts), 64):
        chunk = texts[begin : begin + 64]
        for form in ("binary", "json"):
            given = InferInput("text", [len(chunk)], "BYTES")
            given.set_data_from_numpy(np.array(chunk, dtype=object), binary_data=form == "binary")
            wanted = [RequestedOutput(name, {"binary_data": form == "binary"}) for name in WANTED]
            request = InferRequest("tiny", [given], request_id="r", request_outputs=wanted)
            answer = await client.infer(url, request, model_name="tiny")
            assert answer.id == "r"
            for output in answer.outputs:
                seen[form].setdefault(output.name, []).extend(decoded(output.as_numpy().reshape(-1).tolist()))
    try:
        await client.infer(url, request, model_name="nope")
    except Exception as fault:
        seen["unknown"] = [type(fault).__name__, str(fault)]
    await client.close()
    print(json.dumps(seen))

asyncio.run(main())
"""

READY = r"""
import asyncio, json, logging, sys
from kserve import InferenceRESTClient, RESTConfig

logging.disable()

async def main():
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    ready = [await client.is_server_live(sys.argv[1]), await client.is_model_ready(sys.argv[1], "tiny")]
    try:
        ready.append(await client.is_server_ready(sys.argv[1]))
    except Exception as error:  # how this client tells a server that is not ready
        ready.append(str(error.response.status_code))
    print(json.dumps(ready))
    await client.close()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def python(environments):
    return environments.make_environment("kserve", [PACKAGE], constrained=False)


def test_rest_client_gets_the_answers_of_grpc(environments, python, door, close, texts, text_file, ask):
    seen = environments.run_python(python, SCRIPT, door.url, text_file)
    assert (seen["ready"], seen["models"]) == ([True, True], [True, False])
    expected = ask(texts)
    for form in ("binary", "json"):
        assert seen[form]["intent.label"] == [answer.intent.name for answer in expected]
        assert close(seen[form]["intent.confidence"], [answer.intent.confidence for answer in expected])
    assert close(seen["binary"]["slots.json"], seen["json"]["slots.json"])
    assert "404" in seen["unknown"][1]


def test_draining_server_is_not_ready(environments, python, make_door):
    door = make_door("--drain-grace", "600")
    assert environments.run_python(python, READY, door.url) == [True, True, True]
    door.process.process.send_signal(signal.SIGTERM)
    door.process.wait_for("drain")
    assert environments.run_python(python, READY, door.url) == [True, False, "503"]
