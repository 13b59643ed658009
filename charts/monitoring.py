#!/usr/bin/env python3
"""Write the Grafana dashboard and the alert rules of the chart.

    python charts/monitoring.py            writes both files
    python charts/monitoring.py --check    exit code 1 if a file is stale

The dashboard has a panel for every metric of the server's registry, below the queries of docs/how-to/serve/monitor.md. The alert
rules are those of docs/how-to/serve/alerts.md, as a PrometheusRule. tests/contract/test_monitoring_pages.py compares all of them.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from palm_serve.batching import FinishedBatch  # noqa: E402
from palm_serve.observability import Metrics  # noqa: E402
from palm_serve.observability.version_metrics import VersionMetrics  # noqa: E402
from palm_serve.registry import Registry  # noqa: E402
from palm_serve.types import AnsweredText, CallRecord, Timings  # noqa: E402

PAGES = ROOT / "docs" / "how-to" / "serve"
QUERIES_PAGE = PAGES / "monitor.md"
RULES_PAGE = PAGES / "alerts.md"
DASHBOARD = ROOT / "charts" / "palm-serve" / "files" / "dashboard.json"
RULES = ROOT / "charts" / "palm-serve" / "files" / "prometheus-rule.yaml"
COMMAND = "python charts/monitoring.py"

JOB = '{job=~"$job"}'
RATE = "[$__rate_interval]"
DEPRECATED = "Deprecated"
SCHEMA_VERSION = 39
"""Of dashboards as Grafana 10 and later read them."""
WIDTH = 24
"""Columns of a dashboard."""
PANEL_WIDTH = 8
PANEL_HEIGHT = 8

# Row of the dashboard -> beginnings of the names of its metrics. The first row that fits takes a metric.
ROWS = {
    "Calls": ("palm_request", "palm_refused", "palm_calls"),
    "Queue and engine": (
        *("palm_queue", "palm_rows", "palm_inference", "palm_decode", "palm_batch"),
        *("palm_tokens", "palm_padding", "palm_dropped", "palm_discarded", "palm_engine"),
    ),
    "Models and versions": ("palm_version", "palm_traffic", "palm_bundle", "palm_watch", "palm_shadow", "palm_values"),
    "Process, connections and files": (
        "palm_serving",
        "palm_connections",
        "palm_certificate",
        "palm_reload",
        "palm_threads",
    ),
}
PROCESS = {
    "process_resident_memory_bytes": ("Resident memory of the process.", "bytes"),
    "process_cpu_seconds_total": ("Processor seconds a second.", "short"),
    "process_open_fds": ("Open file descriptors.", "short"),
}
"""Metrics of the process that prometheus_client adds on Linux -> description and unit."""


@dataclass(frozen=True)
class Family:
    """A metric of the server."""

    name: str
    """As in a query, without suffixes of histograms and summaries."""
    kind: str
    labels: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Query:
    """A query of a panel and the legend of its series."""

    expression: str
    legend: str


def call_record() -> CallRecord:
    """Return the record of a refused call with every field."""
    return CallRecord(
        method="Parse",
        service="s",
        code="RESOURCE_EXHAUSTED",
        number=8,
        seconds=0.1,
        ended_ns=1,
        request_id="r",
        client="c",
        reason="deadline",
        texts=1,
        answered=[AnsweredText("m", "0" * 64, Timings(1, 1, 1, 1, 1))],
        request_bytes=1,
        response_bytes=1,
        trace_id="a" * 32,
    )


def metric_families() -> list[Family]:
    """Return every metric of a server with TLS, tokens and a model, as if all events had happened."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics(call_record())
    metrics.watch(lambda: 0, lambda: True)
    metrics.watch_connections(lambda: 0)
    metrics.watch_file("tokens", SimpleNamespace(read_at=1.0, failed_at=0.0, look=lambda: None))
    metrics.watch_certificate(lambda: 1.0)
    metrics.for_model("m", "0" * 64).batch_finished(FinishedBatch(1, 1, 1, [0.1], 0.1, 0.1))
    families = []
    for metric in registry.collect():
        labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
        families.append(_family(metric, labels))
    for metric in VersionMetrics(Registry()).collect():
        families.append(_family(metric, set(metric._labelnames)))  # type: ignore[attr-defined]
    return families


