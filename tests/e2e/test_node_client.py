"""A client in another language: Node, with @grpc/grpc-js, @grpc/proto-loader and the project's .proto."""

import json
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from palm_serve.errors import Overloaded
from palm_serve.rpc.messages.status import failure
from palm_serve.v1 import palm_pb2 as pb

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLE, PROTO = ROOT / "examples" / "node_client", ROOT / "protos" / "palm_serve" / "v1" / "palm.proto"
OPEN_INFERENCE = ROOT / "protos" / "palm_serve" / "oip" / "inference.proto"
NO_NETWORK = ("ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT", "ENOTCACHED")

SCENARIO = r"""
const { connect, parse } = require("./client.js");
const [target, proto] = process.argv.slice(2);
const client = connect(target, proto);
const call = (method, request) => new Promise((resolve) => {
  const trailers = {};
  client[method](request, (error, answer) => resolve({ code: error ? error.code : 0, details: error?.details, answer }))
    .on("status", (status) => Object.assign(trailers, status.metadata.getMap()));
});
const stream = (requests) => new Promise((resolve, reject) => {
  const ids = [];
  const opened = client.ParseStream();
  opened.on("data", (item) => ids.push([item.request_id, item.outcome]));
  opened.on("end", () => resolve(ids.sort())).on("error", reject);
  for (const request of requests) opened.write(request);
  opened.end();
});
(async () => {
  const text = "😀🇨🇳 fly from boston to 北京 👩‍👩‍👧 on monday";
  const answer = await parse(client, text);
  const slices = answer.slots.map((slot) => [slot.name, slot.value, text.slice(slot.start, slot.end)]);
  const batch = await call("ParseBatch", { requests: [{ text: "play a song" }, { text: "" }] });
  const blank = await call("Parse", { text: " " });
  const streamed = await stream([{ text: "hello", request_id: "a" }, { text: "", request_id: "b" }]);
  client.close();
  console.log(JSON.stringify({
    intent: answer.intent.name, seen: answer.seen, length: text.length, slices,
    batch: batch.answer.items.map((item) => item.outcome), blank: [blank.code, blank.details], streamed,
  }));
})();
"""

INFERENCE = r"""
const grpc = require("@grpc/grpc-js");
const [target, proto] = process.argv.slice(2);
const { inference } = grpc.loadPackageDefinition(require("@grpc/proto-loader").loadSync(proto, { keepCase: true, defaults: true }));
const client = new inference.GRPCInferenceService(target, grpc.credentials.createInsecure());
const texts = ["\u{1F600} fly from boston to \u5317\u4eac", "play a song"];
const input = (...given) => ({
  name: "text", datatype: "BYTES", shape: [given.length], contents: { bytes_contents: given.map((text) => Buffer.from(text)) },
});
const request = {
  inputs: [input(...texts)], outputs: [{ name: "intent.label" }, { name: "slots.json" }],
  parameters: { offset_unit: { string_param: "utf16" } },
};
client.ModelInfer(request, (error, answer) => {
  if (error) throw error;
  const [labels, slots] = answer.outputs.map((output) => output.contents.bytes_contents.map(String));
  const slices = slots.map((row, i) => JSON.parse(row).spans.map(({ start, end }) => texts[i].slice(start, end)));
  const stream = client.ModelStreamInfer();
  const streamed = [];
  stream.on("data", (item) => streamed.push([item.infer_response.id, item.error_message]));
  stream.on("end", () => {
    client.close();
    console.log(JSON.stringify({ labels, slices, streamed: streamed.sort() }));
  });
  stream.write({ id: "a", inputs: [input("hello")] });
  stream.write({ id: "b", inputs: [] });
  stream.end();
});
"""


