"""The pages of docs/how-to/serve name variables, statuses and scopes that exist, and show files that work."""

import configparser
import re
import textwrap
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from palm_serve.config import ServeOptions
from palm_serve.errors import Overloaded, Unmeetable
from palm_serve.rpc.access.tokens import Scope
from palm_serve.rpc.messages.status import CODES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "how-to" / "serve"
PAGES = {file.stem: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.md"))}
LONGEST = 900
SHORTEST = 200


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language, those in lists too."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", PAGES[page], re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    part = re.split(r"^#+ ", PAGES[page].split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_pages_name_variables_that_exist() -> None:
    named = {name for text in PAGES.values() for name in re.findall(r"PALM_SERVE_([A-Z_]+)", text)}
    assert named
    assert {name.lower() for name in named} <= set(ServeOptions.model_fields)


@pytest.mark.parametrize("page", PAGES)
def test_page_has_whole_yaml(page: str) -> None:
    for block in blocks(page, "yaml"):
        assert all(isinstance(document, dict) for document in yaml.safe_load_all(block)), block


@pytest.mark.parametrize("page", ["unix_sockets_systemd", "before_strangers"])
def test_page_has_a_valid_file_of_options(page: str) -> None:
    (block,) = blocks(page, "toml")
    options = tomllib.loads(block)
    assert options.keys() <= set(ServeOptions.model_fields)
    ServeOptions.model_validate(options)


def test_deployment_gives_its_calls_time_to_finish() -> None:
    documents = [document for block in blocks("kubernetes", "yaml") for document in yaml.safe_load_all(block)]
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    arguments = pod["containers"][0]["args"]
    options = dict(pairwise(arguments))
    needed = float(options["--drain-grace"]) + float(options["--stop-timeout"])
    assert pod["terminationGracePeriodSeconds"] > needed
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert ports["grpc"] == ServeOptions().port
    assert str(ports["metrics"]) == options["--metrics-port"]


def test_unit_is_whole_and_waits_for_the_drain() -> None:
    (block,) = blocks("unix_sockets_systemd", "ini")
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block)
    assert unit.sections() == ["Unit", "Service", "Install"]
    assert "palm-serve run --config" in unit["Service"]["ExecStart"]
    options = tomllib.loads(blocks("unix_sockets_systemd", "toml")[0])
    assert float(unit["Service"]["TimeoutStopSec"]) > options["drain_grace"] + options["stop_timeout"] + 1.5


def test_incident_explains_every_status_and_reason() -> None:
    statuses = " ".join(row[0] for row in rows("incident", "What each status means, and what to do"))
    assert {code.name for code in CODES.values()} <= set(re.findall(r"`([A-Z_]+)`", statuses))
    access = {"client_rate", "client_calls", "client_watches", "messages", "unread_answers"}
    reasons = {Overloaded("").reason, Unmeetable("").reason, *access}
    assert set(re.findall(r"reason `(\w+)`", statuses)) == reasons
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "palm_serve/rpc/access").glob("*.py")]
    assert set(re.findall(r'"(client_\w+|messages|unread_answers)"', "".join(sources))) == access


def test_tokens_page_explains_every_scope() -> None:
    told = " ".join(row[0] for row in rows("certificates_tokens_limits", "Tokens"))
    assert set(re.findall(r"`(\w+)`", told)) == {scope.value for scope in Scope}


def test_trace_page_names_attributes_that_exist() -> None:
    source = (ROOT / "palm_serve/observability/tracing.py").read_text(encoding="utf-8")
    table = " ".join(cell for row in rows("logs_and_traces", "Traces") for cell in row)
    names = re.findall(r"`((?:rpc|palm)\.[a-z_.]+)`", table)
    assert len(names) > 10
    for name in names:
        assert f'"{name}"' in source or f'"{name.removeprefix("palm.")}"' in source, name


@pytest.mark.parametrize("page", PAGES)
def test_page_is_short_and_begins_with_its_use(page: str) -> None:
    words = [word for word in PAGES[page].split() if re.search(r"\w", word)]
    assert SHORTEST <= len(words) <= LONGEST
    title, _, opening = PAGES[page].partition("\n\n")
    assert title.startswith("# ")
    assert page == "index" or opening.startswith("After this page ")


def test_index_lists_every_page_and_the_incident_first() -> None:
    (toctree,) = re.findall(r"```\{toctree\}\n:hidden:\n\n(.*?)```", PAGES["index"], re.DOTALL)
    listed = toctree.split()
    assert listed[0] == "incident"
    assert sorted(listed) == sorted(PAGES.keys() - {"index"})
    linked = re.findall(r"^\| \[[^\]]+\]\((\w+)\.md\)", PAGES["index"], re.MULTILINE)
    assert linked == listed
