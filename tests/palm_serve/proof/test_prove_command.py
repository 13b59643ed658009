"""`palm-serve prove`, and options that name a provider: real processes, real engines."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def call(tmp_path: Path) -> Any:
    """Return a function that runs `palm-serve` with an empty cache."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "palm_serve.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)

    return run


def test_prove_prints_a_table_and_keeps_the_outcome(call, proven_bundle, tmp_path):
    done = call("prove", proven_bundle)
    assert done.returncode == 0, done.stderr
    header, *rows, last = done.stdout.splitlines()
    assert header.split()[:3] == ["variant", "provider", "precision"]
    (plain,) = [row for row in rows if row.split()[:3] == ["plain", "CPU", "fp32"]]
    assert plain.split()[-1] == "passed"
    assert "100.00 %" in plain
    assert last.startswith("proven ")
    assert last.endswith("432 dev examples, 64 random shapes")
    assert list((tmp_path / "cache" / "palm").glob("proof-*.json"))


def test_prove_prints_json(call, proven_bundle):
    done = call("prove", proven_bundle, "--provider", "CPU", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (row,) = document["rows"]
    assert (row["variant"], row["provider"], row["precision"], row["outcome"]) == ("plain", "CPU", "fp32", "passed")
    assert row["figures"]["examples"] == 432
    assert row["latency_ms"] > 0


def test_prove_of_a_provider_that_is_missing_fails(call, proven_bundle):
    """The CPU build of ONNX Runtime is installed here."""
    done = call("prove", proven_bundle, "--provider", "CUDA")
    assert done.returncode == 1, done.stderr
    assert "provider 'CUDA' is not available on this machine" in done.stdout


def test_prove_of_a_lie_fails(call, make_proven_bundle, reseal_bundle, tmp_path):
    """The graph was changed after the proof was recorded: it answers another intent."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    path = make_proven_bundle(tmp_path / "changed")
    model = onnx.load(path / "model.onnx")
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == "w_intent"]
    weight.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(weight), 1, axis=1), "w_intent"))
    onnx.save(model, path / "model.onnx")
    done = call("prove", reseal_bundle(path), "--provider", "CPU")
    assert done.returncode == 1, done.stderr
    assert "the limit is a difference of 0.0001" in done.stdout


@pytest.mark.parametrize("provider", ["Abacus", "CUDA,CPU", ""])
def test_prove_with_an_unknown_provider_is_wrong_usage(call, proven_bundle, provider):
    done = call("prove", proven_bundle, "--provider", provider)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_prove_of_an_earlier_bundle_is_told(call, tiny_bundle):
    done = call("prove", tiny_bundle)
    assert done.returncode == 2
    assert "must hold proof.npz, got none: it was exported by an earlier version. Export it again." in done.stderr


@pytest.mark.parametrize("bundle_name", ["proven_bundle", "tiny_bundle"])
def test_server_with_a_provider_that_is_missing_ends(call, request, bundle_name):
    """It used to serve on the CPU with a line in the log."""
    done = call("run", request.getfixturevalue(bundle_name), "--provider", "CUDA", "--port", "0")
    assert done.returncode == 2
    assert "provider 'CUDA' is not available on this machine" in done.stderr


@pytest.mark.parametrize("bundle_name", ["proven_bundle", "tiny_bundle"])
def test_check_with_a_named_fallback_uses_it(call, request, bundle_name):
    done = call("check", request.getfixturevalue(bundle_name), "--provider", "CUDA,CPU")
    assert done.returncode == 0, done.stderr
    assert "CPU in fp32" in done.stdout
    assert "trying the next of --provider CUDA,CPU" in done.stderr


def test_run_with_an_unknown_provider_is_wrong_usage(call, proven_bundle):
    done = call("run", proven_bundle, "--provider", "CUDA,Abacus")
    assert done.returncode == 2
    assert "--provider must be auto, CPU, OpenVINO, CUDA, TensorRT, or several with commas" in done.stderr
