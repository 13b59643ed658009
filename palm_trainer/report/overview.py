"""What the page says of the run as a whole: head, training, data, configuration."""

import platform
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median

from palm_trainer.data.formats.text_files import Defect
from palm_trainer.evaluation.evaluate import PRIMARY
from palm_trainer.report.blocks import (
    Block,
    Code,
    Figure,
    Figures,
    Note,
    ReportSection,
    Table,
    TableCell,
    count,
    percent,
)
from palm_trainer.report.charts import Line, histogram, line_chart
from palm_trainer.report.data_summary import Fault, Lengths
from palm_trainer.report.history import History, flat, smoothed
from palm_trainer.report.rows import RunFacts

_PACKAGES = ("palm-nlu", "torch", "transformers", "tokenizers", "numpy")
UNKNOWN = "unknown"
"""The version of what runs without being installed."""
_LABELS_SHOWN = 100
_LOG_FROM = 30.0
"""Losses are drawn on a logarithmic axis when the largest is so many times the smallest."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; `unknown` where one runs without being installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = UNKNOWN
    return found


@dataclass(frozen=True, slots=True)
class Card:
    """A number that is looked at first."""

    name: str
    value: str
    note: str


def cards(facts: RunFacts, kinds: Mapping[str, str], split: str | None) -> list[Card]:
    """The primary metric of each task on a split, with that of the other splits, and the share of texts whose tasks are all right."""
    known = {name: dict(flat(own)) for name, own in facts.metrics.items()}
    wanted = [(task, f"{task}.{PRIMARY[kind]}", _spoken(PRIMARY[kind])) for task, kind in kinds.items()]
    found = []
    for task, name, spoken in (*wanted, ("all tasks", "exact_match", "wholly right texts")):
        value = known.get(split or "", {}).get(name)
        if value is not None:
            others = [
                f"{other} {100 * own[name]:.1f}" for other, own in known.items() if other != split and name in own
            ]
            found.append(Card(task, f"{100 * value:.1f}", "; ".join([f"{spoken}, {split}", *others])))
    return found


def facts_list(facts: RunFacts, history: History) -> list[tuple[str, str]]:
    """What was trained, with what."""
    encoder, config = facts.trained.encoder, facts.config
    told = history.start.get("versions") or versions()
    when = "" if history.start else " (of the machine that wrote this page)"
    parameters = f"{encoder.parameters / 1e6:.1f} M" if encoder.parameters >= 1e6 else f"{encoder.parameters:,}"
    size = f"{encoder.layers} layers of {encoder.hidden_size}, {parameters} parameters"
    best = history.best
    found = [
        ("encoder", f"{encoder.name}: {encoder.family}, {size}, {facts.trained.max_length} tokens at most"),
        ("data", ", ".join(f"{name} ({data.format})" for name, data in config.data.items())),
        ("tasks", ", ".join(_task(name, facts) for name in facts.trained.tasks)),
        ("seed", str(config.train.seed)),
        (
            "best",
            f"epoch {best.epoch:g}, step {best.step:,}, chosen by {config.train.checkpoints.select}"
            if best
            else "not known",
        ),
    ]
    if history.seconds:
        found.append(
            ("time", f"{_duration(history.seconds)}, {history.examples_per_second:.0f} examples/s in training")
        )
    if history.start:
        found.append(("machine", f"{history.start['device']}, {history.start['precision']}"))
    installed = {name: number for name, number in told.items() if number != UNKNOWN}
    found.append(("versions", ", ".join(f"{name} {number}" for name, number in installed.items()) + when))
    return found


def _task(name: str, facts: RunFacts) -> str:
    info = facts.trained.tasks[name]
    labels = f", {len(info.labels)} {'tags' if info.kind == 'sequence_label' else 'labels'}" if info.labels else ""
    return f"{name} ({info.kind}{labels}{', auxiliary' if name in facts.trained.auxiliary else ''})"


def metrics_table(facts: RunFacts) -> Table:
    """Every metric of the best checkpoint, a column a split."""
    splits = list(facts.metrics)
    flattened = {split: dict(flat(facts.metrics[split])) for split in splits}
    names = dict.fromkeys(name for split in splits for name in flattened[split])
    tasks = [*facts.trained.tasks, ""]  # what is not of a task comes last
    rows = []
    for name in sorted(names, key=lambda name: tasks.index(name.rpartition(".")[0])):
        task, _, metric = name.rpartition(".")
        values = (percent(_as_share(name, flattened[split].get(name)), 2) for split in splits)
        rows.append((TableCell(task or "all tasks"), TableCell(_spoken(metric)), *values))
    return Table("Metrics of the best checkpoint", ("task", "metric", *splits), rows, text_columns=2, note=_UNITS)


_UNITS = "In per cent; a perplexity is a number."


def _as_share(name: str, value: float | None) -> float | None:
    """What is told in per cent. A perplexity is no share: it is told as it is."""
    return value / 100 if value is not None and name.endswith("perplexity") else value


def training_section(history: History, kinds: Mapping[str, str]) -> ReportSection:
    """Curves of each task, and a table of all evaluations."""
    figures = []
    best = history.best
    at = best.step if best else None
    for task in dict.fromkeys([*kinds, *history.losses]):
        if task in history.losses:
            figures.append(_loss_figure(task, history.losses[task], at))
        names = [n for n in _metric_names(history) if n.startswith(f"{task}.")]
        if names:
            figures.append(_metric_figure(task, names, history, at))
    if "exact_match" in _metric_names(history):
        figures.append(_metric_figure("all tasks", ["exact_match"], history, at))
    blocks: list[Block] = [Figures(figures)] if figures else [Note("The log holds no step.")]
    names = _metric_names(history)
    rows = [
        (
            TableCell(f"{one.epoch:g}{' best' if one is best else ''}", one.epoch),
            count(one.step),
            *(percent(_as_share(name, one.metrics.get(name)), 2) for name in names),
        )
        for one in history.evaluations
    ]
    if rows and names:
        columns = ("epoch", "step", *(name.replace(".", " ").replace("_", " ") for name in names))
        blocks.append(Table("Every evaluation on dev", columns, rows, note=_UNITS, folded=True))
    return ReportSection(
        "training", "Training", "Loss of the training batches, and metrics on dev after each epoch.", blocks
    )


def _metric_names(history: History) -> list[str]:
    return list(dict.fromkeys(name for one in history.evaluations for name in one.metrics))


def _loss_figure(task: str, points: Sequence[tuple[float, float]], best: float | None) -> Figure:
    values = [loss for _, loss in points]
    log = min(values) > 0 and max(values) / min(values) > _LOG_FROM
    mean = smoothed(points)
    svg = line_chart(
        [Line(points, "faint"), Line(mean, "s1")],
        label=f"{task}: training loss from {mean[0][1]:.3g} to {mean[-1][1]:.3g}",
        x_name="step",
        y_name="loss",
        log=log,
        best=best,
        y_range=None if log else (0.0, max(values)),
    )
    legend = (("faint", "batches as logged"), ("s1", "running mean"))
    return Figure(f"{task}: loss" + (" (logarithmic)" if log else ""), svg, legend=legend)


def _metric_figure(title: str, names: Sequence[str], history: History, best: float | None) -> Figure:
    lines, legend, ends = [], [], []
    for number, name in enumerate(names, 1):
        known = [one for one in history.evaluations if name in one.metrics]
        short = _spoken(name.rpartition(".")[2])
        factor = 1 if name.endswith("perplexity") else 100
        titles = [f"epoch {one.epoch:g}: {short} {factor * one.metrics[name]:.2f}" for one in known]
        points = [(float(one.step), factor * one.metrics[name]) for one in known]
        style = f"s{(number - 1) % 6 + 1}"
        lines.append(Line(points, style, dots=True, titles=titles))
        legend.append((style, short))
        ends.append(f"{short} from {points[0][1]:.1f} to {points[-1][1]:.1f}")
    values = [y for line in lines for _, y in line.points]
    shares = not any(name.endswith("perplexity") for name in names)
    low, high = min(values), max(values)
    margin = max(1.0, 0.05 * (high - low))
    y_range = (max(0.0, low - margin), min(100.0, high + margin) if shares else high + margin)
    label = f"{title} on dev: {', '.join(ends)}{' per cent' if shares else ''}"
    svg = line_chart(lines, label=label, x_name="step", y_name="%" if shares else "", best=best, y_range=y_range)
    return Figure(f"{title}: dev", svg, legend=legend)


@dataclass(frozen=True)
class DataFacts:
    """What was read of the data: lengths by "set split", label counts by task and split, and faults."""

    lengths: Mapping[str, Lengths]
    labels: Mapping[str, Mapping[str, Counter[str]]]
    faults: Sequence[Fault]


def data_section(facts: DataFacts, max_length: int, *, windows: frozenset[str] = frozenset()) -> ReportSection:
    """Lengths, labels and faults. `windows`: the keys of `lengths` that are read in windows, of which nothing is cut."""
    figures, rows = [], []
    for name, found in facts.lengths.items():
        limit = None if name in windows else max_length
        label = f"Token lengths of {name}: {min(found.tokens)} to {max(found.tokens)}"
        figures.append(Figure(f"{name}: length", histogram(found.tokens, label=label, x_name="tokens", limit=limit)))
        share = TableCell("read in windows", 0.0) if name in windows else percent(found.cut / len(found.tokens), 2)
        rows.append(
            (
                TableCell(name),
                count(len(found.tokens)),
                count(int(median(found.tokens))),
                count(max(found.tokens)),
                share,
            )
        )
    columns = ("data", "texts", "median tokens", "longest", f"% cut at {max_length}")
    blocks: list[Block] = [Table("Texts", columns, rows), Figures(figures), _faults(facts.faults)]
    blocks += [_distribution(task, counts) for task, counts in facts.labels.items() if any(counts.values())]
    return ReportSection("data", "Data", "What the model was trained on, and measured on.", blocks)


def _faults(faults: Sequence[Fault]) -> Block:
    if not faults:
        return Note("No fault was found in the data.")
    rows = [(TableCell(f.where), TableCell(f.what), TableCell(f.first), count(f.count)) for f in faults[:_LABELS_SHOWN]]
    columns = ("data", "fault", "first at", "times")
    return Table("Faults found", columns, rows, text_columns=3, more=max(0, len(faults) - _LABELS_SHOWN))


def faults_of(name: str, defects: Sequence[Defect]) -> list[Fault]:
    """What reading a split's files found."""
    return [Fault(name, defect.kind, defect.count, defect.first) for defect in defects]


