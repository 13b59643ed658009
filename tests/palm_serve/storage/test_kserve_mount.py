"""A bundle as KServe gives it to a pod: fetched by the storage initializer's own code to /mnt/models, which is read-only there."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow
STORAGE, CLIENT = "kserve-storage==0.21.0", "kserve==0.21.0"
BESIDE_STORAGE = ["boto3==1.43.117", "requests==2.34.2", "certifi==2026.10.19.post1", "PyYAML==6.0.3"]
"""What it loads for a bucket; it requires the clients of all other stores too."""
ROOT = Path(__file__).parents[3]

INITIALIZE = """
import json, sys
from kserve_storage import Storage
uri, folder = sys.argv[1:]
print(json.dumps(Storage.download_files([uri], [folder])))
"""
"""What the entry point of KServe's storage initializer calls."""

MOUNT = """
mount -t tmpfs none /mnt && mkdir /mnt/models && mount --bind "$0" /mnt/models && mount -o remount,bind,ro /mnt/models && exec "$@"
"""

ASK = r"""
import asyncio, json, logging, sys
from kserve import InferenceGRPCClient, InferInput, InferRequest

logging.disable()

async def main():
    async with InferenceGRPCClient(sys.argv[1]) as client:
        ready = [await client.is_server_ready(), await client.is_model_ready("tiny")]
        given = InferInput("text", [1], "BYTES", data=["fly to boston"])
        answer = await client.infer(InferRequest("tiny", [given]))
        (label,) = [output.data[0].decode() for output in answer.outputs if output.name == "intent.label"]
    print(json.dumps([ready, label]))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def mount() -> tuple[str, ...]:
    """Return the command before a server that sees a folder, its next argument, as /mnt/models."""
    users = ("--user", "--map-root-user") if os.geteuid() else ()
    command = ("unshare", *users, "--mount", "sh", "-c", MOUNT)
    try:
        done = subprocess.run([*command, "/tmp", "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    return command


@pytest.fixture(scope="module")
def arguments() -> list[str]:
    """Return the arguments of the container in charts/manifests/kserve.yaml, on a free port of loopback."""
    runtime, _ = yaml.safe_load_all((ROOT / "charts" / "manifests" / "kserve.yaml").read_text(encoding="utf-8"))
    (container,) = runtime["spec"]["containers"]
    changed = dict(zip(container["args"][2::2], container["args"][3::2], strict=True))
    changed |= {"--host": "127.0.0.1", "--port": "0", "--log-format": "text"}
    for name in ("--metrics-port", "--cache-dir"):
        del changed[name]
    assert container["args"][:2] == ["run", "/mnt/models"]
    given = ["/mnt/models"]
    for name, value in changed.items():
        given += [name, value]
    return given


@pytest.fixture(scope="module")
def storage_uri() -> str:
    """Return the address of the bundle in charts/manifests/kserve.yaml."""
    _, service = yaml.safe_load_all((ROOT / "charts" / "manifests" / "kserve.yaml").read_text(encoding="utf-8"))
    uri: str = service["spec"]["predictor"]["model"]["storageUri"]
    return uri


def push(bundle: Path, url: str, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "palm_serve.cli", "push", bundle, url]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_bundle_that_kserve_fetched_is_served(
    environments: ModuleType,
    s3_environment: dict[str, str],
    tiny_bundle: Path,
    tmp_path: Path,
    mount: tuple[str, ...],
    arguments: list[str],
    storage_uri: str,
    start_server: Callable[..., Any],
) -> None:
    """Beside it lies a bundle whose name begins with its own: KServe fetches all objects whose names begin with the address."""
    fetcher = environments.make_environment("kserve-storage", BESIDE_STORAGE, alone=[STORAGE], constrained=False)
    client = environments.make_environment("kserve", [CLIENT], constrained=False)
    push(tiny_bundle, storage_uri, s3_environment)
    push(tiny_bundle, storage_uri.rstrip("/") + "0", s3_environment)
    models = tmp_path / "models"
    aws = {name: value for name, value in s3_environment.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [fetcher, "-c", INITIALIZE, storage_uri, models], capture_output=True, text=True, env=aws, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in models.iterdir()) == sorted(path.name for path in tiny_bundle.iterdir())

    server = start_server(*arguments, "--cache-dir", tmp_path / "cache", before=(*mount, str(models)))
    assert environments.run_python(client, ASK, server.target()) == [[True, True], "flight"]
