"""Prometheus metrics of each model version, read from the registry at every scrape, so that requests do not pay for them.

There are series for the versions in service and for the few that were replaced last.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from palm_serve.registry import CANARY, SHADOW, LoadedModel, Registry
from palm_serve.registry.statistics import ModelStatistics

VERSION_CHARACTERS = 12
"""Characters of a bundle digest in a label."""

_NANO = 1e-9
_AGREEMENT = {True: "agreed", False: "disagreed"}
_OUTCOME = {True: "loaded", False: "failed"}


class VersionMetrics(Collector):
    """Collects the metrics of all models of a registry, on the thread of the scrape."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def describe(self) -> Iterable[Metric]:
        """Return nothing: no model is loaded yet when this collector is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        yield from self._versions()
        yield from _version_facts(self._registry.list())
        yield from _queues(self._registry.list())
        yield from _totals(self._registry.statistics())
        yield from _shadows(self._registry.statistics())
        loads = CounterMetricFamily(
            "palm_bundle_loads", "Bundles opened by outcome: loaded, failed.", labels=["model", "outcome"]
        )
        for (name, succeeded), count in dict(self._registry.loads).items():
            loads.add_metric([name, _OUTCOME[succeeded]], count)
        failing = GaugeMetricFamily(
            "palm_bundle_failing",
            "1 while the version that should serve under this label cannot be read or loaded. The former version stays in service.",
            labels=["model", "label"],
        )
        for name, label in dict(self._registry.failures):
            failing.add_metric([name, label], 1)
        watch_failing = GaugeMetricFamily(
            "palm_watch_failing", "1 while the watched directory cannot be read or is empty. What is in service stays."
        )
        watch_failing.add_metric([], bool(self._registry.watch_failure))
        yield from (loads, failing, watch_failing)

    def _versions(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "palm_version_ready",
            "1 while the version accepts requests, with its label, execution provider and precision.",
            labels=["model", "version", "label", "provider", "precision"],
        )
        shares = GaugeMetricFamily(
            "palm_traffic_share",
            "Share of the requests without a version that is routed or mirrored to this label.",
            labels=["model", "label"],
        )
        for model in self._registry.list():
            engine = model.info.provider, model.info.precision
            for label in model.labels or ("",):
                info.add_metric([model.name, model.version[:VERSION_CHARACTERS], label, *engine], model.ready)
        for name, traffic in self._registry.shares().items():
            shares.add_metric([name, CANARY], traffic.canary)
            shares.add_metric([name, SHADOW], traffic.shadow)
        yield from (info, shares)


def _version_facts(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    labels = ["model", "version"]
    info = GaugeMetricFamily(
        "palm_version_info",
        "Always 1. The labels hold the full digest and the variant in service.",
        labels=[*labels, "digest", "variant"],
    )
    created = GaugeMetricFamily(
        "palm_version_created_timestamp_seconds", "Unix time at which the bundle was exported.", labels=labels
    )
    loaded = GaugeMetricFamily(
        "palm_version_loaded_timestamp_seconds", "Unix time at which the version was loaded.", labels=labels
    )
    for model in models:
        values = [model.name, model.version[:VERSION_CHARACTERS]]
        info.add_metric([*values, model.version, model.info.variant], 1)
        loaded.add_metric(values, model.loaded_at)
        try:
            created.add_metric(values, datetime.fromisoformat(model.manifest.created).timestamp())
        except ValueError:  # the manifest accepts any text
            continue
    yield from (info, created, loaded)


def _queues(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    labels = ["model", "version", "priority"]
    requests = GaugeMetricFamily("palm_queue_requests", "Texts waiting for the engine.", labels=labels)
    tokens = GaugeMetricFamily("palm_queue_tokens", "Tokens of the waiting texts.", labels=labels)
    running = GaugeMetricFamily(
        "palm_rows_in_flight", "Texts that the engine has started and that are not answered yet.", labels=labels[:2]
    )
    for model in models:
        values = [model.name, model.version[:VERSION_CHARACTERS]]
        running.add_metric(values, model.running)
        for priority, (rows, length) in model.waiting.items():
            requests.add_metric([*values, priority.name.lower()], rows)
            tokens.add_metric([*values, priority.name.lower()], length)
    yield from (requests, tokens, running)


def _totals(statistics: Mapping[tuple[str, str], ModelStatistics]) -> Iterator[Metric]:
    labels = ["model", "version"]
    total = SummaryMetricFamily(
        "palm_version_seconds", "Answered texts and their seconds in the server.", labels=labels
    )
    queue = SummaryMetricFamily(
        "palm_version_queue_seconds", "Answered texts and their seconds in the queue.", labels=labels
    )
    failures = CounterMetricFamily(
        "palm_version_failures", "Texts that were refused, expired or failed.", labels=labels
    )
    repeated = CounterMetricFamily(
        "palm_version_repeated",
        "Texts answered without a run of their own: kept (from the answer cache), shared (with an equal request in flight).",
        labels=[*labels, "how"],
    )
    unresolved = CounterMetricFamily(
        "palm_values_unresolved",
        "Values that a resolver did not read: failed, timeout, restarting (after one of these), busy (too many wait).",
        labels=[*labels, "reason"],
    )
    for (name, version), figures in statistics.items():
        values = [name, version[:VERSION_CHARACTERS]]
        for reason, count in dict(figures.unresolved).items():
            unresolved.add_metric([*values, reason], count)
        total.add_metric(values, figures.success.count, figures.success.ns * _NANO)
        queue.add_metric(values, figures.queue.count, figures.queue.ns * _NANO)
        failures.add_metric(values, figures.failure.count)
        for how, count in dict(figures.repeated).items():
            repeated.add_metric([*values, how], count)
    yield from (total, queue, failures, repeated, unresolved)


def _shadows(statistics: Mapping[tuple[str, str], ModelStatistics]) -> Iterator[Metric]:
    texts = CounterMetricFamily(
        "palm_shadow_texts",
        "Texts mirrored to the shadow by outcome: answered, dropped (the engine was busy), failed.",
        labels=["model", "version", "outcome"],
    )
    answers = CounterMetricFamily(
        "palm_shadow_answers",
        "Answers of the shadow compared with the stable version's: agreed, disagreed.",
        labels=["model", "version", "task", "outcome"],
    )
    for (name, version), figures in statistics.items():
        for outcome, count in dict(figures.shadowed).items():
            texts.add_metric([name, version[:VERSION_CHARACTERS], outcome], count)
        for (task, agrees), count in dict(figures.agreement).items():
            answers.add_metric([name, version[:VERSION_CHARACTERS], task, _AGREEMENT[agrees]], count)
    yield from (texts, answers)
