"""The pages for operators, the dashboard and the rules of the chart agree with the metrics and the log fields of the server."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import grpc
import pytest
import yaml

from palm_serve.observability import call_fields

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "how-to" / "serve"
PAGES = {file.stem: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.md"))}
TYPES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}
NO_METRICS = {"palm_pb2"}
"""A module of Python."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


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


@pytest.mark.parametrize("page", PAGES)
def test_page_names_metrics_that_exist(page: str) -> None:
    named = set(re.findall(r"\bpalm_(?!serve\b)[a-z_0-9]+", PAGES[page]))
    assert named - set(SERIES) - set(FAMILIES) - NO_METRICS == set()


def test_monitor_page_names_what_tells_of_a_fault() -> None:
    table = PAGES["monitor"].split("## What to watch, and why\n", 1)[1]
    for name in ("palm_serving", "palm_requests_total", "palm_refused_calls_total", "palm_bundle_failing"):
        assert f"`{name}`" in table


def _rules(block: str) -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(block)["groups"] for rule in group["rules"]]


def _page_rules() -> list[dict[str, str]]:
    (block,) = blocks("alerts", "yaml")
    return _rules(block)


def _dashboard_queries() -> list[str]:
    panels = json.loads(monitoring.DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_queries_use_labels_that_the_series_have() -> None:
    queries = [query for _, query in monitoring.page_queries(PAGES["monitor"])]
    queries += [rule["expr"] for rule in _page_rules()]
    queries += [query for text in PAGES.values() for query in re.findall(r"`(sum by [^`]+)`", text)]
    assert len(queries) > 20
    for query in [*queries, *_dashboard_queries()]:
        series = re.findall(r"\b(palm_\w+)", query)
        have = set().union(*(SERIES[name] for name in series)) | {"instance", "job", "le"}
        for names in re.findall(r"by \(([^)]*)\)", query):
            assert set(names.split(", ")) <= have, query
        for name, matchers in re.findall(r"\b(palm_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)\s*=", matchers)) <= {*SERIES[name], "job"}, query
        for name, matchers in re.findall(r'\b(palm_\w+)\{code=~?"([^"]*)"', query):
            assert set(matchers.split("|")) <= set(grpc.StatusCode.__members__), name


def test_monitor_page_gives_each_query_a_title() -> None:
    (block,) = blocks("monitor", "promql")
    assert len(monitoring.page_queries(PAGES["monitor"])) == len(block.splitlines()) / 2 == 6


def test_dashboard_and_rules_are_those_of_the_pages_and_the_registry() -> None:
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
    chart = [(one["alert"], one["expr"], one.get("for"), one["labels"]) for one in _rules(json.dumps(rule["spec"]))]
    assert chart == [(one["alert"], one["expr"], one.get("for"), one["labels"]) for one in _page_rules()]


def test_log_page_explains_every_field() -> None:
    table = PAGES["logs_and_traces"].split("### Fields\n", 1)[1].split("###")[0]
    first_cells = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    by_formatter = {"time", "level", "logger", "message", "exception"}
    fields = {*call_fields(monitoring.call_record()), *by_formatter, "slow", "left_out"}
    assert set(re.findall(r"`(\w+)`", " ".join(first_cells))) == fields


def test_alerts_page_says_what_to_do_about_each_alert() -> None:
    table = PAGES["alerts"].split("## What to do\n", 1)[1]
    first_cells = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    assert set(re.findall(r"`(Palm\w+)`", " ".join(first_cells))) == {rule["alert"] for rule in _page_rules()}
