"""Rasa's own HTTP interpreter, which Rasa asks with `nlu: {url: ...}`, and the whole tool `rasa-model-report`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from palm_serve.rpc.access.tokens import new_token
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.run import train

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]

RASA = "rasa==3.6.21"
NEEDED = (
    *("aiogram<2.26", "aiohttp<3.10", "attrs<22.2", "cachecontrol<0.13", "colorclass<2.3", "coloredlogs<16"),
    *(
        "colorhash<1.3",
        "fbmessenger<6.1",
        "google-auth<3",
        "jsonpickle<3.1",
        "jsonschema<4.18",
        "mattermostwrapper<2.3",
    ),
    *("networkx<2.7", "numpy<1.25", "packaging<21", "pluggy<2", "portalocker<3", "prompt-toolkit<3.0.29", "PyJWT<3"),
    *(
        "pykwalify<1.9",
        "python-dateutil<2.9",
        "python-engineio<6",
        "python-socketio<6",
        "pytz<2023",
        "questionary<1.11",
    ),
    *("randomname<0.2", "regex<2022.11", "requests<3", "rocketchat_API<1.31", "ruamel.yaml<0.17.22", "sanic==21.12.2"),
    *("sanic-routing<0.8", "scipy<1.11", "setuptools<70.4", "slack-sdk<4", "SQLAlchemy<1.5", "structlog<24"),
    *("tarsafe<0.0.5", "terminaltables", "tqdm", "twilio<8.3", "typing-utils", "ujson", "webexteamssdk<1.7"),
    "websockets<11",
)
"""What `rasa.core.http_interpreter` imports. Rasa itself requires TensorFlow, too, of which it needs nothing there."""

INTERPRETER = r"""
import asyncio, json, sys
from rasa.core.channels import UserMessage
from rasa.core.http_interpreter import RasaNLUHttpInterpreter
from rasa.utils.endpoints import EndpointConfig, read_endpoint_config

url, file, token = sys.argv[1:]
texts = json.load(open(file, encoding="utf-8"))

async def main():
    is_file = url.endswith(".yml")
    endpoint = read_endpoint_config(url, "nlu") if is_file else EndpointConfig(url, token=token or None)
    interpreter = RasaNLUHttpInterpreter(endpoint)
    answers = []
    for number, text in enumerate(texts):
        answers.append(await interpreter.parse(UserMessage(text, sender_id=f"sender {number}")))
    await interpreter.session.close()
    print(json.dumps(answers))

