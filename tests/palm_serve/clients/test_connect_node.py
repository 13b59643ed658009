"""`@connectrpc/connect-node`: JSON and proto, POST and GET, Connect and gRPC-Web; offsets of JavaScript's strings; errors."""

import json

import pytest
from google.protobuf import descriptor_pb2, json_format
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from palm_serve.v1 import palm_pb2 as pb

pytestmark = pytest.mark.slow
PACKAGES = ("@connectrpc/connect@2.1.2", "@connectrpc/connect-node@2.1.2", "@bufbuild/protobuf@2.17.0")

CLIENTS = r"""
import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { compressionGzip, createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-node";

export const [descriptors, url, ...rest] = process.argv.slice(2);
export const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
export const service = (name) => registry.getService("palm_serve.v1." + name);
const common = { baseUrl: url, httpVersion: "1.1" };
const gzip = { sendCompression: compressionGzip, compressMinBytes: 1 };
export const transports = {
  "Connect proto": createConnectTransport({ ...common, useBinaryFormat: true }),
  "Connect JSON": createConnectTransport({ ...common, useBinaryFormat: false }),
  "Connect proto GET": createConnectTransport({ ...common, useBinaryFormat: true, useHttpGet: true }),
  "Connect JSON GET": createConnectTransport({ ...common, useBinaryFormat: false, useHttpGet: true }),
  "Connect proto gzip": createConnectTransport({ ...common, ...gzip, useBinaryFormat: true }),
  "Connect JSON gzip": createConnectTransport({ ...common, ...gzip, useBinaryFormat: false }),
  "gRPC-Web proto": createGrpcWebTransport({ ...common, useBinaryFormat: true }),
  "gRPC-Web proto gzip": createGrpcWebTransport({ ...common, ...gzip, useBinaryFormat: true }),
};
export const client = (name, transport) => createClient(service(name), transport);
export const json = (method, message) => toJson(method.output, message, { registry });
export async function fault(call) {
  try {
    await call();
  } catch (error) {
    const found = ConnectError.from(error);
    const retry = found.findDetails(registry.getMessage("google.rpc.RetryInfo"));
    const seconds = retry.map((one) => Number(one.retryDelay.seconds) + one.retryDelay.nanos / 1e9);
    return { code: Code[found.code], message: found.rawMessage, seconds, id: found.metadata.get("x-request-id") };
  }
}
"""

MATRIX = r"""
import { readFileSync } from "node:fs";
import { client, json, rest, service, transports } from "./clients.mjs";

const texts = JSON.parse(readFileSync(rest[0], "utf8"));
const UTF16 = 2;
const found = {};
for (const [name, transport] of Object.entries(transports)) {
  const dialogue = client("DialogueUnderstanding", transport);
  const ask = async (text) => {
    const headers = [];
    const answer = await dialogue.parse({ text, offsetUnit: UTF16, topK: 3 }, { onHeader: (one) => headers.push(one) });
    for (const slot of answer.slots) {
      if (text.slice(slot.start, slot.end) !== slot.value) throw new Error(name + ": " + text);
    }
    if (!headers[0].get("x-request-id")) throw new Error("no request id");
    return json(service("DialogueUnderstanding").method.parse, answer);
  };
  const answers = [];
  for (let begin = 0; begin < texts.length; begin += 32) {
    answers.push(...await Promise.all(texts.slice(begin, begin + 32).map(ask)));
  }
  const models = await client("Models", transport).listModels({});
  found[name] = { answers, models: models.models.map((model) => model.name) };
}
console.log(JSON.stringify(found));
"""

FAULTS = r"""
import { client, fault, transports } from "./clients.mjs";

// More work than a millisecond has room for: one short text is answered within it now and then.
const requests = Array.from({ length: 64 }, () => ({ text: "play ".repeat(200) }));
const found = {};
for (const [name, transport] of Object.entries(transports)) {
  const dialogue = client("DialogueUnderstanding", transport);
  const blank = await fault(() => dialogue.parse({ text: " " }));
  const unknown = await fault(() => dialogue.parse({ text: "a", model: "nope" }));
  const load = await fault(() => client("Models", transport).loadModel({ model: "tiny" }));
  const late = await fault(() => dialogue.parseBatch({ requests }, { timeoutMs: 1 }));
  found[name] = { blank, unknown, load, late };
}
console.log(JSON.stringify(found));
"""

