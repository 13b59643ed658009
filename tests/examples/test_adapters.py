"""`examples/adapters/`: a real client of each protocol gets the intents and slots of a PALM server."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ADAPTERS = ROOT / "examples" / "adapters"
TEXT = "\N{GRINNING FACE} fly from boston to 北京"

_PATH = ROOT / "tests" / "palm_serve" / "conftest.py"
_spec = importlib.util.spec_from_file_location("palm_serve_fixtures", _PATH)
assert _spec is not None
assert _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

tiny_bundle = _fixtures.tiny_bundle
tiny_server = _fixtures.tiny_server

WYOMING = r"""
import asyncio, json, sys
from wyoming.asr import Transcript
from wyoming.client import AsyncClient
from wyoming.info import Describe, Info
from wyoming.intent import Recognize

uri, text = sys.argv[1:]

async def main():
    async with AsyncClient.from_uri(uri, connect_timeout=60, read_timeout=60) as client:
        async def ask(question):
            await client.write_event(question.event())
            return await client.read_event()

        (program,) = Info.from_event(await ask(Describe())).intent
        told = {"models": [[model.name, model.installed, model.languages] for model in program.models]}
        for name, question in {
            "transcript": Transcript(text, language="en", context={"id": "7"}),
            "recognize": Recognize(text),
            "blank": Recognize(" "),
        }.items():
            event = await ask(question)
            told[name] = [event.type, event.data]
    print(json.dumps(told))

asyncio.run(main())
"""

RIVA = r"""
import json, sys
import grpc
import riva.client
import riva.client.proto.riva_nlp_pb2 as messages

service = riva.client.NLPService(riva.client.Auth(uri=sys.argv[1]))
answer = service.analyze_intent(sys.argv[2], messages.AnalyzeIntentOptions(lang="en-US"))
told = {"intent": [answer.intent.class_name, answer.intent.score], "domain": answer.domain_str, "slots": []}
for slot in answer.slots:
    told["slots"].append([slot.label[0].class_name, slot.token, slot.span[0].start, slot.span[0].end])
ranking = riva.client.extract_all_text_classes_and_confidences(service.classify_text(["hello", "play a song"], "tiny"))
told["best"] = [names[0] for names in ranking[0]]
request = messages.AnalyzeIntentRequest(query="hello")
request.id.value = "r1"
told["id"] = service.stub.AnalyzeIntent(request).id.value
try:
    service.analyze_intent(" ")
except grpc.RpcError as error:
    told["blank"] = error.code().name
print(json.dumps(told))
"""


@pytest.fixture
def start_adapter(tiny_server: str) -> Iterator[Callable[..., str]]:
    """Return `start_adapter(NAME, *options, path=...)`: starts an adapter of the server, and returns its address."""
    running: list[subprocess.Popen[str]] = []

    def start(name: str, *options: str, path: str = "") -> str:
        command = [sys.executable, "-u", ADAPTERS / f"{name}.py", "--target", tiny_server, *options]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), path])}
        running.append(subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True, env=environment))
        line = running[-1].stdout.readline()
        found = re.search(r"listening on (\S+)", line)
        assert found, line
        return found[1]

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def test_wyoming(environments: ModuleType, start_adapter: Callable[..., str], tmp_path: Path) -> None:
    python = environments.make_environment("wyoming", ["wyoming==1.10.2"])
    (packages,) = python.parents[1].glob("lib/*/site-packages")
    uri = start_adapter("wyoming", "--uri", f"unix://{tmp_path / 'palm.sock'}", path=str(packages))
    while not (tmp_path / "palm.sock").exists():
        pass
    told: dict[str, Any] = environments.run_python(python, WYOMING, uri, TEXT)
    assert told["models"] == [["tiny", True, ["en"]]]
    entities = [{"name": "city", "value": "boston"}, {"name": "city", "value": "北京"}]
    answer = {"name": "flight", "entities": entities}
    assert told["transcript"] == ["intent", {**answer, "context": {"id": "7"}}]
    assert told["recognize"] == ["intent", answer]
    kind, content = told["blank"]
    assert kind == "not-recognized"
    assert "visible character" in content["text"]


def test_riva(environments: ModuleType, start_adapter: Callable[..., str]) -> None:
    python = environments.make_environment("riva", ["nvidia-riva-client==2.28.0"], constrained=False)
    told: dict[str, Any] = environments.run_python(python, RIVA, start_adapter("riva", "--port", "0"), TEXT)
    name, score = told["intent"]
    assert (name, told["domain"]) == ("flight", "tiny")
    assert 0.5 < score <= 1
    spans = [[name, token, TEXT[start : end + 1]] for name, token, start, end in told["slots"]]
    assert spans == [["city", "boston", "boston"], ["city", "北京", "北京"]]
    assert told["best"] == ["greeting", "music"]
    assert told["id"] == "r1"
    assert told["blank"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("name", ["riva", "wyoming"])
def test_adapter_is_short(name: str) -> None:
    assert len((ADAPTERS / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 120
