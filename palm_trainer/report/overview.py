"""Head and end of the page: main metrics, facts of the run, all metrics, and its configuration."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from palm_trainer.evaluation.evaluate import BY_DATA_SET, EXACT_MATCH, Metrics
from palm_trainer.report.blocks import Code, ReportSection, Table, TableCell, percent_cell
from palm_trainer.report.history import History, flatten_metrics
from palm_trainer.report.metric_text import UNITS_NOTE, is_percentage, metric_title
from palm_trainer.report.rows import RunFacts
from palm_trainer.report.versions import UNKNOWN_VERSION, installed_versions
from palm_trainer.tasks import task_kind

_ALL_TASKS = "all tasks"


@dataclass(frozen=True, slots=True)
class Card:
    """A main metric at the top of the page."""

    name: str
    value: str
    note: str


def make_cards(facts: RunFacts, kinds: Mapping[str, str], split: str | None) -> list[Card]:
    """Make a card with the primary metric of each task, and one with the exact match of all tasks.

    The note of a card has the values of the other splits.

    Args:
        facts: the run.
        kinds: kind of each task that is evaluated.
        split: name of the split, or None if there is none.
    """
    metrics_by_split = {}
    for name, metrics in facts.metrics.items():
        metrics_by_split[name] = flatten_metrics(metrics)
    card_metrics = []
    for task, kind in kinds.items():
        metric = task_kind(kind).primary_metric
        card_metrics.append((task, f"{task}.{metric}", metric_title(metric)))
    card_metrics.append((_ALL_TASKS, EXACT_MATCH, "all tasks right"))
    cards = []
    for card_name, metric, title in card_metrics:
        value = metrics_by_split.get(split or "", {}).get(metric)
        if value is None:
            continue
        notes = [f"{title}, {split}"]
        for other_split, metrics in metrics_by_split.items():
            if other_split != split and metric in metrics:
                notes.append(f"{other_split} {100 * metrics[metric]:.1f}")
        cards.append(Card(card_name, f"{100 * value:.1f}", "; ".join(notes)))
    return cards


def list_facts(facts: RunFacts, history: History) -> list[tuple[str, str]]:
    """List the facts of a run as pairs of a term and a text."""
    config = facts.config
    data_names = []
    for name, data in config.data.items():
        data_names.append(f"{name} ({data.format})")
    tasks = [_describe_task(name, facts) for name in facts.trained.tasks]
    pairs = [
        ("encoder", _describe_encoder(facts)),
        ("data", ", ".join(data_names)),
        ("tasks", ", ".join(tasks)),
        ("seed", str(config.train.seed)),
        ("best", _describe_best(facts, history)),
    ]
    if history.seconds:
        speed = f"{history.examples_per_second:.0f} examples/s in training"
        pairs.append(("time", f"{_format_duration(history.seconds)}, {speed}"))
    if history.start:
        pairs.append(("machine", f"{history.start['device']}, {history.start['precision']}"))
    pairs.append(("versions", _describe_versions(history)))
    return pairs


def make_metrics_tables(facts: RunFacts) -> list[Table]:
    """Make tables of the metrics of the best checkpoint, with a column for each split.

    The first is over all data sets. The second, if there are any, has the scores of single data sets.
    """
    metrics = {}
    by_data_set: dict[str, dict[str, Metrics]] = {}
    splits = list(facts.metrics)
    for split, split_metrics in facts.metrics.items():
        metrics[split] = dict(split_metrics)
        for data, data_metrics in metrics[split].pop(BY_DATA_SET, {}).items():
            by_split = by_data_set.setdefault(data, {name: {} for name in splits})
            by_split[split] = data_metrics
    columns = ("task", "metric", *splits)
    rows = _make_metric_rows(facts, metrics)
    tables = [Table("Metrics of the best checkpoint", columns, rows, text_columns=2, note=UNITS_NOTE)]
    if by_data_set:
        data_rows = []
        for data, data_metrics_by_split in by_data_set.items():
            for row in _make_metric_rows(facts, data_metrics_by_split):
                data_rows.append([TableCell(data), *row])
        title = "Metrics of each data set that shares a task with another"
        tables.append(Table(title, ("data set", *columns), data_rows, text_columns=3, note=UNITS_NOTE))
    return tables


def _make_metric_rows(facts: RunFacts, metrics: Mapping[str, Metrics]) -> list[list[TableCell]]:
    """Make a row for each metric, with a cell for each split."""
    metrics_by_split = {}
    names: dict[str, None] = {}
    for split, split_metrics in metrics.items():
        metrics_by_split[split] = flatten_metrics(split_metrics)
        names.update(dict.fromkeys(metrics_by_split[split]))
    tasks = [*facts.trained.tasks, ""]  # Metrics of all tasks come last.
    rows = []
    for name in sorted(names, key=lambda name: tasks.index(name.rpartition(".")[0])):
        task, _, metric = name.rpartition(".")
        row = [TableCell(task or _ALL_TASKS), TableCell(metric_title(metric))]
        for split_values in metrics_by_split.values():
            row.append(metric_cell(name, split_values.get(name)))
        rows.append(row)
    return rows


def metric_cell(name: str, value: float | None) -> TableCell:
    """Format the value of a metric: in per cent, or as it is for a perplexity."""
    if value is not None and not is_percentage(name):
        value /= 100
    return percent_cell(value, 2)


def make_configuration_section(facts: RunFacts) -> ReportSection:
    """Make the section with the commands to repeat the run and with all its settings."""
    run = shlex.quote(str(facts.path))
    settings = shlex.quote(str(facts.path / "config.toml"))
    commands = (
        f"palm-train run {settings} --output {shlex.quote(str(facts.path) + '-again')}\n"
        f"palm-train evaluate {run} --split test\n"
        f"palm-train report {run} --split test\n"
        f"palm-export {run} --output {shlex.quote('bundles/' + facts.path.name)}\n"
    )
    blocks = (
        Code("Commands to repeat, evaluate and export this run", commands),
        Code("config.toml", facts.config.dump_toml(), "All settings, including defaults.", folded=True),
    )
    return ReportSection("configuration", "Configuration", "", blocks)


def _describe_encoder(facts: RunFacts) -> str:
    encoder = facts.trained.encoder
    parameters = f"{encoder.parameters:,}"
    if encoder.parameters >= 1e6:
        parameters = f"{encoder.parameters / 1e6:.1f} M"
    size = f"{encoder.layers} layers of {encoder.hidden_size}, {parameters} parameters"
    return f"{encoder.name}: {encoder.family}, {size}, at most {facts.trained.max_length} tokens"


def _describe_task(name: str, facts: RunFacts) -> str:
    info = facts.trained.tasks[name]
    details = [info.kind]
    if info.labels:
        unit = task_kind(info.kind).label_noun
        details.append(f"{len(info.labels)} {unit}")
    if name in facts.trained.auxiliary:
        details.append("auxiliary")
    given_task = getattr(facts.config.tasks.get(name), "given", None)
    if info.decode.given:
        details.append(f"decoded given {info.decode.given}")
    elif given_task:
        details.append(f"not decoded given {given_task}, which dev speaks against")
    return f"{name} ({', '.join(details)})"


def _describe_best(facts: RunFacts, history: History) -> str:
    best = history.best
    if best is None:
        return "unknown"
    return f"epoch {best.epoch:g}, step {best.step:,}, selected by {facts.config.train.checkpoints.select}"


def _describe_versions(history: History) -> str:
    """Describe the versions of the training, or those of this machine for a run without a log."""
    versions = history.start.get("versions") or installed_versions()
    names = []
    for name, number in versions.items():
        if number != UNKNOWN_VERSION:
            names.append(f"{name} {number}")
    text = ", ".join(names)
    return text if history.start else f"{text} (of the machine that wrote this page)"


def _format_duration(seconds: float) -> str:
    minutes, remaining_seconds = divmod(round(seconds), 60)
    hours, remaining_minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {remaining_minutes} min"
    if minutes:
        return f"{minutes} min {remaining_seconds} s"
    return f"{remaining_seconds} s"
