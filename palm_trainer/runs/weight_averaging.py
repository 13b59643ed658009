"""Averaging the weights of the best checkpoints: a greedy soup (Wortsman et al. 2022, recipe 1).

While a run trains, the weights of the K best evaluations are kept in `RUN/candidates/`. At the end they are gone through from the best down: each
joins the average where dev then scores no lower. The average becomes `best/` only where it scores higher than the best single one.
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

CANDIDATES = "candidates"
Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Soup:
    """The average that was found: steps of its members, its score on dev, and its weights."""

    steps: tuple[int, ...]
    score: float
    weights: Weights


def enter(
    run: Path, model: nn.Module, step: int, score: float, known: Mapping[int, float], most: int
) -> dict[int, float]:
    """Writes the model's weights as a candidate where it is among the `most` best; scores of these by step. Raises CheckpointError.

    Of equal scores the earlier one stays. What fell out stays on disk until `prune`, so that a run which is killed before its next checkpoint finds
    all that its last one knows of.
    """
    ranked = sorted({**known, step: score}.items(), key=lambda item: (-item[1], item[0]))[:most]
    if step in dict(ranked):
        path = _path(run, step)
        try:
            path.parent.mkdir(exist_ok=True)
            weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
            with replace_file(path) as temporary:
                save_file(weights, temporary)
                sync_to_disk(temporary)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} could not be written: {error}. "
                "Free some space, lower train.checkpoints.average_best, or choose another output; what was saved before stands."
            ) from error
    return dict(ranked)


def prune(run: Path, known: Iterable[int]) -> None:
    """Deletes the candidates that are not among the `known` steps."""
    kept = {_path(run, step) for step in known}
    for path in (run / CANDIDATES).glob("*"):
        if path not in kept:
            path.unlink()


def forget(run: Path) -> None:
    """Deletes all candidates."""
    shutil.rmtree(run / CANDIDATES, ignore_errors=True)


def greedy_soup(run: Path, known: Mapping[int, float], judge: Callable[[Weights], float]) -> Soup | None:
    """The soup of a run's candidates; None when there are fewer than two, or they are deleted: it was made before.

    Args:
        run: its directory.
        known: score of each candidate by step.
        judge: score of some weights on dev.
    """
    order = sorted(known, key=lambda step: (-known[step], step))
    if len(order) < 2 or not all(_path(run, step).exists() for step in order):
        return None
    members, best = [order[0]], known[order[0]]
    for step in order[1:]:
        score = judge(average(run, [*members, step]))
        if score >= best:
            members, best = [*members, step], score
    return Soup(tuple(members), best, average(run, members))


def average(run: Path, steps: Sequence[int]) -> Weights:
    """Mean of some candidates' weights, summed in float64; what is not a floating-point number is the first one's."""
    first = load_file(_path(run, steps[0]))
    sums = {name: value.double() for name, value in first.items() if value.is_floating_point()}
    for step in steps[1:]:
        for name, value in load_file(_path(run, step)).items():
            if name in sums:
                sums[name] += value.double()
    return {name: (sums[name] / len(steps)).to(value.dtype) if name in sums else value for name, value in first.items()}


def _path(run: Path, step: int) -> Path:
    return run / CANDIDATES / f"step{step}.safetensors"
