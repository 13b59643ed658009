"""`schemathesis` asks what `/openapi.json` describes, in 2,000 cases or more, and `openapi-spec-validator` reads the description."""

import json
import os
import subprocess

import pytest

pytestmark = pytest.mark.slow

VALIDATE = r"""
import json, sys
from openapi_spec_validator import OpenAPIV31SpecValidator

errors = [str(error) for error in OpenAPIV31SpecValidator(json.load(open(sys.argv[1], encoding="utf-8"))).iter_errors()]
print(json.dumps(errors))
"""
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def python(environments):
    packages = ["schemathesis==4.32.5", "openapi-spec-validator==0.9.0"]
    return environments.make_environment("schemathesis", packages, constrained=False)


def test_description_is_valid(environments, python, door, tmp_path):
    file = tmp_path / "openapi.json"
    file.write_bytes(door.get("/openapi.json").content)
    assert environments.run_python(python, VALIDATE, file) == []


def test_no_case_is_an_error_of_the_server(python, door, tmp_path):
    report = tmp_path / "cases.ndjson"
    command = [python.with_name("schemathesis"), "run", f"{door.url}/openapi.json", "--checks", CHECKS]
    command += ["--max-examples", "280", "--seed", "1", "--generation-database", "none", "--warnings", "off"]
    command += ["--continue-on-failure", "--report-ndjson-path", report, "--no-color", "--request-timeout", "60"]
    environment = os.environ | {"NO_PROXY": "*"}
    done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    cases = 0
    for line in report.read_text(encoding="utf-8").splitlines():
        finished = json.loads(line).get("ScenarioFinished", {"recorder": {}})
        cases += len(finished["recorder"].get("cases", ()))
    assert cases >= 2000
