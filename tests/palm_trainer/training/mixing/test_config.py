"""`[train] mixing` from configuration to loop: quotas, refusals, and resumed runs."""

import re

import pytest
import torch
from safetensors.torch import load_file

from palm_trainer.cli.train import app, command
from palm_trainer.config.schema import TrainConfig
from palm_trainer.errors import ConfigError
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.runs.run import train
from palm_trainer.training.loop import Step

POLICIES = TrainConfig.model_fields["mixing"].annotation.__args__
QUOTAS = {  # travel has 6 batches an epoch, reviews 2, travel is the reference; 3 epochs
    "proportional": {"travel": 18, "reviews": 6},
    "temperature": {"travel": 18, "reviews": 10},
    "uniform": {"travel": 18, "reviews": 18},
    "round_robin": {"travel": 18, "reviews": 18},
    "loss_driven": {"travel": 12, "reviews": 12},
    "per_task_epochs": {"travel": 18, "reviews": 6},
}
EVEN = "data.reviews.mix_ratio=1.0"


@pytest.mark.parametrize("policy", QUOTAS)
def test_mixing_policy_gives_expected_quotas(tiny_config, policy):
    training = job_from_config(tiny_config(f"train.mixing={policy}", EVEN, second=True))
    assert training.loop.mixing.quotas == QUOTAS[policy]
    assert training.loop.total_steps == sum(QUOTAS[policy].values())


def test_mixing_per_task_epochs_are_used(tiny_config):
    config = tiny_config("train.mixing=per_task_epochs", EVEN, "data.reviews.epochs=5", second=True)
    assert job_from_config(config).loop.mixing.quotas == {"travel": 18, "reviews": 10}


def test_mixing_temperature_is_used(tiny_config):
    config = tiny_config("train.mixing=temperature", "train.mixing_temperature=1", EVEN, second=True)
    assert job_from_config(config).loop.mixing.quotas == {"travel": 18, "reviews": 6}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.mixing_temperature=2", r"train.mixing_temperature is only for mixing = 'temperature', got 'mix_ratio'"),
        ("data.reviews.epochs=2", r"data.reviews.epochs is only for train.mixing = 'per_task_epochs', got 'mix_ratio'"),
        ("train.mixing=uniform", r"data.reviews.mix_ratio is only for train.mixing = 'mix_ratio', got 'uniform'"),
        ("train.mixing=zigzag", r"train.mixing must be 'mix_ratio', 'per_task_epochs', .*got 'zigzag'"),
    ],
)
def test_mixing_conflicting_options_are_refused(tiny_config, override, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(override, second=True)


@pytest.mark.parametrize("policy", ["annealed", "loss_driven"])
def test_mixing_resumed_run_is_bit_exact(tiny_config, fit, tmp_path, policy):
    options = ("train.epochs=2", f"train.mixing={policy}", EVEN)
    whole = tiny_config(*options, f"train.output={tmp_path / 'whole'}", second=True)
    fit(whole)
    config, seen = tiny_config(*options, second=True), []
    for event in train(config, stop=lambda: len(seen) >= 7):
        if isinstance(event, Step):
            seen.append(event)
    fit(config, resume=True)
    one, other = (load_file(c.train.output / "last/model.safetensors") for c in (whole, config))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("annealed", r"mixing annealed: steps in the first epoch and in the last: travel 7 and 5, reviews 2 and 4\n"),
        ("loss_driven", r"mixing loss_driven: steps and epochs assume that all losses fall at one rate\n"),
    ],
)
def test_plan_shows_steps_and_epochs(tiny_toml, capsys, policy, said):
    toml = str(tiny_toml(second=True))
    assert command(app, ["plan", toml, "--set", f"train.mixing={policy}", "--set", EVEN]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"│ reviews +│ train +│.*│ +\d+ │ +\d+\.\d │\n", printed)
    assert re.search(said, printed)
