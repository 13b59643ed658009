"""What holds for the chart without helm: files are whole, values fit the schema, options and metrics exist."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from palm_serve.config import ServeOptions

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "palm-serve"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def merged(base, values):
    """Values over the defaults, as helm merges them."""
    if not isinstance(base, dict) or not isinstance(values, dict):
        return values
    return base | {key: merged(base.get(key), value) for key, value in values.items()}


def test_five_value_files_are_read():
    assert len(VALUES) == 5


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_values_fit_the_schema(path):
    values = merged(DEFAULTS, yaml.safe_load(path.read_text(encoding="utf-8")))
    jsonschema.validate(values, SCHEMA)
    for option in values["options"]:
        assert option in ServeOptions.model_fields
    tokens = {"tokens": "tokens.toml"} if values["tokens"]["secretName"] else {}
    ServeOptions.model_validate(values["options"] | tokens)


def test_schema_knows_every_default_value_and_no_other():
    def keys(values, schema, place):
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        if "properties" not in schema:
            return
        unknown = values.keys() - schema["properties"].keys()
        assert not unknown, place
        for name, inner in schema["properties"].items():
            if isinstance(values.get(name), dict):
                keys(values[name], inner, f"{place}.{name}")

    keys(DEFAULTS, SCHEMA, "values")
    assert SCHEMA["properties"].keys() - DEFAULTS.keys() == {"global"}


def test_defaults_need_a_bundle():
    with pytest.raises(jsonschema.ValidationError) as refused:
        jsonschema.validate(DEFAULTS, SCHEMA)
    assert refused.value.absolute_path[0] == "bundle"


def test_options_that_the_chart_sets_are_not_values():
    template = (CHART / "templates" / "deployment.yaml").read_text(encoding="utf-8")
    flags = {flag.replace("-", "_") for flag in re.findall(r"- --([a-z-]+)", template)}
    reserved = set(SCHEMA["properties"]["options"]["propertyNames"]["not"]["enum"])
    assert flags <= reserved
    assert reserved <= set(ServeOptions.model_fields)


def test_values_that_templates_use_exist():
    for path in (CHART / "templates").iterdir():
        for name in re.findall(r"\.Values\.([A-Za-z.]+)", path.read_text(encoding="utf-8")):
            value = DEFAULTS
            for part in name.split("."):
                assert part in value, f"{path.name}: .Values.{name}"
                value = value[part]


def test_version_is_that_of_the_package():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert f'version = "{chart["appVersion"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "charts" / "manifests").glob("*.yaml")), ids=lambda path: path.stem)
def test_manifests_are_whole(path):
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert documents
    for document in documents:
        assert {"apiVersion", "kind", "metadata", "spec"} <= document.keys()


def test_manifests_of_kserve_give_calls_time_to_finish():
    runtime, service = yaml.safe_load_all((ROOT / "charts/manifests/kserve.yaml").read_text(encoding="utf-8"))
    (container,) = runtime["spec"]["containers"]
    arguments = container["args"]
    assert arguments[:2] == ["run", "/mnt/models"], "where KServe puts what storageUri names"
    given = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    for flag in given:
        assert flag.removeprefix("--").replace("-", "_") in ServeOptions.model_fields
    grace = service["spec"]["predictor"]["terminationGracePeriodSeconds"]
    assert grace > float(given["--drain-grace"]) + float(given["--stop-timeout"]) + 1.5
    assert {str(port["containerPort"]) for port in container["ports"]} == {given["--port"]}
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]


def test_manifest_of_ray_starts_what_the_operator_gives():
    service = yaml.safe_load((ROOT / "charts/manifests/ray-service.yaml").read_text(encoding="utf-8"))
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = serve["applications"]
    assert application["import_path"] == "palm_serve.ray:app"
    workers = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    cores = int(workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    needed = application["args"]["replicas"] * application["args"]["threads"]
    assert workers["replicas"] * cores >= needed, "a replica that finds no core waits without a word"
