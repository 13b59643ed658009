"""docs/operations.md names options, metrics, fields and commands: all of them exist, and no metric is left out."""

import configparser
import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import grpc
import pytest
import typer
import yaml

from palm_serve.cli import app
from palm_serve.config import ServeOptions
from palm_serve.errors import Overloaded, Unmeetable
from palm_serve.observability import call_fields
from palm_serve.rpc.messages.status import CODES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
TYPES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    part = re.split(r"^##+ ", PAGE.split(f"## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def commands() -> Iterator[tuple[str, set[str]]]:
    """Each command and its options."""

    def walk(name: str, command: object) -> Iterator[tuple[str, set[str]]]:
        options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}  # type: ignore[attr-defined]
        yield name, options | {"--help"}
        for child, below in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {child}", below)

    return walk("palm-serve", typer.main.get_command(app))


def load_monitoring() -> ModuleType:
    """The script that writes the dashboard and the rules of the chart."""
    spec = importlib.util.spec_from_file_location("monitoring", ROOT / "charts" / "monitoring.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


monitoring = load_monitoring()
FAMILIES = {family.name: (family.kind, family.labels) for family in monitoring.metric_families()}
SERIES = {
    name.removesuffix("_total") + suffix: labels for name, (kind, labels) in FAMILIES.items() for suffix in TYPES[kind]
}


def test_options_exist() -> None:
    known = set().union(*(options for _, options in commands()))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", PAGE))
    assert len(named) > 30
    assert named <= known


def test_options_of_a_command_line_are_that_commands() -> None:
    have = dict(commands())
    for block in blocks("sh"):
        for line in block.splitlines():
            command, options = line.split("#")[0], set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", line.split("#")[0]))
            name = re.search(r"palm-serve \w+", command)
            if name is not None:
                assert options <= have[name[0]], line


def test_commands_exist() -> None:
    named = set(re.findall(r"palm-serve (?:token )?(?:run|bench|call|check|health|new|token)\b", PAGE))
    assert named <= {name for name, _ in commands()}
    assert {
        "palm-serve run",
        "palm-serve bench",
        "palm-serve check",
        "palm-serve health",
        "palm-serve token new",
    } <= named


def test_variables_exist() -> None:
    named = set(re.findall(r"PALM_SERVE_([A-Z_]+)", PAGE))
    assert named
    assert {name.lower() for name in named} <= set(ServeOptions.model_fields)


def test_metrics_exist() -> None:
    named = set(re.findall(r"\bpalm_(?!serve\b)[a-z_]+", PAGE))
    assert named - set(SERIES) - set(FAMILIES) == set()


def test_the_table_has_every_metric_with_its_type_and_labels() -> None:
    told = {}
    for names, kind, labels, _ in rows("What to watch"):
        for name in re.findall(r"`(\w+)`", names):
            told[name] = (kind, tuple(sorted(filter(None, labels.split(", ")))))
    assert told == FAMILIES


def test_queries_use_labels_that_the_series_have() -> None:
    queries = [line for block in blocks("promql") for line in block.splitlines()]
    queries += [rule["expr"] for block in blocks("yaml") if "groups:" in block for rule in _rules(block)]
    queries += re.findall(r"`(sum by [^`]+)`", PAGE)
    assert len(queries) > 15
    for query in [*queries, *_dashboard_queries()]:
        series = re.findall(r"\b(palm_\w+)", query)
        have = set().union(*(SERIES[name] for name in series)) | {"instance", "job", "le"}
        for names in re.findall(r"by \(([^)]*)\)", query):
            assert set(names.split(", ")) <= have, query
        for name, matchers in re.findall(r"\b(palm_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)\s*=", matchers)) <= {*SERIES[name], "job"}, query
        for name, matchers in re.findall(r'\b(palm_\w+)\{code=~?"([^"]*)"', query):
            assert set(matchers.split("|")) <= set(grpc.StatusCode.__members__), name


def _rules(block: str) -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(block)["groups"] for rule in group["rules"]]


