"""Output of `palm-train compare`: run the missing trainings, then compare joint training with single tasks."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from palm_serve.system.plain_text import plain_message
from palm_serve.system.program import OutputLost
from palm_trainer.cli.console import show
from palm_trainer.cli.show import show_faults, show_training
from palm_trainer.compare.compare_trainings import compare_trainings
from palm_trainer.compare.forest_plot import format_difference
from palm_trainer.compare.page import write_page
from palm_trainer.compare.result import ComparisonResult, as_json, write_json
from palm_trainer.compare.trainings import VariantTraining, is_finished, plan_trainings, run_training
from palm_trainer.compare.variants import JOINT, ComparisonPlan, plan_comparison
from palm_trainer.compare.workers import run_trainings
from palm_trainer.config.loader import Config
from palm_trainer.errors import PalmError
from palm_trainer.evaluation.evaluate import EXACT_MATCH
from palm_trainer.runs.events import Event
from palm_trainer.runs.file_names import CONFIG
from palm_trainer.runs.resume import keep_to_encoder_of_run

RESULT, PAGE = "compare.json", "compare.html"


def parse_seeds(text: str) -> list[int]:
    """Parse seeds such as `13,14,15`. Raises PalmError for anything else, and for a repeated seed."""
    seeds: list[int] = []
    for item in text.split(","):
        digits = item.strip()
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 10 or int(digits) >= 2**32:
            raise PalmError(
                f"--seeds must be whole numbers from 0 to 2^32 - 1, separated by commas, got '{text}'. Example: 13,14,15."
            )
        seeds.append(int(digits))
    if len(set(seeds)) < len(seeds):
        raise PalmError(
            f"--seeds must be different numbers, got '{text}'. A repeated seed would count one training twice."
        )
    return seeds


def show_comparison(
    path: Path,
    config: Config,
    seeds: Sequence[int],
    output: Path,
    jobs: int,
    json_file: Path | None,
    *,
    stop: Callable[[], bool],
    guard: Callable[[Iterator[Event]], Iterator[Event]],
    on_output_lost: Callable[[OutputLost], None],
) -> bool:
    """Run the missing trainings, compare, print and write the result. Returns False when `stop` ended it early.

    Args:
        path: file of the configuration.
        config: the configuration.
        seeds: seeds of the trainings.
        output: directory of the runs, compare.json and compare.html.
        jobs: number of concurrent trainings.
        json_file: second file for the content of compare.json.
        stop: called after each step. True ends the training.
        guard: converts memory and disk errors of a training to messages.
        on_output_lost: called when standard output cannot be written during a training.
    """
    for earlier in sorted(output.glob(f"{JOINT}/*/{CONFIG}"))[:1]:
        config = keep_to_encoder_of_run(config, earlier.parent)
    plan = plan_comparison(config)
    trainings = plan_trainings(plan, seeds, output)
    _announce(plan, seeds)
    missing = [training for training in trainings if not is_finished(training, plan)]
    if len(missing) < len(trainings):
        show(f"{len(trainings) - len(missing)} of {len(trainings)} trainings are finished in {output}")
    trained = (
        _in_turn(missing, plan, stop, guard, on_output_lost) if jobs == 1 else _together(missing, plan, jobs, stop)
    )
    if not trained:
        return False
    result = compare_trainings(plan, trainings)
    written = as_json(result, path)
    write_json(output / RESULT, written)
    if json_file is not None:
        write_json(json_file, written)
    write_page(result, path, output / PAGE)
    _show_result(result)
    show(f"written: {output / RESULT}, {output / PAGE}")
    return True


def _in_turn(
    trainings: Sequence[VariantTraining],
    plan: ComparisonPlan,
    stop: Callable[[], bool],
    guard: Callable[[Iterator[Event]], Iterator[Event]],
    on_output_lost: Callable[[OutputLost], None],
) -> bool:
    for number, training in enumerate(trainings, 1):
        show(f"\n[{number}/{len(trainings)}] {training.name}")
        if stop():
            return False
        events = guard(run_training(training, plan, stop))
        if show_training(events, training.config, on_output_lost, with_faults=False):
            return False
    return True


def _together(trainings: Sequence[VariantTraining], plan: ComparisonPlan, jobs: int, stop: Callable[[], bool]) -> bool:
    show(f"{len(trainings)} trainings, {min(jobs, len(trainings))} at a time")
    done = 0
    for done, training in enumerate(run_trainings(trainings, plan, jobs, stop), 1):
        show(f"[{done}/{len(trainings)}] {training.name}: finished")
    return done == len(trainings)


def _announce(plan: ComparisonPlan, seeds: Sequence[int]) -> None:
    for variant in plan.variants:
        batches = ", ".join(f"{number} batches of {name}" for name, number in variant.batches.items())
        tasks = f" ({', '.join(variant.config.tasks)})" if variant.task is None else ""
        show(f"{variant.name}{tasks}: {batches}")
    show(f"{len(plan.variants) * len(seeds)} trainings: seeds {', '.join(map(str, seeds))}")
    show_faults(plan.faults)


def _mean(scores: Mapping[int, float]) -> str:
    return f"{100 * np.mean(list(scores.values())):.2f}"


def _show_result(result: ComparisonResult) -> None:
    table = Table(title="joint training against each task alone, in per cent", title_justify="left")
    for column in ("metric", "on"):
        table.add_column(column)
    for column in ("joint", "alone", "difference [95 %]"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("together")
    for comparison in result.comparisons:
        metric = comparison.metric
        if metric != EXACT_MATCH:
            metric = f"{comparison.scored_task.task} {metric}"
        split = comparison.scored_task.split
        table.add_row(
            metric,
            split,
            _mean(comparison.joint_scores),
            _mean(comparison.alone_scores),
            format_difference(comparison),
            comparison.verdict.replace("no difference", "not"),
        )
        for data, scores in comparison.by_data_set.items():
            table.add_row(f"{metric} ({data})", split, _mean(scores.joint_scores), _mean(scores.alone_scores))
    show(table)
    for note in result.notes:
        show(f"note: {note}")
    for warning in result.warnings:
        print(plain_message(f"warning: {warning}"), file=sys.stderr)
