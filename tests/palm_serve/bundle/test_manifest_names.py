"""Names in a manifest, and the shape of what its graph answers."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from palm_serve.bundle.manifest import Calibration, TaskInfo
from palm_serve.decoding import check_outputs
from palm_serve.errors import EngineError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ["go", "play", "go"]}, "names must differ, got 'go' twice"),
        ({"labels": ["x" * 1_000_000]}, "a name must have at most 10,000 characters, got 1,000,000"),
        *[({"labels": ["go", name]}, "a name must have a visible character, got") for name in ("", " ", "\t\n")],
        ({"outputs": ["a.logits", "a.logits"]}, "names must differ, got 'a.logits' twice"),
    ],
)
def test_names_of_a_task_differ_and_are_short(fields: dict[str, Any], message: str) -> None:
    task = {"kind": "classify", "outputs": ["a.logits"], "labels": ["go", "play"]}
    TaskInfo.model_validate(task)
    with pytest.raises(ValidationError, match=message):
        TaskInfo.model_validate({**task, **fields})


def test_temperature_that_makes_infinite_logits_is_refused() -> None:
    with pytest.raises(ValidationError, match="temperature"):
        Calibration.model_validate({"temperature": 1e-300})


def test_graph_that_answers_one_row_for_any_batch_is_told() -> None:
    task = TaskInfo(kind="classify", outputs=("a.logits",), labels=("go", "play"))
    logits = np.zeros((1, 2), np.float32)
    check_outputs("a", task, {"a.logits": logits}, rows=1)
    with pytest.raises(EngineError, match=r"'a' must have 3 rows for as many texts, got \[1, 2\]"):
        check_outputs("a", task, {"a.logits": logits}, rows=3)
