"""Nothing that people run through PALM is reported to anybody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Prints the switch as it stands when onnxruntime is first imported: later is too late.
WATCH = """
import importlib, os, pkgutil, sys

def watch(event, arguments):
    if event == "import" and arguments[0] == "onnxruntime":
        print("ORT_DISABLE_TELEMETRY =", os.environ.get("ORT_DISABLE_TELEMETRY"), flush=True)
        os._exit(0)  # it is imported once, and what the package loads besides takes seconds

sys.addaudithook(watch)
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
import onnxruntime
"""


@pytest.mark.slow
@pytest.mark.parametrize("package", ["palm_serve.engine", "palm_trainer.export"])
def test_onnxruntime_starts_with_telemetry_off(package: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    result = subprocess.run(
        [sys.executable, "-c", WATCH, package],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["ORT_DISABLE_TELEMETRY = 1"]


WATCH_HUB = """
import importlib, os, sys

def watch(event, arguments):
    if event == "import" and arguments[0] in ("huggingface_hub", "transformers"):
        for name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_SAFETENSORS_CONVERSION"):
            print(name, "=", os.environ.get(name), flush=True)
        seen.add(arguments[0])
        if len(seen) == 2:
            os._exit(0)  # what they load takes seconds, and nothing later matters here

seen = set()
sys.addaudithook(watch)
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize(
    "module", ["palm_trainer.api.backbone", "palm_trainer.model.download.hub", "palm_trainer.runs.run"]
)
def test_hub_libraries_start_with_telemetry_off(module: str) -> None:
    dropped = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_SAFETENSORS_CONVERSION")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment["PYTHONPATH"] = str(ROOT)
    result = subprocess.run([sys.executable, "-c", WATCH_HUB, module], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.splitlines()) == {"HF_HUB_DISABLE_TELEMETRY = 1", "DISABLE_SAFETENSORS_CONVERSION = 1"}
