"""Sections -> one HTML file that needs no other: style and script are inside, and its policy lets nothing else load or run."""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from palm_trainer.evaluation.evaluate import Answering, EvaluationSet
from palm_trainer.model.atomic_files import write_file
from palm_trainer.report import overview
from palm_trainer.report.blocks import ReportSection
from palm_trainer.report.data_summary import Fault, Lengths, label_counts, lengths, never_trained, overlap
from palm_trainer.report.history import read_history
from palm_trainer.report.rows import Judged, RunFacts, judge
from palm_trainer.report.sections import task_section

_FOLDER = "page"


def write_report(
    facts: RunFacts,
    kinds: Mapping[str, str],
    split: str | None,
    sets: Sequence[EvaluationSet],
    predictor: Answering,
    output: Path,
) -> None:
    """Writes the report of a run; the file appears whole or not at all.

    Args:
        facts: the run.
        kinds: kind of each task that is evaluated.
        split: name of what `sets` hold, as the data sets call it; None where there is nothing to evaluate on.
        sets: examples that the answers are judged on.
        predictor: answers them; `Recording` where it has done so already. Rankings of multi-label tasks should be complete.
        output: the HTML file.

    Raises OSError where it cannot be written.
    """
    text = render(facts, kinds, split, sets, predictor)
    # A label or a file name may hold an unpaired surrogate, which UTF-8 cannot encode.
    write_file(output, text, errors="replace")


def render(
    facts: RunFacts,
    kinds: Mapping[str, str],
    split: str | None,
    sets: Sequence[EvaluationSet],
    predictor: Answering,
) -> str:
    """The page; arguments as `write_report`."""
    history = read_history(facts.events)
    rows = judge(predictor, kinds, sets)
    data, max_length = _data(facts, kinds, split, sets, rows), facts.trained.max_length
    windows = frozenset(
        f"{name} {part}"
        for task, settings in facts.config.tasks.items()
        if facts.trained.tasks[task].windows is not None
        for name in settings.data
        for part in ("train", split)
    )
    sections: list[ReportSection] = [
        *(
            task_section(task, facts.trained.tasks[task], split or "", own, data.labels.get(task, {}).get("train", {}))
            for task, own in rows.items()
        ),
        overview.training_section(history, kinds),
        overview.data_section(data, max_length, windows=windows),
        overview.configuration_section(facts),
    ]
    style, script = (
        files(__package__).joinpath(_FOLDER, name).read_text("utf-8") for name in ("style.css", "table.js")
    )
    environment = Environment(
        loader=PackageLoader("palm_trainer.report", _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        name=facts.path.resolve().name,
        split=split,
        cards=overview.cards(facts, kinds, split),
        facts=overview.facts_list(facts, history),
        metrics=overview.metrics_table(facts),
        sections=sections,
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _data(
    facts: RunFacts,
    kinds: Mapping[str, str],
    split: str | None,
    sets: Sequence[EvaluationSet],
    rows: Mapping[str, Sequence[Judged]],
) -> overview.DataFacts:
    """Measure the training data and the sets."""
    config, trained = facts.config, facts.trained
    train = {name: facts.splits.read(name, "train") for name in config.data}
    measured: dict[str, Lengths] = {}
    faults: list[Fault] = []
    for name, own in train.items():
        measured[f"{name} train"] = lengths(trained.tokenizer_json, trained.max_length, own.examples)
        faults += overview.faults_of(f"{name} train", own.defects)
    if split is not None and split != "train":
        for one in sets:
            measured[f"{one.data} {split}"] = lengths(trained.tokenizer_json, trained.max_length, one.examples)
            faults += overview.faults_of(f"{one.data} {split}", facts.splits.read(one.data, split).defects)
        faults += overlap(split, {name: own.examples for name, own in train.items()}, sets)
    labels: dict[str, dict[str, Counter[str]]] = {}
    for task, kind in kinds.items():
        if kind == "match" and not trained.tasks[task].labels:
            continue  # a ranker's field holds texts
        field = config.tasks[task].field or ""
        counts = {"train": label_counts(kind, field, (e for d in config.tasks[task].data for e in train[d].examples))}
        if split is not None and split != "train" and task in rows:
            counts[split] = label_counts(kind, field, (row.example for row in rows[task]))
            faults += never_trained(split, task, rows[task], counts["train"], kind)
        labels[task] = counts
    return overview.DataFacts(measured, labels, faults)
