"""Output of `palm-train plan`: data, tasks and steps of a run, and the defects of its files."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from palm_trainer.cli.console import show
from palm_trainer.config.atomic_files import check_output_place
from palm_trainer.config.loader import Config, DataConfig, TaskConfig
from palm_trainer.config.schema import GRADIENT_METHODS
from palm_trainer.data.example import Example
from palm_trainer.data.formats.text_files import FormatOptions
from palm_trainer.data.sampler import padding_share
from palm_trainer.data.splits import Splits
from palm_trainer.runs.data_checks import ReadSplits, TokenizedSplits, find_faults, read_splits, tokenize_job
from palm_trainer.tasks import task_kind
from palm_trainer.tasks.fields import resolve_fields

if TYPE_CHECKING:  # `--data-only` needs no torch, which takes seconds to load
    from palm_trainer.runs.job import Job


def show_plan(config: Config, *, data_only: bool = False) -> None:
    """Print the plan of a run without training. `data_only`: read the files, but tokenize nothing."""
    check_output_place(config.train.output)
    if data_only:
        read = read_splits(Splits(config.data, seed=config.train.seed))
        config = resolve_fields(config, {name: splits["train"].examples for name, splits in read.items()})
        show(_row_table(read))
        show(_task_table(config, read))
        _show_faults(config, read, {})
        return
    from palm_trainer.cli.show import announce
    from palm_trainer.runs.job_from_config import job_from_config

    job = job_from_config(config)
    read = read_splits(job.evaluation.splits)
    tokenized = tokenize_job(job)
    show(_work_table(job, read, tokenized))
    show(_task_table(job.config, read))
    _show_faults(job.config, read, tokenized)
    for line in _substitutions(job):
        show(line)
    encoder = job.trained.encoder
    show(
        f"encoder {encoder.name}: {encoder.family}, {encoder.layers} layers of {encoder.hidden_size}, "
        f"{encoder.parameters / 1e6:.1f} M parameters, pooling {job.config.encoder.pooling}"
    )
    if len(read) > 1:
        show(_order(job))
    show(_effort(job))
    announce(job, 0)


def _order(job: "Job") -> str:
    """Describe the order of the data sets."""
    from palm_trainer.training.mixing import LossDriven, PlannedMixing, RoundRobin

    mixing, policy = job.loop.mixing, job.config.train.mixing
    if isinstance(mixing, LossDriven):
        return f"mixing {policy}: steps and epochs assume that all losses fall at one rate"
    if isinstance(mixing, PlannedMixing) and len(mixing.phases) > 1:
        first, last = mixing.phases[0], mixing.phases[-1]
        listed = ", ".join(f"{name} {first[name]} and {last[name]}" for name in first)
        return f"mixing {policy}: steps in the first epoch and in the last: {listed}"
    return f"mixing {policy}: exactly so many steps, {'in turn' if isinstance(mixing, RoundRobin) else 'shuffled'}"


def _substitutions(job: "Job") -> Iterator[str]:
    """Describe where the values that `substitute` draws come from."""
    for name, source in job.loop.sources.items():
        substitution = source.dataset.substitution
        if substitution is not None:
            listed = [f"{label} {len(texts)}" for label, texts in substitution.listed.items() if texts]
            count = sum(map(len, substitution.listed.values()))
            details = f" ({', '.join(listed)})" if listed else ""
            probability = job.config.data[name].substitute
            yield f"{name}: substitute = {probability:g} draws values of the examples, and {count} further values of lists{details}"


def _effort(job: "Job") -> str:
    """Describe the parameters that a step trains and its passes over a batch."""
    train = job.config.train
    count = sum(weights.numel() for weights in job.trained.model.parameters() if weights.requires_grad)
    reasons = []
    for key in ("r_drop", "fgm"):
        if getattr(train.regularization, key):
            reasons.append(f"train.regularization.{key}")
    method = train.balancing.method
    passes = f"; {2 ** len(reasons)} passes over each batch ({', '.join(reasons)})" if reasons else ""
    several = method in ("gradnorm", *GRADIENT_METHODS)
    extent = " down to the last block" if method == "gradnorm" else ""
    balanced = f"; {method}: a backward pass for each task of a data set{extent}" if several else ""
    return f"a step trains {count / 1e6:.1f} M parameters, heads included and pieces that no text holds left out{passes}{balanced}"


def _row_table(read: ReadSplits) -> Table:
    table = _table("data", ("data set", "split"), ("rows",))
    for name, splits in read.items():
        for split, content in splits.items():
            table.add_row(name, split, str(len(content.examples)))
    return table


def _work_table(job: "Job", read: ReadSplits, tokenized: TokenizedSplits) -> Table:
    numbers = ("rows", "tokens (median / longest)", "cut", "batches an epoch", "padding", "steps", "epochs")
    table = _table("data", ("data set", "split"), numbers)
    for name, splits in read.items():
        for split, content in splits.items():
            measured = tokenized[name][split]
            rows, read_as = len(content.examples), len(measured.tokens)
            table.add_row(
                name,
                split,
                str(rows) if rows == read_as else f"{rows} in {read_as} windows",
                f"{np.median(measured.tokens):.0f} / {max(measured.tokens)}" if read_as else "",
                str(len(measured.cut)),
                *(_work(job, name) if split == "train" else ()),
            )
    return table


def _work(job: "Job", name: str) -> tuple[str, str, str, str]:
    """Return batches per epoch, padding, steps and epochs as text."""
    source = job.loop.sources[name]
    batches, steps = source.sampler.batches_per_epoch, job.loop.mixing.quotas[name]
    padding = padding_share(source.dataset.lengths, [source.sampler.next() for _ in range(batches)])
    return str(batches), f"{padding:.1%}", str(steps), f"{steps / batches:.1f}"


def _task_table(config: Config, read: ReadSplits) -> Table:
    table = _table("tasks", ("task", "kind", "role", "field", "data", "labels in train"), ())
    for name, task in config.tasks.items():
        examples: list[Example] = []
        for data in task.data:
            examples += read[data]["train"].examples
        table.add_row(name, task.kind, task.role, task.field or "", ", ".join(task.data), _learnt(task, examples))
    return table


def _learnt(task: TaskConfig, examples: list[Example]) -> str:
    """Describe the labels of a task's training examples."""
    if task.field is None:
        return ""
    return task_kind(task.kind).field_summary(task, task.field, examples)


def _show_faults(config: Config, read: ReadSplits, tokenized: TokenizedSplits) -> None:
    for name, data in config.data.items():
        show(f"{name}: format {_reading(data)}")
        for fault in find_faults(config, name, read[name], tokenized.get(name, {})):
            show(f"  {fault}")


def _reading(data: DataConfig) -> str:
    """Return the format and the options that are set."""
    options = data.options()
    default = asdict(FormatOptions())
    settings = [data.format]
    for name, value in options.items():
        if value != default[name]:
            settings.append(f"{name} = {value!r}")
    return ", ".join(settings)


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in (*texts, *numbers):
        table.add_column(column, justify="right" if column in numbers else "left")
    return table
