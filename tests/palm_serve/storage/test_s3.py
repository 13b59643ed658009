"""Bundles on a real S3 server: pushed, fetched once, swapped, refused, and whole whatever is killed or cut."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palm_serve.client import Client

pytestmark = pytest.mark.slow
KILLS = 50

KILL = """
import json, os, random, signal, sys, time
from pathlib import Path
import s3fs  # loaded once, so that the children begin at once
from palm_serve.bundle.fetch import fetch_bundle
from palm_serve.bundle.loader import load_bundle, split_pin

url, cache, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

def fetch_in_child(seconds):
    child = os.fork()
    if not child:
        fetch_bundle(Path(url), cache)
        os._exit(0)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

began = time.monotonic()
assert fetch_in_child(300) == 0
whole_s = time.monotonic() - began
random.seed(7)
outcomes = {"killed": 0, "whole": 0, "absent": 0}
for number in range(kills):
    if number % 5 == 0:
        os.system(f"rm -rf '{cache}'")  # else the fetch goes on where the killed one was
    outcomes["killed"] += fetch_in_child(random.uniform(0, whole_s)) != 0
    manifests = list(cache.glob("bundles/[!.]*/manifest.json"))
    for manifest in manifests:
        load_bundle(manifest.parent)
    outcomes["whole" if manifests else "absent"] += 1
place = fetch_bundle(Path(url), cache)
assert load_bundle(place).left_out == frozenset()
folder, _ = split_pin(place)
outcomes["names"] = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
outcomes["beside"] = sorted(path.name for path in folder.parent.iterdir() if path.name.startswith("."))
print(json.dumps(outcomes))
"""


@pytest.fixture
def serve(s3_environment: dict[str, str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a command of palm-serve."""

    def run(*arguments: object, **variables: str | None) -> tuple[int, str, str]:
        changed = {**s3_environment, **variables}
        environment = {name: value for name, value in changed.items() if value is not None}
        command = [sys.executable, "-m", "palm_serve.cli", *map(str, arguments)]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        return ran.returncode, ran.stdout, ran.stderr

    return run


def put_object(port: int, name: str, content: bytes) -> None:
    # moto lets nobody write who names no key, and checks no signature.
    headers = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, Signature=0",
        "Content-Type": "application/octet-stream",
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/models/{name}", data=content, method="PUT", headers=headers
    )
    urllib.request.urlopen(request).close()


def digest_of(bundle: Path) -> str:
    return str(json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["version"])


def test_bundle_is_pushed_checked_and_served_without_the_bucket(serve, s3, moto, tiny_bundle, tmp_path) -> None:
    code, out, err = serve("push", tiny_bundle, "s3://models/demo")
    assert code == 0, err
    digest = digest_of(tiny_bundle)
    assert out == f"palm-serve: pushed tiny: s3://models/demo@sha256:{digest}\n"
    puts = [request for request in s3.requests if request.startswith("PUT")]
    assert puts[-1].startswith("PUT /models/demo/manifest.json")
    code, out, err = serve("check", f"s3://models/demo@sha256:{digest}", "--provider", "CPU")
    assert (code, err) == (0, "")
    assert "golden examples answered as at export" in out

    s3.requests.clear()
    code, out, err = serve("check", f"s3://models/demo@sha256:{digest}", "--provider", "CPU")
    assert (code, err) == (0, "")
    assert s3.requests == []

    put_object(moto, "demo/tokenizer.json", b"{}")
    shutil.rmtree(tmp_path / "cache")
    code, _, err = serve("check", "s3://models/demo")
    assert code == 2
    assert "s3://models/demo/tokenizer.json was changed or damaged: its digest must be sha256:" in err


def test_bundle_of_the_cache_is_served_when_the_bucket_is_gone(
    serve, s3_environment, s3, moto, start_server, tiny_bundle
) -> None:
    assert serve("push", tiny_bundle, "s3://models/demo")[0] == 0
    pinned = f"s3://models/demo@sha256:{digest_of(tiny_bundle)}"
    assert serve("check", "s3://models/demo", "--provider", "CPU")[0] == 0
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{moto}/moto-api/reset", method="POST")).close()
    server = start_server(pinned, "--provider", "CPU", env=s3_environment)
    with Client(server.target()) as client:
        assert client.parse("please play a song").version == digest_of(tiny_bundle)
    code, _, err = serve("check", "s3://models/demo")
    assert code == 2
    assert "s3://models/demo/manifest.json cannot be read: no such object or bucket" in err