OVERLOAD = r"""
import { client, fault, transports } from "./clients.mjs";

const found = {};
await client("DialogueUnderstanding", transports["Connect proto"]).parse({ text: "hello" });
for (const [name, transport] of Object.entries(transports)) {
  found[name] = await fault(() => client("DialogueUnderstanding", transport).parse({ text: "hello" }));
}
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def modules(environments):
    return environments.make_node_project("connect", PACKAGES)


def add_json_names(messages):
    """Add the names in JSON, which protoc writes, and the descriptors of Python lack."""
    for message in messages:
        for field in message.field:
            first, *others = field.name.split("_")
            field.json_name = first + "".join(map(str.capitalize, others))
        add_json_names(message.nested_type)


@pytest.fixture(scope="module")
def descriptors(tmp_path_factory):
    """Return a file with the descriptors of the services, from which the client takes its messages."""
    found = descriptor_pb2.FileDescriptorSet()
    names = set()

    def add(file):
        if file.name in names:
            return
        names.add(file.name)
        for needed in file.dependencies:
            add(needed)
        file.CopyToProto(found.file.add())
        add_json_names(found.file[-1].message_type)

    for module in (pb, health_pb2, error_details_pb2):
        add(module.DESCRIPTOR)
    path = tmp_path_factory.mktemp("descriptors") / "descriptors.bin"
    path.write_bytes(found.SerializeToString())
    return path


@pytest.fixture
def run(environments, modules, descriptors, tmp_path):
    """Return `run(SCRIPT, door, *arguments)`: what a script of Node prints."""

    def run_script(script, door, *arguments):
        (tmp_path / "clients.mjs").write_text(CLIENTS, encoding="utf-8")
        (tmp_path / "script.mjs").write_text(script, encoding="utf-8")
        return environments.run_node(modules, tmp_path / "script.mjs", descriptors, door.url, *arguments)

    return run_script


def plain(answer):
    """Return an answer as a dictionary, without what differs from call to call."""
    content = json_format.MessageToDict(answer)
    for key in ("requestId", "timings"):
        content.pop(key, None)
    return content


def test_every_form_gets_the_answers_of_grpc(run, door, close, texts, text_file, ask):
    found = run(MATRIX, door, text_file)
    assert len(found) == 8
    expected = [plain(answer) for answer in ask(texts, offset_unit=pb.OFFSET_UNIT_UTF16, top_k=3)]
    for name, one in found.items():
        answers = [plain(json_format.ParseDict(answer, pb.ParseResponse())) for answer in one["answers"]]
        assert close(answers, expected), name
        assert one["models"] == ["tiny"]


def test_errors_have_their_codes(run, door):
    for name, faults in run(FAULTS, door).items():
        codes = {key: one["code"] for key, one in faults.items()}
        # The admission refuses at once what it knows to be late, as over gRPC.
        assert codes.pop("late") in ("DeadlineExceeded", "ResourceExhausted"), (name, faults)
        assert codes == {"blank": "InvalidArgument", "unknown": "NotFound", "load": "PermissionDenied"}, (name, faults)
        assert "visible character" in faults["blank"]["message"]
        assert faults["unknown"]["message"] == "no model 'nope'; loaded: tiny"
        assert faults["blank"]["id"]


def test_overload_says_when_to_try_again(run, make_door):
    door = make_door("--max-rate", "0.001", "--max-burst", "1")
    for name, one in run(OVERLOAD, door).items():
        assert one["code"] == "ResourceExhausted", name
        assert "Send fewer requests" in one["message"]
        (seconds,) = one["seconds"]
        assert 900 < seconds <= 1000, json.dumps(one)