def _family(metric: Metric, labels: set[str]) -> Family:
    suffix = "_total" if metric.type == "counter" else ""
    return Family(metric.name + suffix, metric.type, tuple(sorted(labels)), metric.documentation)


def page_rules(page: str) -> dict[str, Any]:
    """Return the rule groups of the page. A comment behind the name of an alert becomes its summary."""
    (block,) = [block for block in re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S) if "groups:" in block]
    summaries = dict(re.findall(r"^ *- alert: (\w+) +# (.+)$", block, re.M))
    content: dict[str, Any] = yaml.safe_load(block)
    for group in content["groups"]:
        for rule in group["rules"]:
            if summary := summaries.get(rule["alert"]):
                rule["annotations"] = {"summary": summary}
    return content


def prometheus_rule(page: str) -> dict[str, Any]:
    """Return the rules of the page as an object of the Prometheus operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "palm-serve", "labels": {"app.kubernetes.io/name": "palm-serve"}},
        "spec": page_rules(page),
    }


def page_queries(page: str) -> list[tuple[str, str]]:
    """Return title and query of each row that the page recommends: a comment and the line below it in its block of PromQL."""
    (block,) = re.findall(r"^```promql\n(.*?)^```", page, re.M | re.S)
    return re.findall(r"^# (.+)\n(.+)$", block, re.M)


def queries(family: Family) -> list[Query]:
    """Return the queries that show a metric, in the way of its type."""
    labels = [label for label in family.labels if label != "digest"]
    legend = " ".join(f"{{{{{label}}}}}" for label in labels) or "{{instance}}"
    by = ", ".join(labels or ["instance"])
    series = family.name
    if family.kind == "counter":
        return [Query(f"sum by ({by}) (rate({series}{JOB}{RATE}))", legend)]
    if family.kind == "summary":
        seconds = f"sum by ({by}) (rate({series}_sum{JOB}{RATE}))"
        count = f"sum by ({by}) (rate({series}_count{JOB}{RATE}))"
        return [Query(f"{seconds} / {count}", legend)]
    if family.kind == "histogram":
        buckets = f"sum by ({', '.join(['le', *labels])}) (rate({series}_bucket{JOB}{RATE}))"
        return [
            Query(f"histogram_quantile({quantile}, {buckets})", f"{legend} p{round(100 * quantile)}")
            for quantile in (0.5, 0.99)
        ]
    if series.endswith("_timestamp_seconds"):
        # 0 is "never".
        return [Query(f"max by ({by}) ({series}{JOB} > 0) - time()", legend)]
    function = "avg" if series.endswith("_share") else "sum"
    return [Query(f"{function} by ({by}) ({series}{JOB})", legend)]


def unit(name: str) -> str:
    """Return Grafana's unit of a metric."""
    if name.endswith("_seconds"):
        return "s"
    return "percentunit" if name.endswith("_share") else "short"


def _panel(number: int, title: str, description: str, shown: list[Query], measure: str) -> dict[str, Any]:
    """Return a panel of time series, without its place.

    Args:
        number: its id.
        title: what it shows.
        description: text behind the panel's info sign.
        shown: its queries.
        measure: Grafana's name of the unit.
    """
    targets = [
        {"refId": chr(65 + index), "expr": query.expression, "legendFormat": query.legend}
        for index, query in enumerate(shown)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": measure}, "overrides": []},
        "targets": targets,
    }


