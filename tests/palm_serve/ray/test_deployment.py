"""What a replica does without a cluster: arguments, deadlines, and errors that nothing has turned into a status."""

import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]

HIDDEN = """
import asyncio, json
from types import SimpleNamespace

import grpc
from ray.serve.grpc_util import RayServegRPCContext

from palm_serve.ray.application import Replica

def make_context():
    # What gRPC gives Ray of a call.
    nothing = SimpleNamespace()
    for name in ("auth_context", "code", "details", "peer", "peer_identities", "peer_identity_key"):
        setattr(nothing, name, lambda: None)
    nothing.invocation_metadata = nothing.trailing_metadata = lambda: ()
    return RayServegRPCContext(nothing)

async def fail(messages, context):
    raise RuntimeError("a secret at 10.0.0.1")

async def main():
    replica = object.__new__(Replica)
    replica._max_bytes = 100
    replica._handlers = {
        "Parse": grpc.stream_unary_rpc_method_handler(fail),
        "ParseStream": grpc.stream_stream_rpc_method_handler(fail),
    }
    contexts = [make_context(), make_context()]
    response = await replica.Parse(b"", grpc_context=contexts[0])
    streamed = [item async for item in replica.ParseStream(aiter_of_nothing(), grpc_context=contexts[1])]
    statuses = [[context.code().name, context.details()] for context in contexts]
    print(json.dumps([response.SerializeToString().decode(), streamed, statuses]))

async def aiter_of_nothing():
    return
    yield

asyncio.run(main())
"""

ARGUMENTS = """
import json, sys
from palm_serve.errors import ConfigError
from palm_serve.ray.application import read_arguments

for arguments in ({}, {"bundle": "b", "port": "1"}, {"bundle": "b", "replicas": "0"}, {"bundle": "b", "max_queue": "many"}):
    try:
        print(read_arguments(arguments))
    except ConfigError as error:
        print(error)
replicas, options = read_arguments({"bundle": "b", "replicas": "4", "threads": "2", "max_queue": "10", "share_runs": "true"})
print(replicas, options.threads, options.max_queue, options.share_runs, *options.bundles)
"""


def run(python: Path, code: str) -> list[str]:
    environment = {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment, cwd=python.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_arguments_and_unmapped_errors(ray_python: Path) -> None:
    """An error that nothing has turned into a status is INTERNAL, and tells nothing."""
    *arguments, hidden = run(ray_python, ARGUMENTS + HIDDEN)
    response, streamed, statuses = json.loads(hidden)
    assert (response, streamed) == ("", [])
    assert statuses == [["INTERNAL", "internal error"]] * 2
    assert arguments[0].startswith("bundle must be right: Field required")
    assert "arguments must be some of bundle, replicas, threads" in arguments[1]
    assert arguments[1].endswith("got 'port'. Remove or correct it.")
    assert "replicas must be right" in arguments[2]
    assert "max_queue must be right" in arguments[3]
    assert arguments[4] == "4 2 10 True b"
