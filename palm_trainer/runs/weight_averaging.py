"""Averaging the weights of the best checkpoints: a greedy soup (Wortsman et al. 2022, recipe 1).

While a run trains, the weights of the K best evaluations are kept in `RUN/candidates/`. At the end they are tried from
the best down. A candidate joins the average if the dev score does not fall. The average becomes `best/` only if it
scores higher than the best single candidate.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from palm_trainer.config.atomic_files import replace_file, sync_to_disk
from palm_trainer.errors import CheckpointError
from palm_trainer.model.checkpoint import reading

CANDIDATES = "candidates"
Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Soup:
    """An average of weights: the steps of its members, its dev score, and the weights."""

    steps: tuple[int, ...]
    score: float
    weights: Weights


def add_candidate(
    run: Path, model: nn.Module, step: int, score: float, scores: Mapping[int, float], limit: int
) -> dict[int, float]:
    """Write the model's weights as a candidate if it is among the best.

    Of equal scores the earlier candidate is kept. Candidates that are no longer among the best stay on disk until
    `prune`. A run that is killed before its next checkpoint then still has all candidates of its last one.

    Args:
        run: run directory.
        model: its current weights.
        step: training step of the weights.
        score: dev score of the weights.
        scores: score of each candidate so far, by step.
        limit: number of candidates that are kept.

    Returns:
        The scores of the best candidates by step.

    Raises:
        CheckpointError: the weights could not be written.
    """
    ranked = sorted({**scores, step: score}.items(), key=lambda item: (-item[1], item[0]))[:limit]
    if step in dict(ranked):
        path = _path(run, step)
        try:
            path.parent.mkdir(exist_ok=True)
            weights = {}
            for name, value in model.state_dict().items():
                weights[name] = value.detach().cpu().contiguous().clone()
            with replace_file(path) as temporary:
                save_file(weights, temporary)
                sync_to_disk(temporary)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} could not be written: {error}. "
                "Free some space, lower train.checkpoints.average_best, or choose another output; what was saved before stands."
            ) from error
    return dict(ranked)


def prune(run: Path, steps: Iterable[int]) -> None:
    """Delete the candidates of all other steps."""
    candidates = {_path(run, step) for step in steps}
    for path in (run / CANDIDATES).glob("*"):
        if path not in candidates:
            path.unlink()


def forget(run: Path) -> None:
    """Delete all candidates."""
    shutil.rmtree(run / CANDIDATES, ignore_errors=True)


def greedy_soup(run: Path, scores: Mapping[int, float], judge: Callable[[Weights], float]) -> Soup | None:
    """Average a run's candidates greedily.

    Args:
        run: run directory.
        scores: dev score of each candidate by step.
        judge: returns the dev score of weights.

    Returns:
        The average. None if there are fewer than two candidates, or if they are deleted because it was made before.
    """
    order = sorted(scores, key=lambda step: (-scores[step], step))
    if len(order) < 2 or not all(_path(run, step).exists() for step in order):
        return None
    members = [order[0]]
    best_score = scores[order[0]]
    for step in order[1:]:
        score = judge(average(run, [*members, step]))
        if score >= best_score:
            members.append(step)
            best_score = score
    return Soup(tuple(members), best_score, average(run, members))


def average(run: Path, steps: Sequence[int]) -> Weights:
    """Return the mean of the candidates' weights, summed in float64. Integer tensors are those of the first candidate."""
    first = _read(run, steps[0])
    sums = {}
    for name, value in first.items():
        if value.is_floating_point():
            sums[name] = value.double()
    for step in steps[1:]:
        for name, value in _read(run, step).items():
            if name in sums:
                sums[name] += value.double()
    averages = {}
    for name, value in first.items():
        averages[name] = (sums[name] / len(steps)).to(value.dtype) if name in sums else value
    return averages


def _read(run: Path, step: int) -> Weights:
    path = _path(run, step)
    with reading(f"{path} cannot be read", "Train again."):
        return load_file(path)


def _path(run: Path, step: int) -> Path:
    return run / CANDIDATES / f"step{step}.safetensors"