TURNS = r"""
const { connect, turn } = require("./client.js");
const [target, proto, ...texts] = process.argv.slice(2);
const client = connect(target, proto);
(async () => {
  const acts = [];
  for (const text of texts) acts.push(await turn(client, text, { sessionId: "dialogue 7", deadlineMs: 5000 }));
  client.close();
  console.log(JSON.stringify(acts));
})();
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with its packages installed."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "client.js"):
        shutil.copy(EXAMPLE / name, folder)
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if installed.returncode and any(code in installed.stderr for code in NO_NETWORK):
        pytest.skip("npm cannot reach its registry")
    assert installed.returncode == 0, installed.stderr
    return folder


def node(project: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", *map(str, arguments)], cwd=project, capture_output=True, text=True, timeout=600)


def test_javascript_slices(project: Path, tiny_server: str) -> None:
    (project / "scenario.js").write_text(SCENARIO, encoding="utf-8")
    run = node(project, "scenario.js", tiny_server, PROTO)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["intent"] == "flight"
    assert result["slices"] == [[name, value, value] for name, value in SLOTS]
    assert result["seen"] == result["length"]
    assert result["batch"] == ["response", "error"]
    assert result["blank"] == [3, "text must have at least one visible character, got a blank text. Send some text."]
    assert result["streamed"] == [["a", "response"], ["b", "error"]]


SLOTS = [("city", "boston"), ("city", "北京"), ("day", "monday")]


def test_the_example(project: Path, tiny_server: str) -> None:
    run = node(project, "client.js", "fly from boston to denver", tiny_server, PROTO)
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    assert lines[0][:2] == ["intent", "flight"]
    assert lines[1:] == [["slot", "city", "boston"], ["slot", "city", "denver"]]
    refused = node(project, "client.js", " ", tiny_server, PROTO)
    assert (refused.returncode, refused.stderr) == (
        1,
        "INVALID_ARGUMENT: text must have at least one visible character, got a blank text. Send some text.\n",
    )


def turns(project: Path, target: str, *texts: str) -> list[dict[str, object]]:
    (project / "turns.js").write_text(TURNS, encoding="utf-8")
    run = node(project, "turns.js", target, PROTO, *texts)
    assert run.returncode == 0, run.stderr
    acts: list[dict[str, object]] = json.loads(run.stdout)
    return acts


def test_turns(project: Path, tiny_server: str) -> None:
    flight, blank = turns(project, tiny_server, "fly to 北京", " ")
    assert flight == {"act": "flight", "slots": [["city", "北京"]]}
    assert blank == {"act": "ask_again"}


class Refusing(grpc.GenericRpcHandler):
    """Refuses so many calls, then answers all. Counts them and keeps their headers."""

    def __init__(self, refusals: int) -> None:
        self.left = refusals
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        self.times.append(time.monotonic())
        self.headers.append(dict(context.invocation_metadata()))
        if self.left:
            self.left -= 1
            failed = failure(Overloaded("full", 0.5), "r")
            context.set_trailing_metadata(failed.trailing_metadata())
            context.abort(failed.code, failed.message)
        return pb.ParseResponse(intent=pb.Label(name="flight", confidence=1)).SerializeToString()


def test_refusals_are_tried_again_when_the_server_says(project: Path) -> None:
    refusing = Refusing(1)
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=(refusing,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            assert turns(project, f"127.0.0.1:{port}", "fly")[0]["act"] == "flight"
            first, second = refusing.times
            assert second - first >= 0.5
            assert [headers["x-session-id"] for headers in refusing.headers] == ["dialogue 7"] * 2
            refusing.left = 9
            assert turns(project, f"127.0.0.1:{port}", "fly")[0]["act"] == "apologize"
        finally:
            server.stop(None).wait()


def test_open_inference_protocol(project: Path, tiny_server: str) -> None:
    (project / "inference.js").write_text(INFERENCE, encoding="utf-8")
    run = node(project, "inference.js", tiny_server, OPEN_INFERENCE)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["labels"] == ["flight", "music"]
    assert result["slices"] == [["boston", "北京"], []]
    missing = (
        "INVALID_ARGUMENT: the input 'text' is missing. Send it as BYTES of shape [n] or [n, 1], encoded as UTF-8."
    )
    assert result["streamed"] == [["a", ""], ["b", missing]]