def _distribution(task: str, counts: Mapping[str, Counter[str]]) -> Table:
    """Shares of each label by split, most frequent first."""
    totals = {split: max(1, own.total()) for split, own in counts.items()}
    first = next(iter(counts.values()))
    names = sorted({n for own in counts.values() for n in own}, key=lambda n: (-first[n], n))
    most = max((own[n] / totals[split] for split, own in counts.items() for n in names), default=1.0) or 1.0
    rows = []
    for name in names[:_LABELS_SHOWN]:
        cells = [TableCell(name)]
        for split, own in counts.items():
            share = own[name] / totals[split]
            cells += [count(own[name]), TableCell(f"{100 * share:.1f}", share, share / most)]
        rows.append(cells)
    columns = ("label", *(text for split in counts for text in (split, f"% of {split}")))
    more = max(0, len(names) - _LABELS_SHOWN)
    return Table(f"{task}: label distribution", columns, rows, more=more, folded=len(names) > 12)


def configuration_section(facts: RunFacts) -> ReportSection:
    """How to do it again, and all settings."""
    run = shlex.quote(str(facts.path))
    settings = shlex.quote(str(facts.path / "config.toml"))
    commands = (
        f"palm-train run {settings} --output {shlex.quote(str(facts.path) + '-again')}\n"
        f"palm-train evaluate {run} --split test\n"
        f"palm-train report {run} --split test\n"
        f"palm-export {run} --output {shlex.quote('bundles/' + facts.path.name)}\n"
    )
    blocks = (
        Code("To do it again, to measure, to export", commands),
        Code("config.toml", facts.config.dump_toml(), "Every setting, defaults included.", folded=True),
    )
    return ReportSection("configuration", "Configuration", "", blocks)


def _spoken(metric: str) -> str:
    return {"f1": "F1", "ece": "calibration error"}.get(metric, metric.replace("_", " "))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
