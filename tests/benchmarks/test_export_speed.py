"""How fast exports are: the ratios are the right way round, and the script times real engines."""

import json

import numpy as np
import pytest

from palm_serve.bundle.manifest import Gate
from palm_serve.engine.candidate import PLAIN, Candidate

INT8, BF16 = Candidate("int8", "CPU", "int8"), Candidate("plain", "OpenVINO", "bf16")


@pytest.fixture
def speed():
    import export_speed

    return export_speed


def contender(speed, name, tmp_path):
    return speed.Contender(str(name), tmp_path, "CPU", "fp32")


def test_ratios_say_how_many_times_faster(speed, tmp_path):
    times = {
        str(PLAIN): {(1, 16): 4.0, (32, 16): 40.0},
        str(INT8): {(1, 16): 4.0, (32, 16): 10.0},
        str(BF16): {(1, 16): 2.0, (32, 16): 40.0},
        "control": {(1, 16): 1.0, (32, 16): 1.0},
        speed.TORCH: {(1, 16): 8.0, (32, 16): 5.0},
        "Optimum O1": {(1, 16): 3.0, (32, 16): 50.0},
        "Optimum O3": {(1, 16): 6.0, (32, 16): 30.0},
    }
    graphs = [contender(speed, name, tmp_path) for name in times if name != speed.TORCH]
    ratios = speed.summarize(times, [*graphs, speed.Contender(speed.TORCH, tmp_path)])
    assert ratios[f"{INT8} : {PLAIN}"] == {(1, 16): 1.0, (32, 16): 4.0}
    assert ratios[f"best ({INT8}) : {PLAIN}"] == {
        (1, 16): 1.0,
        (32, 16): 4.0,
    }  # not the control, nor who wins one shape only
    assert ratios["best : Optimum at its best level"] == {(1, 16): 0.75, (32, 16): 3.0}
    assert ratios["best : PyTorch bf16"] == {(1, 16): 2.0, (32, 16): 0.5}
    assert speed.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_inputs_are_of_the_vocabulary_and_not_padded(speed):
    arrays = speed.inputs((3, 8), 10)
    assert arrays["input_ids"].max() == 9
    assert arrays["attention_mask"].all()
    assert {a.shape for a in arrays.values()} == {(3, 8)}
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.int64)}


def test_the_script_times_a_bundle(speed, tmp_path, capsys, make_tiny_bundle):
    gates = (Gate(provider="CUDA", precision="fp32", passed=True), Gate(provider="CPU", precision="fp32", passed=True))
    bundle = make_tiny_bundle(tmp_path / "tiny", gates=gates)
    result = tmp_path / "speed.json"
    shapes = ["--batches", "1", "2", "--lengths", "4"]
    speed.main([str(bundle), *shapes, "--threads", "1", "--rounds", "1", "--seconds", "0", "--json", str(result)])
    found = json.loads(result.read_text(encoding="utf-8"))
    assert set(found["ms"]) == {str(PLAIN), "control"}
    assert set(found["ms"][str(PLAIN)]) == {"1x4", "2x4"}
    assert all(value > 0 for row in found["ms"].values() for value in row.values())
    assert found["ratios"][f"best ({PLAIN}) : {PLAIN}"] == {"1x4": 1.0, "2x4": 1.0}
    assert (found["threads"], found["clock"]) == (1, "wall")
    assert "times faster" in capsys.readouterr().out
