"""The chart and the manifests with real tools: helm renders, kubernetes-validate and the models of the projects look at every field."""

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "palm-serve"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The only object of a kind."""
    (found,) = (document for document in objects if document["kind"] == kind)
    return found


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_chart_passes_helm_lint(helm, values):
    done = subprocess.run([helm, "lint", "--strict", CHART, "--values", values], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_rendered_objects_have_the_fields_of_their_kinds(render, find_faults, values):
    objects = render("--values", values)
    assert {"Deployment", "Service", "NetworkPolicy"} <= {document["kind"] for document in objects}
    assert find_faults(objects) == []


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_pods_are_restricted_and_have_time_to_drain(render, values):
    pod = of_kind(render("--values", values), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    arguments = container["args"]
    given = {name: arguments[index + 1] for index, name in enumerate(arguments[:-1]) if name.startswith("--")}
    assert pod["terminationGracePeriodSeconds"] >= float(given["--drain-grace"]) + float(given["--stop-timeout"]) + 1.5
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert container["readinessProbe"]["grpc"]["port"] == ports["health"] == int(given["--health-port"])
    assert ports["metrics"] == int(given["--metrics-port"])
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_server_takes_the_arguments_and_variables_of_the_pod(render, values, tmp_path):
    """`--print-config` resolves them as `palm-serve run` would, so a renamed option is found here."""
    from typer.testing import CliRunner

    from palm_serve.cli import app

    pod = of_kind(render("--values", values), "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {entry["name"]: entry["value"] for entry in container.get("env", ())}
    result = CliRunner().invoke(app, [*container["args"], "--print-config"], env=variables)
    assert result.exit_code == 0, result.output
    for name, value in variables.items():
        key = name.removeprefix("PALM_SERVE_").lower()
        line = re.search(rf"^{key} = (.*)$", result.output, re.MULTILINE)
        assert line is not None, name
        assert value.strip('"') in line[1], name
        assert line[1].endswith(f"# {name}"), "where the value is from"


def test_selectors_and_names_fit_each_other(render):
    objects = render("--values", CHART / "ci" / "scaled-values.yaml")
    labels = of_kind(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        of_kind(objects, "Deployment")["spec"]["selector"]["matchLabels"],
        of_kind(objects, "Service")["spec"]["selector"],
        of_kind(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
    service = of_kind(objects, "Service")
    assert service["spec"]["clusterIP"] == "None"
    monitor = of_kind(objects, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "palm-serve", "the job of alerts and dashboard"
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= {
        port["name"] for port in service["spec"]["ports"]
    }
    scaler = of_kind(objects, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == of_kind(objects, "Deployment")["metadata"]["name"]
    assert "replicas" not in of_kind(objects, "Deployment")["spec"]
    adapter = yaml.safe_load((CHART / "files" / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    (metric,) = (metric["pods"]["metric"]["name"] for metric in scaler["metrics"])
    assert metric in [rule["name"]["as"] for rule in adapter["rules"]["custom"]]
    dashboard = json.loads(of_kind(objects, "ConfigMap")["data"]["palm-serve.json"])
    assert dashboard == json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "/bundle"),
        (("--set", "bundle.path=/b", "--set", "bundle.claim=c"), "/bundle"),
        (("--set", "bundle.path=/b", "--set", "replicas=0"), "/replicas"),
        (("--set", "bundle.path=/b", "--set", "replica=3"), "replica"),
        (("--set", "bundle.url=http://host/b"), "/bundle/url"),
        (("--set", "bundle.path=/b", "--set", "options.port=1"), "invalid propertyName 'port'"),
        (("--set", "bundle.path=/b", "--set", "image.digest=latest"), "/image/digest"),
        (("--set", "bundle.path=/b", "--set", "drainSeconds=0"), "/drainSeconds"),
        (
            ("--set", "bundle.path=/b,autoscaling.enabled=true,autoscaling.minReplicas=9,autoscaling.maxReplicas=3"),
            "autoscaling.minReplicas must be at most autoscaling.maxReplicas",
        ),
    ],
)
def test_values_that_are_wrong_are_refused(helm, options, told):
    done = subprocess.run([helm, "template", "faq", CHART, *options], capture_output=True, text=True)
    assert done.returncode != 0
    assert told in done.stderr


def test_manifests_have_the_fields_of_their_projects(find_faults):
    objects = [*yaml.safe_load_all((ROOT / "charts" / "manifests" / "kserve.yaml").read_text(encoding="utf-8"))]
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            objects += [document for document in yaml.safe_load_all(block) if "apiVersion" in document]
    kinds = {document["kind"] for document in objects}
    assert {"ServingRuntime", "InferenceService", "TrainJob", "Deployment"} <= kinds
    for pod in pods_of_ray():
        objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": pod})
    assert find_faults(objects) == []


def pods_of_ray() -> list[dict[str, Any]]:
    """Specs of the pods of the RayService, for which no model of KubeRay could be had."""
    service = yaml.safe_load((ROOT / "charts" / "manifests" / "ray-service.yaml").read_text(encoding="utf-8"))
    cluster = service["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


RAY = """
import json, sys, yaml
from ray.serve.schema import ServeDeploySchema
from palm_serve.ray.application import app, read_arguments
schema = ServeDeploySchema.model_validate(yaml.safe_load(sys.argv[1]))
(application,) = schema.applications
replicas, _ = read_arguments(application.args)
print(json.dumps([application.import_path, app.__module__, replicas, schema.grpc_options.grpc_servicer_functions]))
"""


def test_ray_takes_the_configuration_of_the_manifest(environments):
    """By Ray's own schema and the arguments of the application, in the environment of the tests of Ray."""
    python = environments.make_environment("ray", ["palm-nlu[serve,ray]"])
    service = yaml.safe_load((ROOT / "charts" / "manifests" / "ray-service.yaml").read_text(encoding="utf-8"))
    path, module, replicas, functions = environments.run_python(
        python, f"import sys; sys.path.insert(0, {str(ROOT)!r}){RAY}", service["spec"]["serveConfigV2"]
    )
    assert path == "palm_serve.ray:app"
    assert module == "palm_serve.ray.application"
    assert replicas == 4
    assert functions == ["palm_serve.ray.add_services"]


def test_checks_find_misspelt_fields(render, find_faults):
    """A check that finds nothing proves nothing."""
    objects = render("--values", CHART / "ci" / "scaled-values.yaml")
    objects += yaml.safe_load_all((ROOT / "charts" / "manifests" / "kserve.yaml").read_text(encoding="utf-8"))
    broken = copy.deepcopy(objects)
    of_kind(broken, "Deployment")["spec"]["template"]["spec"]["terminationGraceSeconds"] = 5
    of_kind(broken, "ServiceMonitor")["spec"]["endpoints"][0]["intervall"] = "15s"
    of_kind(broken, "InferenceService")["spec"]["predictor"]["model"]["storageUrl"] = "s3://models"
    faults = "\n".join(find_faults(broken))
    for field in ("terminationGraceSeconds", "intervall", "storageUrl"):
        assert field in faults
    assert find_faults(objects) == []
