"""Notes and warnings of a comparison: sentences for the terminal, compare.json and compare.html."""

from collections.abc import Sequence

from palm_trainer.compare.result import Comparison
from palm_trainer.compare.statistics import HURT, NO_DIFFERENCE
from palm_trainer.compare.variants import OUT_OF_DOMAIN, ComparisonPlan
from palm_trainer.config.loader import Config
from palm_trainer.tasks import is_scored

RECOMMENDED_SEEDS = 3


def write_notes(plan: ComparisonPlan, seeds: Sequence[int], comparisons: Sequence[Comparison]) -> list[str]:
    """Write a note for each limitation of a comparison.

    Args:
        plan: the comparison.
        seeds: seeds of its trainings.
        comparisons: what it measured.
    """
    notes = _write_seed_notes(seeds)
    tasks_on_dev = [scored_task.task for scored_task in plan.scored_tasks if scored_task.split == "dev"]
    if tasks_on_dev:
        notes.append(
            f"{', '.join(tasks_on_dev)}: scored on dev, because test has no labels. "
            "The checkpoints were selected on dev as well."
        )
    config = plan.joint.config
    tasks_without_dev = []
    for task in plan.kinds:
        if not any(config.data[name].paths("dev") for name in config.tasks[task].data):
            tasks_without_dev.append(task)
    if tasks_without_dev:
        notes.append(
            f"{', '.join(tasks_without_dev)}: no dev split. A training without any dev split keeps its last checkpoint."
        )
    if config.train.mixing == "loss_driven":
        notes.append(
            "mixing = loss_driven draws data sets by their losses. A task alone takes the batches of an even split."
        )
    if not any(scored_task.domain == OUT_OF_DOMAIN for scored_task in plan.scored_tasks):
        notes.append(
            "No out-of-domain text: add `out_of_domain = ...` to [data.NAME] to measure how joint training generalises."
        )
    notes += _write_correction_note(comparisons)
    return notes


def write_warnings(config: Config, comparisons: Sequence[Comparison]) -> list[str]:
    """Write a warning with possible remedies for each task that joint training has hurt."""
    warnings = []
    for comparison in comparisons:
        if comparison.verdict == HURT:
            difference = comparison.difference
            warnings.append(
                f"{comparison.title}: joint training is {-100 * difference.mean:.2f} percentage points worse "
                f"({100 * difference.low:+.2f} to {100 * difference.high:+.2f}), which is negative transfer. "
                f"{_suggest_remedies(config, comparison.scored_task.task)}"
            )
    return warnings


def _write_seed_notes(seeds: Sequence[int]) -> list[str]:
    if len(seeds) == 1:
        return [
            "1 seed: the intervals do not include the variation between seeds. "
            f"Use at least {RECOMMENDED_SEEDS}: --seeds 13,14,15."
        ]
    if len(seeds) < RECOMMENDED_SEEDS:
        return [
            f"{len(seeds)} seeds: the variation between seeds is uncertain, which widens the intervals. "
            f"Use at least {RECOMMENDED_SEEDS}."
        ]
    return []


def _write_correction_note(comparisons: Sequence[Comparison]) -> list[str]:
    """Write which of several differences stay significant with Holm's correction."""
    different = False
    titles = []
    for comparison in comparisons:
        if comparison.verdict != NO_DIFFERENCE:
            different = True
            if comparison.holds:
                titles.append(comparison.title)
    if len(comparisons) < 2 or not different:
        return []
    remaining = f"the difference holds for {', '.join(titles)}" if titles else "no difference holds"
    return [f"{len(comparisons)} comparisons at 95 % each: with Holm's correction {remaining}."]


def _suggest_remedies(config: Config, task: str) -> str:
    """Suggest changes of the configuration, by how the other tasks influence this one.

    `task` is not in the configuration if it stands for several tasks together.
    """
    if task not in config.tasks:
        return (
            "Possible remedies: change the weights of the tasks (tasks.NAME.weight, train.balancing.method), "
            "or train them separately."
        )
    task_data = set(config.tasks[task].data)
    weight_keys = []
    auxiliary_tasks = []
    for name, settings in config.tasks.items():
        if name == task:
            continue
        if task_data & set(settings.data):
            weight_keys.append(f"tasks.{name}.weight")
        if not is_scored(settings):
            auxiliary_tasks.append(name)
    remedies = []
    if weight_keys:
        remedies.append(f"lower {', '.join(weight_keys)}, or set train.balancing.method")
    other_data = [name for name in config.data if name not in task_data]
    if other_data and config.train.mixing == "mix_ratio":
        ratio_keys = [f"data.{name}.mix_ratio" for name in other_data]
        remedies.append(f"lower {', '.join(ratio_keys)}")
    elif other_data:
        remedies.append(f"use fewer batches of {', '.join(other_data)} (train.mixing)")
    if auxiliary_tasks:
        remedies.append(f"remove the auxiliary {', '.join(auxiliary_tasks)}")
    if not remedies:
        return f"Possible remedies: train {task} separately."
    return f"Possible remedies: {'; '.join(remedies)}; or train {task} separately."