def dashboard(page: str, families: list[Family]) -> dict[str, Any]:
    """Return the dashboard.

    Raises:
        ValueError: if no row of `ROWS` takes a metric.
    """
    sections: dict[str, list[dict[str, Any]]] = {"Overview": []}
    number = 0
    for title, query in page_queries(page):
        number += 1
        # The page's queries are of all servers; here the job is chosen.
        expression = re.sub(r"\b(palm_\w+)", rf"\1{JOB}", query).replace("[5m]", RATE)
        measure = "percentunit" if title.startswith(("how busy", "share")) else "s" if "p99" in title else "short"
        sections["Overview"].append(
            _panel(number, title[0].upper() + title[1:], "", [Query(expression, "__auto")], measure)
        )
    for heading in ROWS:
        sections[heading] = []
    for family in families:
        if family.description.startswith(DEPRECATED):
            continue
        number += 1
        sections[_row(family.name)].append(
            _panel(number, family.name, family.description, queries(family), unit(family.name))
        )
    for name, (description, measure) in PROCESS.items():
        number += 1
        rate = name.endswith("_total")
        expression = f"rate({name}{JOB}{RATE})" if rate else f"{name}{JOB}"
        panel = _panel(number, name, description, [Query(expression, "{{instance}}")], measure)
        sections["Process, connections and files"].append(panel)
    return _frame(_placed(sections, number))


def _row(name: str) -> str:
    for heading, beginnings in ROWS.items():
        if name.startswith(beginnings):
            return heading
    raise ValueError(f"{name} must be in a row of the dashboard. Add the beginning of its name to ROWS in {__file__}.")


def _placed(sections: dict[str, list[dict[str, Any]]], number: int) -> list[dict[str, Any]]:
    """Return rows and panels with their places. `number` is the last id in use."""
    panels: list[dict[str, Any]] = []
    top = 0
    for heading, members in sections.items():
        number += 1
        place = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        panels.append(
            {"id": number, "type": "row", "title": heading, "collapsed": False, "gridPos": place, "panels": []}
        )
        top += 1
        for index, panel in enumerate(members):
            line, column = divmod(index, WIDTH // PANEL_WIDTH)
            x = column * PANEL_WIDTH
            place = {"h": PANEL_HEIGHT, "w": PANEL_WIDTH, "x": x, "y": top + line * PANEL_HEIGHT}
            panels.append(panel | {"gridPos": place})
        top += -(-len(members) * PANEL_WIDTH // WIDTH) * PANEL_HEIGHT
    return panels


def _frame(panels: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the dashboard around its panels: variables, time range, alerts as annotations."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    variables = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        {
            "name": "job",
            "label": "Job",
            "type": "query",
            "datasource": source,
            "query": {"query": "label_values(palm_serving, job)", "refId": "job"},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": "All", "value": "$__all"},
        },
    ]
    alerts = {
        "name": "Alerts",
        "datasource": source,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Palm.*", alertstate="firing"}',
        "titleFormat": "{{alertname}}",
    }
    return {
        "uid": "palm-serve",
        "title": "palm-serve",
        "tags": ["palm"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": [alerts]},
        "templating": {"list": variables},
        "panels": panels,
    }


def contents() -> dict[Path, str]:
    """Return what each generated file must hold."""
    queries_page = QUERIES_PAGE.read_text(encoding="utf-8")
    rules_page = RULES_PAGE.read_text(encoding="utf-8")
    rules = yaml.safe_dump(prometheus_rule(rules_page), sort_keys=False, width=1000)
    return {
        DASHBOARD: json.dumps(dashboard(queries_page, metric_families()), indent=2) + "\n",
        RULES: f"# From the rules of docs/how-to/serve/alerts.md: {COMMAND}\n{rules}",
    }


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = 0
    for path, content in contents().items():
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue
        stale += 1
        if check:
            print(f"{path.relative_to(ROOT)} is stale. Run: {COMMAND}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            print(path.relative_to(ROOT))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