def _dashboard_queries() -> list[str]:
    panels = json.loads(monitoring.DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_dashboard_and_rules_are_those_of_the_page_and_the_registry() -> None:
    for path, content in monitoring.contents().items():
        assert path.read_text(encoding="utf-8") == content, f"{path.name} is stale. Run: {monitoring.COMMAND}"


def test_dashboard_shows_every_metric() -> None:
    shown = {name for query in _dashboard_queries() for name in re.findall(r"\bpalm_\w+", query)}
    deprecated = {"palm_vain_rows_total"}
    for name in FAMILIES.keys() - deprecated:
        assert shown & {name, f"{name}_bucket", f"{name}_count"}, name
    assert shown <= set(SERIES)


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads(monitoring.DASHBOARD.read_text(encoding="utf-8"))["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + column, place["y"] + line) for column in range(place["w"]) for line in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_alert_rules_of_the_chart_are_those_of_the_page() -> None:
    rule = yaml.safe_load(monitoring.RULES.read_text(encoding="utf-8"))
    assert rule["kind"] == "PrometheusRule"
    (block,) = (block for block in blocks("yaml") if "groups:" in block)
    chart = [
        (rule["alert"], rule["expr"], rule.get("for"), rule["labels"]) for rule in _rules(json.dumps(rule["spec"]))
    ]
    assert chart == [(rule["alert"], rule["expr"], rule.get("for"), rule["labels"]) for rule in _rules(block)]


def test_every_status_and_reason_is_explained() -> None:
    statuses = " ".join(row[0] for row in rows("What each status means, and what to do"))
    assert {code.name for code in CODES.values()} <= set(re.findall(r"`([A-Z_]+)`", statuses))
    access = {"client_rate", "client_calls", "client_watches", "messages"}
    reasons = {Overloaded("").reason, Unmeetable("").reason, *access}
    assert set(re.findall(r"reason `(\w+)`", statuses)) == reasons
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "palm_serve/rpc/access").glob("*.py")]
    assert set(re.findall(r'"(client_\w+|messages)"', "".join(sources))) == access


def test_every_field_of_the_log_is_explained() -> None:
    told = {name for names, _ in rows("Logs") for name in re.findall(r"`(\w+)`", names)}
    by_formatter = {"time", "level", "logger", "message", "exception"}
    assert told == {*call_fields(monitoring.call_record()), *by_formatter, "slow", "left_out"}


def test_attributes_of_spans_exist() -> None:
    source = (ROOT / "palm_serve/observability/tracing.py").read_text(encoding="utf-8")
    table = " ".join(cell for row in rows("Traces") for cell in row)
    for name in re.findall(r"`((?:rpc|palm)\.[a-z_.]+)`", table):
        assert f'"{name}"' in source or f'"{name.removeprefix("palm.")}"' in source, name


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_is_whole(block: str) -> None:
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(block))


def test_the_deployment_gives_its_calls_time_to_finish() -> None:
    (deployment,) = (
        document
        for block in blocks("yaml")
        for document in yaml.safe_load_all(block)
        if document.get("kind") == "Deployment"
    )
    pod = deployment["spec"]["template"]["spec"]
    arguments = pod["containers"][0]["args"]
    given = dict(pairwise(arguments))
    needed = float(given["--drain-grace"]) + float(given["--stop-timeout"])
    assert pod["terminationGracePeriodSeconds"] > needed
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert ports["grpc"] == ServeOptions().port
    assert str(ports["metrics"]) == given["--metrics-port"]


def test_the_files_of_options_are_valid() -> None:
    files = [tomllib.loads(block) for block in blocks("toml")]
    assert len(files) == 2
    for options in files:
        assert options.keys() <= set(ServeOptions.model_fields)
        ServeOptions.model_validate(options)


def test_the_unit_is_whole() -> None:
    (block,) = blocks("ini")
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block)
    assert unit.sections() == ["Unit", "Service", "Install"]
    assert "palm-serve run --config" in unit["Service"]["ExecStart"]


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in re.findall(r"^#+ (.+)$", PAGE, re.M)
    }
    named = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert len(named) > 10
    assert named <= headings
