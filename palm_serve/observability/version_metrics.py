"""Prometheus metrics of each version: read from what the registry knows at every scrape, so that requests do not pay for them.

The series are as many as versions in service, and the few that went out last.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from palm_serve.registry import CANARY, SHADOW, LoadedModel, Registry
from palm_serve.registry.statistics import Statistics

VERSION = 12
"""Characters of a digest that a label shows."""

_NANO = 1e-9
_AGREED = {True: "agreed", False: "disagreed"}
_LOADED = {True: "loaded", False: "failed"}


class VersionMetrics(Collector):
    """Of all models of a registry. Called from the thread of the scrape."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def describe(self) -> Iterable[Metric]:
        """Nothing: the models are not there yet when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The values now."""
        yield from self._versions()
        yield from _facts(self._registry.list())
        yield from _queues(self._registry.list())
        yield from _work(self._registry.statistics())
        yield from _shadows(self._registry.statistics())
        loads = CounterMetricFamily("palm_bundle_loads", "Bundles opened, by outcome.", labels=["model", "outcome"])
        for (name, succeeded), times in dict(self._registry.loads).items():
            loads.add_metric([name, _LOADED[succeeded]], times)
        failing = GaugeMetricFamily(
            "palm_bundle_failing",
            "1 while what should be in service under this label cannot be loaded; what was there goes on.",
            labels=["model", "label"],
        )
        for name, label in dict(self._registry.failures):
            failing.add_metric([name, label], 1)
        yield from (loads, failing)

    def _versions(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "palm_version_ready",
            "1 while the version takes requests, by label; what it runs on.",
            labels=["model", "version", "label", "provider", "precision"],
        )
        shares = GaugeMetricFamily(
            "palm_traffic_share",
            "Share of the requests without a version that goes to this label.",
            labels=["model", "label"],
        )
        for model in self._registry.list():
            runs_on = model.info.provider, model.info.precision
            for label in model.labels or ("",):
                info.add_metric([model.name, model.version[:VERSION], label, *runs_on], model.ready)
        for name, traffic in self._registry.shares().items():
            shares.add_metric([name, CANARY], traffic.canary)
            shares.add_metric([name, SHADOW], traffic.shadow)
        yield from (info, shares)


def _facts(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    labels = ["model", "version"]
    info = GaugeMetricFamily("palm_version_info", "1; what is in service.", labels=[*labels, "digest", "variant"])
    created = GaugeMetricFamily("palm_version_created_timestamp_seconds", "When it was exported.", labels=labels)
    loaded = GaugeMetricFamily("palm_version_loaded_timestamp_seconds", "When it was loaded.", labels=labels)
    for model in models:
        values = [model.name, model.version[:VERSION]]
        info.add_metric([*values, model.version, model.info.variant], 1)
        loaded.add_metric(values, model.loaded_at)
        try:
            created.add_metric(values, datetime.fromisoformat(model.manifest.created).timestamp())
        except ValueError:  # the manifest takes any text
            continue
    yield from (info, created, loaded)


def _queues(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    labels = ["model", "version", "priority"]
    requests = GaugeMetricFamily("palm_queue_requests", "Texts that wait for the engine.", labels=labels)
    tokens = GaugeMetricFamily("palm_queue_tokens", "Tokens of the texts that wait.", labels=labels)
    running = GaugeMetricFamily(
        "palm_rows_in_flight", "Texts that the engine has taken and that are not answered yet.", labels=labels[:2]
    )
    for model in models:
        values = [model.name, model.version[:VERSION]]
        running.add_metric(values, model.running)
        for priority, (rows, length) in model.waiting.items():
            requests.add_metric([*values, priority.name.lower()], rows)
            tokens.add_metric([*values, priority.name.lower()], length)
    yield from (requests, tokens, running)


def _work(statistics: Mapping[tuple[str, str], Statistics]) -> Iterator[Metric]:
    labels = ["model", "version"]
    whole = SummaryMetricFamily("palm_version_seconds", "Texts answered, and their time in the server.", labels=labels)
    queue = SummaryMetricFamily(
        "palm_version_queue_seconds", "Texts answered, and what of it they waited.", labels=labels
    )
    failures = CounterMetricFamily("palm_version_failures", "Texts refused, expired or failed.", labels=labels)
    repeated = CounterMetricFamily(
        "palm_version_repeated",
        "Texts answered without a run of their own: kept (an answer of before), shared (the run of an equal text).",
        labels=[*labels, "how"],
    )
    for (name, version), seen in statistics.items():
        values = [name, version[:VERSION]]
        whole.add_metric(values, seen.success.count, seen.success.ns * _NANO)
        queue.add_metric(values, seen.queue.count, seen.queue.ns * _NANO)
        failures.add_metric(values, seen.failure.count)
        for how, times in dict(seen.repeated).items():
            repeated.add_metric([*values, how], times)
    yield from (whole, queue, failures, repeated)


def _shadows(statistics: Mapping[tuple[str, str], Statistics]) -> Iterator[Metric]:
    texts = CounterMetricFamily(
        "palm_shadow_texts",
        "Texts for the shadow: answered, dropped because the engine had other work, failed.",
        labels=["model", "version", "outcome"],
    )
    answers = CounterMetricFamily(
        "palm_shadow_answers",
        "Answers of the shadow by whether they say the same as the stable version's.",
        labels=["model", "version", "task", "outcome"],
    )
    for (name, version), seen in statistics.items():
        for outcome, times in dict(seen.shadowed).items():
            texts.add_metric([name, version[:VERSION], outcome], times)
        for (task, same), times in dict(seen.agreement).items():
            answers.add_metric([name, version[:VERSION], task, _AGREED[same]], times)
    yield from (texts, answers)
