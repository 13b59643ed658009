"""`palm-export --register` and the tracker `mlflow`, against a real `mlflow server`."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from palm_trainer.errors import ExportError
from palm_trainer.export.register import registry_name
from tests.environments import make_environment

ROOT = Path(__file__).parents[3]
START_S = 300.0
REGISTER = """
import sys
from pathlib import Path
from palm_serve.bundle.loader import load_bundle
from palm_trainer.export.register import register_bundle

bundle = Path(sys.argv[1])
print(register_bundle(bundle, load_bundle(bundle).manifest, "demo").version)
"""


@pytest.mark.parametrize("value", ["NAME", "mlflow:", "mlflow: ", "mlflow:a/b", "mlflow:a:b"])
def test_name_is_checked_before_the_export(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(ExportError, match="--register must be mlflow:NAME, got"):
        registry_name(value)


def test_server_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ExportError, match=r"needs the address of the server\. Set MLFLOW_TRACKING_URI"):
        registry_name("mlflow:demo")


def test_package_that_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ExportError, match=r"pip install -c constraints\.txt '\.\[mlflow\]'"):
        registry_name("mlflow:demo")


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run `mlflow server` and return its address."""
    python = make_environment("mlflow", ["mlflow==3.17.2"], constrained=False)  # it wants an earlier pandas
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", f"sqlite:///{folder}/store.db", "--artifacts-destination", f"{folder}/artifacts"]
    command = [
        python,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        *store,
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        end = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=10).close()
                break
            except OSError:
                assert time.monotonic() < end, (folder / "log").read_text()
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.fixture
def palm(mlflow_server: str) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a module of palm_trainer's commands, or code, with MLflow's client."""
    python = make_environment("mlflow-client", ["palm-nlu[mlflow]"])
    packages = python.parents[1] / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

    def run(module: str, *arguments: object, **variables: str) -> tuple[int, str, str]:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{packages}",
            "MLFLOW_TRACKING_URI": mlflow_server,
            **variables,
        }
        code = [f"from palm_trainer.cli.{module} import main; main()"] if module else []
        command = [sys.executable, "-c", *code, *map(str, arguments)]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
        return ran.returncode, ran.stdout, ran.stderr

    return run


def ask(url: str, path: str, **body: Any) -> dict[str, Any]:
    """Ask the REST API of the server. A request without a body is a GET."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{url}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


@pytest.mark.slow
def test_run_is_tracked_and_its_bundle_registered(palm, mlflow_server: str, tiny_toml, tmp_path: Path) -> None:
    config = tiny_toml()
    run, bundle = tmp_path / "tracked", tmp_path / "bundle"
    settings = ["--set", "train.epochs=2", "--set", 'train.trackers=["mlflow"]', "--set", "train.log_every_steps=1"]
    code, out, err = palm("train", "run", config, "--output", run, *settings)
    assert code == 0, err
    [experiment] = [
        found
        for found in ask(mlflow_server, "experiments/search", max_results=10)["experiments"]
        if found["name"] == "tracked"
    ]
    [tracked] = ask(mlflow_server, "runs/search", experiment_ids=[experiment["experiment_id"]])["runs"]
    metrics = {metric["key"] for metric in tracked["data"]["metrics"]}
    assert {"learning_rate", "dev/score"} <= metrics
    assert any(name.startswith("loss/") for name in metrics)

    code, out, err = palm("export", run, "--output", bundle, "--precision", "fp32", "--register", "mlflow:demo")
    assert code == 0, err
    assert "registered as demo version 1: mlflow-artifacts:" in out
    digest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["version"]
    [version] = ask(mlflow_server, "registered-models/get?name=demo")["registered_model"]["latest_versions"]
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert tags == {"palm.digest": f"sha256:{digest}", "palm.model": "bundle"}
    path = f"artifacts/list?run_id={version['run_id']}&path=bundle"
    listed = {Path(file["path"]).name for file in ask(mlflow_server, path)["files"]}
    assert listed == {file.name for file in bundle.iterdir()}

    # The rest needs no export.
    code, out, err = palm("", REGISTER, bundle)
    assert (code, out.splitlines()[-1]) == (0, "2"), err
    code, out, err = palm(
        "", REGISTER, bundle, MLFLOW_TRACKING_URI="http://127.0.0.1:1", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"
    )
    assert code == 1
    line = err.splitlines()[-1]
    assert "'demo' could not be registered at http://127.0.0.1:1: " in line
    assert f"The bundle {bundle} is complete" in line
