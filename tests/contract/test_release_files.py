"""Files of releases and contributors agree with the project: version, Pythons, forms, hooks."""

import re
import runpy
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMAGES = ("docs/how-to/scale/kubernetes.md", "docs/how-to/train/several_processes.md", "charts/manifests/kserve.yaml")
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_citation_has_the_version_and_the_licence() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()


@pytest.mark.parametrize("name", [*IMAGES, "charts/manifests/ray-service.yaml"])
def test_images_have_the_version(name: str) -> None:
    tags = re.findall(r"palm-(?:serve|train|ray):(\d[\w.]*)", read(name))
    assert set(tags) == {PROJECT["version"]}


def test_sessions_of_nox_are_the_pythons_of_the_classifiers() -> None:
    prefix = "Programming Language :: Python :: "
    classified = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if line.startswith(prefix)]
    [versions] = re.findall(r'parametrize\("version", \[([^\]]*)\]', read("noxfile.py"))
    assert re.findall(r'"([\d.]+)"', versions) == classified
    assert PROJECT["requires-python"] == f">={classified[0]}"


def test_tools_of_the_makefile_are_pinned() -> None:
    pinned = dict(line.split("==") for line in read("requirements/tools.txt").splitlines() if not line.startswith("#"))
    assert {"griffe", "nox", "uv"} <= pinned.keys()


def test_workflow_runs_what_every_submission_passes() -> None:
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in [step.get("run") for step in steps]
    assert workflow["permissions"] == {"contents": "read"}
    [limit] = re.findall(r"^limit=(\d+)", read(".ci/run"), re.MULTILINE)
    assert all(job["timeout-minutes"] * 60 > int(limit) for job in workflow["jobs"].values())


@pytest.mark.parametrize("form", [form for form in FORMS if form.stem != "config"], ids=lambda path: path.stem)
def test_issue_forms_are_whole(form: Path) -> None:
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert content["name"]
    assert content["description"]
    questions = [field for field in content["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in questions}) == len(questions)
    assert all(field["attributes"]["label"] for field in questions)
    assert any(field.get("validations", {}).get("required") for field in questions)


def test_hooks_call_files_that_exist() -> None:
    [repository] = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    entries = [shlex.split(hook["entry"]) for hook in repository["hooks"]]
    assert ["make", "lint"] in entries
    scripts = [word for entry in entries for word in entry if word.startswith(".ci/")]
    assert {".ci/commit_message.py", ".ci/sentences.py"} == set(scripts)
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.mark.parametrize(
    "party", ["client without a token", "client with a token", "author of a bundle", "author of training data"]
)
def test_security_says_what_is_promised_to_whom(party: str) -> None:
    rows = [line.split("|") for line in read("SECURITY.md").splitlines() if line.startswith("| ")]
    [row] = [row for row in rows if party in row[1]]
    assert row[2].strip()
    assert row[3].strip()


CHANGES = ("Train", "Export", "Serve", "Documentation and project")
MOST_SENTENCES = 2


def changes() -> str:
    """Return the section of CHANGELOG of this version."""
    page = read("CHANGELOG.md")
    section = re.search(
        rf"^## \[{re.escape(PROJECT['version'])}\][^\n]*\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL
    )
    assert section is not None
    return section[1]


def test_changes_are_grouped_by_what_they_concern() -> None:
    groups = re.findall(r"^### (.*)$", changes(), re.MULTILINE)
    assert {group.partition(":")[0] for group in groups} == set(CHANGES)
    assert len(set(groups)) == len(groups)


def test_each_change_has_at_most_two_sentences() -> None:
    script = runpy.run_path(str(ROOT / ".ci" / "sentences.py"))
    entries = re.findall(r"^- (.*(?:\n  .*)*)", changes(), re.MULTILINE)
    long = [
        entry for entry in entries if len(list(script["sentences"](entry.replace("*Changed.*", "")))) > MOST_SENTENCES
    ]
    assert len(entries) > 50
    assert not long


def test_install_page_names_every_extra() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", read("docs/how-to/install.md"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert named == set(PROJECT["optional-dependencies"])