def test_what_goes_wrong_is_one_message_and_exit_code_2(serve, s3, tiny_bundle) -> None:
    assert serve("push", tiny_bundle, "s3://models/demo")[0] == 0
    faults: list[tuple[dict[str, Any], str, dict[str, str | None], str]] = [
        ({}, "s3://absent/demo", {}, "no such object or bucket"),
        ({}, "s3://models/nothing", {}, "no such object or bucket"),
        ({}, "s3://models/demo", {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials"),
        ({"refuses": True}, "s3://models/demo", {}, "access was refused"),
        ({"cut_after": 900}, "s3://models/demo", {}, "cannot be read"),
        ({}, "s3://models/demo", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "Check the URL and the network"),
    ]
    for settings, url, variables, reason in faults:
        for name, value in settings.items():
            setattr(s3, name, value)
        code, out, err = serve("check", url, **variables)
        s3.refuses, s3.cut_after = False, None
        assert (code, out) == (2, ""), (url, settings, err)
        assert reason in err, (url, settings, err)
        assert err.count("\n") == 1, err


def test_slow_bucket_is_waited_for_and_two_processes_download_once(s3_environment, s3, serve, tiny_bundle) -> None:
    assert serve("push", tiny_bundle, "s3://models/demo")[0] == 0
    s3.requests.clear()
    s3.bytes_per_s = 200_000
    command = [sys.executable, "-m", "palm_serve.cli", "check", "s3://models/demo", "--provider", "CPU"]
    processes = [subprocess.Popen(command, env=s3_environment, stdout=subprocess.DEVNULL) for _ in "ab"]
    assert [process.wait(300) for process in processes] == [0, 0]
    downloads = [request for request in s3.requests if request.startswith("GET /models/demo/model.onnx")]
    assert len(downloads) == 1


def test_killed_fetches_leave_no_torn_bundle(s3_environment, s3, serve, tiny_bundle, tmp_path) -> None:
    assert serve("push", tiny_bundle, "s3://models/demo")[0] == 0
    s3.bytes_per_s = 500_000
    arguments = ["s3://models/demo", str(tmp_path / "cache" / "palm"), str(KILLS)]
    ran = subprocess.run(
        [sys.executable, "-c", KILL, *arguments], capture_output=True, text=True, env=s3_environment, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    outcomes = json.loads(ran.stdout)
    assert outcomes["killed"] > KILLS / 2, outcomes
    assert outcomes["whole"] + outcomes["absent"] == KILLS
    assert outcomes["names"] == sorted(path.name for path in tiny_bundle.iterdir())
    assert outcomes["beside"] == []


def test_watched_bucket_is_followed(s3_environment, s3, serve, start_server, make_tiny_bundle, tmp_path) -> None:
    first, second = (make_tiny_bundle(tmp_path / name, max_length=length) for name, length in (("a", 20), ("b", 21)))
    assert serve("push", first, "s3://models/live/faq")[0] == 0
    watch = ("--watch", "s3://models/live", "--watch-interval", "0.5", "--provider", "CPU")
    server = start_server(*watch, env=s3_environment)
    with Client(server.target()) as client:
        assert [model.version for model in client.models()] == [digest_of(first)]
        assert serve("push", second, "s3://models/live/faq")[0] == 0
        end = time.monotonic() + 120
        while client.models()[0].version != digest_of(second):
            assert time.monotonic() < end, server.errors
            time.sleep(0.2)
        s3.refuses = True
        assert client.parse("please play a song").intent.name == "music"
    server.process.terminate()
    assert server.finish() == 0
    # A new server starts from what was fetched.
    server = start_server(*watch, env={**s3_environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    with Client(server.target()) as client:
        assert [model.version for model in client.models()] == [digest_of(second)]


def test_batch_reads_and_writes_buckets(serve, s3, moto, tiny_bundle) -> None:
    assert serve("push", tiny_bundle, "s3://models/demo")[0] == 0
    put_object(moto, "in/a.csv", b"id,text\n1,please play a song\n2,\n")
    s3.requests.clear()
    arguments = ("batch", "s3://models/in", "s3://models/out", "--bundle", "s3://models/demo", "--provider", "CPU")
    code, _, err = serve(*arguments)
    assert code == 1, err  # the second row has no text
    puts = [request.removeprefix("PUT /models/out/") for request in s3.requests if request.startswith("PUT")]
    assert puts == ["a.csv-00000.parquet", "_SUCCESS.json"]
    s3.requests.clear()
    assert serve(*arguments)[0] == 1
    assert [request for request in s3.requests if request.startswith("PUT")] == ["PUT /models/out/_SUCCESS.json"]
    code, _, err = serve(*arguments[:2], "s3://absent/out", *arguments[3:])
    assert code == 2
    assert "s3://absent/out" in err.splitlines()[-1]
