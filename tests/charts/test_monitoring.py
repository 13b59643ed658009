"""Alert rules, the dashboard's queries and the autoscaler's metric with the real promtool."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

FILES = Path(__file__).parents[2] / "charts" / "palm-serve" / "files"


def run_promtool(promtool: Path, *arguments: str | Path) -> tuple[int, str]:
    """Exit code and output."""
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def write_rules(folder: Path, rules: list[dict[str, Any]]) -> Path:
    """A file of rules as Prometheus reads them."""
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "palm", "rules": rules}]}), encoding="utf-8")
    return file


def alert_rules() -> list[dict[str, Any]]:
    """The rules of the PrometheusRule."""
    rule = yaml.safe_load((FILES / "prometheus-rule.yaml").read_text(encoding="utf-8"))
    return [rule for group in rule["spec"]["groups"] for rule in group["rules"]]


def adapter_query() -> str:
    """The query of the autoscaler's metric, for one pod."""
    adapter = yaml.safe_load((FILES / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    (rule,) = adapter["rules"]["custom"]
    query: str = rule["metricsQuery"]
    return query.replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'pod=~"faq-.*"')


def test_promtool_accepts_the_alert_rules(promtool: Path, tmp_path: Path) -> None:
    code, output = run_promtool(promtool, "check", "rules", write_rules(tmp_path, alert_rules()))
    assert code == 0, output
    assert f"{len(alert_rules())} rules found" in output


def test_promtool_accepts_the_queries_of_the_dashboard(promtool: Path, tmp_path: Path) -> None:
    panels = json.loads((FILES / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    rules = []
    for panel in panels:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$__rate_interval", "5m").replace("$job", ".+")
            rules.append({"record": f"panel:{panel['id']}:{target['refId']}", "expr": query})
    code, output = run_promtool(promtool, "check", "rules", write_rules(tmp_path, rules))
    assert code == 0, output
    assert len(rules) > 40


def test_alerts_fire_when_they_should_and_not_before(promtool: Path, tmp_path: Path) -> None:
    """Series of a server that is well for half an hour, then refuses one call in ten and loses its engine."""
    labels = '{job="palm-serve",instance="a"}'
    call = 'palm_requests_total{job="palm-serve",instance="a",method="Parse",door="grpc",code="%s"}'
    series = [
        {"series": f"up{labels}", "values": "1x60"},
        {"series": f"palm_serving{labels}", "values": "1x60"},
        {"series": call % "OK", "values": "0+600x60"},
        {"series": call % "RESOURCE_EXHAUSTED", "values": "0x30 0+60x30"},
        {"series": 'palm_version_ready{job="palm-serve",instance="a",model="m",version="v"}', "values": "1x30 0x30"},
    ]

    def alert(name: str, minute: int, *expected: dict[str, str]) -> dict[str, Any]:
        summaries = {rule["alert"]: rule.get("annotations", {}) for rule in alert_rules()}
        alerts = [{"exp_labels": one, "exp_annotations": summaries[name]} for one in expected]
        return {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": alerts}

    ready = {"job": "palm-serve", "instance": "a", "model": "m", "version": "v", "severity": "page"}
    tests = [
        alert("PalmOverload", 29),
        alert("PalmOverload", 45, {"severity": "page"}),
        alert("PalmModelNotReady", 29),
        alert("PalmModelNotReady", 40, ready),
        alert("PalmNotServing", 60),
        alert("PalmServerErrors", 60),
    ]
    rules = write_rules(tmp_path, alert_rules())
    file = tmp_path / "tests.yaml"
    content = {
        "rule_files": [rules.name],
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": tests}],
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    code, output = run_promtool(promtool, "test", "rules", file)
    assert code == 0, output


def test_metric_of_the_autoscaler_is_the_mean_wait_of_a_pod(promtool: Path, tmp_path: Path) -> None:
    """10 texts a second that waited 30 ms each, and a pod without calls, which waits 0 s and is not left out."""
    series = [
        {"series": 'palm_queue_seconds_sum{pod="faq-1"}', "values": "0+18x10"},
        {"series": 'palm_queue_seconds_count{pod="faq-1"}', "values": "0+600x10"},
        {"series": 'palm_queue_seconds_sum{pod="faq-2"}', "values": "5x10"},
        {"series": 'palm_queue_seconds_count{pod="faq-2"}', "values": "100x10"},
    ]
    samples = [{"labels": '{pod="faq-1"}', "value": 0.03}, {"labels": '{pod="faq-2"}', "value": 0}]
    query = adapter_query().replace("[1m]", "[2m]")  # the series of this test have a sample a minute
    expected = [{"expr": query, "eval_time": "8m", "exp_samples": samples}]
    content = {"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": expected}]}
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    code, output = run_promtool(promtool, "test", "rules", file)
    assert code == 0, output
