"""The greedy soup of the best checkpoints: by hand, in a run, and after a kill at any of its moments."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from palm_trainer.errors import CheckpointError, ConfigError
from palm_trainer.runs import weight_averaging as averaging
from palm_trainer.runs.events import Averaged, Evaluated
from palm_trainer.runs.run import train


class Point(nn.Module):
    """Two numbers, and a count that no average changes."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(values))
        self.register_buffer("count", torch.tensor(7))


def entered(run, points, most=5):
    """Scores: how near each point is to (1, 1)."""
    known = {}
    for step, values in enumerate(points, 1):
        known = averaging.add_candidate(run, Point(*values), step, nearness({"at": torch.tensor(values)}), known, most)
        averaging.prune(run, known)
    return known


def nearness(weights):
    return float(-(weights["at"] - 1).norm())


def test_a_candidate_joins_where_the_average_is_no_worse(tmp_path):
    """(0.9, 0.6) and (1.1, 1.5) make (1.0, 1.05); the third would pull it away."""
    known = entered(tmp_path, [(0.9, 0.6), (1.1, 1.5), (3.0, 3.0)])
    soup = averaging.greedy_soup(tmp_path, known, nearness)
    assert soup.steps == (1, 2)
    torch.testing.assert_close(soup.weights["at"], torch.tensor([1.0, 1.05]))
    assert soup.score == pytest.approx(-0.05)
    assert int(soup.weights["count"]) == 7


def test_the_best_are_kept_and_no_more(tmp_path):
    known = entered(tmp_path, [(5.0, 5.0), (2.0, 2.0), (2.0, 2.0), (1.0, 3.0), (9.0, 9.0)], most=2)
    assert list(known) == [2, 3]  # of equal ones the earlier
    assert {path.name for path in (tmp_path / "candidates").iterdir()} == {"step2.safetensors", "step3.safetensors"}


def test_what_fell_out_stays_until_the_next_checkpoint(tmp_path):
    """A run that is killed between the two finds all that its last checkpoint knows of."""
    before = entered(tmp_path, [(3.0, 3.0), (2.0, 2.0)], most=2)
    after = averaging.add_candidate(tmp_path, Point(1.0, 1.0), 3, 0.0, before, 2)
    assert set(after) == {2, 3}
    torch.testing.assert_close(averaging.average(tmp_path, list(before))["at"], torch.tensor([2.5, 2.5]))


def test_nothing_to_average(tmp_path):
    known = entered(tmp_path, [(3.0, 3.0)])
    assert averaging.greedy_soup(tmp_path, known, nearness) is None
    known = entered(tmp_path, [(3.0, 3.0), (2.0, 2.0)])
    averaging.forget(tmp_path)
    assert averaging.greedy_soup(tmp_path, known, nearness) is None


def test_a_disk_that_refuses(tmp_path):
    (tmp_path / "candidates").write_text("in the way")
    with pytest.raises(
        CheckpointError, match=r"step1.safetensors could not be written: .*lower train.checkpoints.average_best"
    ):
        averaging.add_candidate(tmp_path, Point(1.0, 1.0), 1, 0.0, {}, 2)


OPTIONS = (
    "train.epochs=3",
    "train.checkpoints.average_best=3",
    "train.evaluations=6",
    "train.schedule='constant'",
    "train.learning_rate=2e-3",
    "train.seed=1",
)
"""With which the average was better where this was written."""


def test_a_run_keeps_the_average_where_it_is_better(tiny_config):
    """Computed here again from the weights of each evaluation; killed and resumed between two evaluations, and once more at the end."""
    config = tiny_config(*OPTIONS)
    run = config.train.output
    weights, scores, found = {}, {}, []

    def collect(events):
        for event in events:
            if isinstance(event, Evaluated):
                scores[event.step] = event.score
                path = run / "candidates" / f"step{event.step}.safetensors"
                if path.exists():
                    weights[event.step] = load_file(path)
            found.extend([event] if isinstance(event, Averaged) else [])

    collect(train(config, stop=lambda: len(scores) >= 3))
    assert not found
    killed = run.with_name("killed")
    shutil.copytree(run, killed)
    collect(train(config, resume=True))
    [average] = found
    members = [weights[step] for step in average.steps]
    assert set(average.steps) <= set(sorted(scores, key=lambda step: (-scores[step], step))[:3])
    assert average.best == (average.score > max(scores.values()))
    wanted = members if average.best else [weights[max(scores, key=lambda step: (scores[step], -step))]]
    best = load_file(run / "best/model.safetensors")
    for name, value in best.items():
        torch.testing.assert_close(value, torch.stack([own[name] for own in wanted]).mean(0), msg=name)
    assert not (run / "candidates").exists()
    logged = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [line["steps"] for line in logged if line["event"] == "average"] == [list(average.steps)]

    again = [event for event in train(config, resume=True) if isinstance(event, Averaged)]
    assert not again
    torch.testing.assert_close(load_file(run / "best/model.safetensors"), best, rtol=0, atol=0)

    copied = config.model_copy(update={"train": config.train.model_copy(update={"output": killed})})
    [same] = [event for event in train(copied, resume=True) if isinstance(event, Averaged)]
    assert same == average


def test_there_must_be_a_dev(tiny_config):
    with pytest.raises(ConfigError, match=r"train.checkpoints.average_best requires a dev split"):
        tiny_config("train.checkpoints.average_best=2", splits=())