asyncio.run(main())
"""

SMALL = """
[encoder]
model = "scratch"
max_length = 32
layers = 1
hidden_size = 32
heads = 2
[tasks.intent]
kind = "classify"
role = "intent"
data = ["demo"]
[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["demo"]
[train]
epochs = 8
batch_size = 16
learning_rate = 3e-3
head_learning_rate = 6e-3
precision = "fp32"
output = "unused"
[data.demo]
format = "rasa"
dev_share = 0.1
"""


@pytest.fixture(scope="module")
def interpreter(environments):
    """Return the Python with Rasa. Rasa needs Python 3.10 or older."""
    return environments.make_environment("rasa", NEEDED, alone=[RASA], version="3.10", constrained=False)


def test_interpreter_of_rasa_gets_the_answers_of_grpc(environments, interpreter, door, texts, text_file, ask):
    answers = environments.run_python(interpreter, INTERPRETER, door.url, text_file, "")
    stripped = [text.strip() for text in texts]  # as Rasa's `UserMessage` does
    for text, answer, expected in zip(stripped, answers, ask(stripped, top_k=10), strict=True):
        ranking = [{"name": label.name, "confidence": label.confidence} for label in expected.ranking]
        assert (answer["text"], answer["intent"], answer["intent_ranking"]) == (text, ranking[0], ranking)
        assert len(answer["entities"]) == len(expected.slots)
        for entity, slot in zip(answer["entities"], expected.slots, strict=True):
            assert text[entity["start"] : entity["end"]] == entity["value"] == slot.value
            assert (entity["entity"], entity["confidence_entity"]) == (slot.name, slot.confidence)


def test_endpoints_of_the_example_bot_reach_the_server(environments, interpreter, door, tmp_path):
    example = (ROOT / "examples" / "rasa_bot" / "endpoints.yml").read_text(encoding="utf-8")
    endpoints = tmp_path / "endpoints.yml"
    endpoints.write_text(example.replace(":8080", f":{door.port}"), encoding="utf-8")
    texts = tmp_path / "texts.json"
    texts.write_text('["hello"]')
    (answer,) = environments.run_python(interpreter, INTERPRETER, endpoints, texts, "")
    assert answer["intent"]["name"] == "greeting"


def test_token_of_endpoints_yml_is_taken(environments, interpreter, make_door, tmp_path):
    token, digest = new_token()
    file = tmp_path / "tokens.toml"
    file.write_text(f'[tokens.bot]\nsha256 = "{digest}"\nscopes = ["parse"]\n')
    door = make_door("--tokens", file)
    texts = tmp_path / "texts.json"
    texts.write_text('["hello"]')
    (known,) = environments.run_python(interpreter, INTERPRETER, door.url, texts, token)
    (unknown,) = environments.run_python(interpreter, INTERPRETER, door.url, texts, "")
    assert known["intent"]["name"] == "greeting"
    assert unknown == {"intent": {"name": "", "confidence": 0.0}, "entities": [], "text": ""}


@pytest.fixture(scope="module")
def financial_demo(palm_data, tmp_path_factory):
    """Return a run and its bundle, which learnt the data of Rasa's financial demo, and a project with these data."""
    folder = tmp_path_factory.mktemp("financial_demo")
    project = folder / "project"
    (project / "data").mkdir(parents=True)
    (project / "results").mkdir()
    source = palm_data / "rasa_financial_demo"
    shutil.copy(source / "nlu.yml", project / "data")
    for name in ("config.yml", "domain.yml"):
        shutil.copy(source / name, project)
    config = folder / "small.toml"
    config.write_text(SMALL + f'train = "{source / "nlu.yml"}"\n', encoding="utf-8")
    for _ in train(load_config(config, output=folder / "run")):
        pass
    export = "from palm_trainer.cli.export import main; main()"
    command = [sys.executable, "-c", export, folder / "run", "--output", folder / "bundle"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder / "run", folder / "bundle", project


SENTENCES = r"""
import json, sys
from rasa_model_report.controllers.nlu_controller import NluController

tool = NluController(sys.argv[1], sys.argv[1], "demo", "1", disable_nlu=True)
rows = []
for intent, texts in tool._load_nlu().items():
    rows += [[intent, tool.remove_entities_from_text(text)] for text in texts]
print(json.dumps(rows))
"""
"""The sentences of a project as the tool sends them, and their intents."""


def test_whole_report_of_rasa_model_report(environments, start_server, financial_demo):
    python = environments.make_environment("rasa-model-report", ["rasa-model-report==1.5.0"], constrained=False)
    run, bundle, project = financial_demo
    process = start_server(bundle, "--http-port", "0", "--drain-grace", "0", "--provider", "CPU", "--precision", "fp32")
    url = process.wait_for(r"listening on (http://\S+)$")
    process.target()
    command = [python.with_name("rasa-model-report"), "--path", project, "--output-path", project, "--rasa-api", url]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Script successfully completed." in done.stderr
    assert "## NLU" in (project / "model_report.md").read_text(encoding="utf-8")
    overview = json.loads((project / "results" / "overview.json").read_text(encoding="utf-8"))
    rows = environments.run_python(python, SENTENCES, project)
    assert len(rows) > 400
    predictor = Predictor(load_trained(run))
    answers = predictor.answers([Example(text) for _, text in rows])
    right = 0
    for (intent, _), answer in zip(rows, answers, strict=True):
        right += answer["intent"].label.name == intent
    assert right > len(rows) / 4  # it has learnt something
    assert overview["nlu"] == pytest.approx(right / len(rows))
