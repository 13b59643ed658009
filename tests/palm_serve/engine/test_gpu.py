"""Facts of the GPU, and what is told where it cannot be used. The CPU build and no driver are real here."""

import ctypes
import sys
from pathlib import Path

import pytest

from palm_serve.engine import gpu
from palm_serve.engine.gpu import explain_missing_gpu, gpu_facts


class Driver:
    """Driver whose initialization returns a code."""

    def __init__(self, code: int) -> None:
        self.code = code

    def cuInit(self, flags: int) -> int:  # noqa: N802 - name of the function in the driver
        return self.code


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Return the libraries that can be loaded, by name."""
    present: dict[str, object] = {}

    def load(name: str) -> object:
        if name not in present:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return present[name]

    monkeypatch.setattr(gpu.ctypes, "CDLL", load)
    return present


@pytest.mark.skipif(sys.platform != "linux", reason="names of libraries on Linux")
def test_machine_without_a_driver_is_told() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert "The NVIDIA driver is missing: libcuda.so.1 cannot be loaded." in explain_missing_gpu()
    else:
        pytest.skip("this machine has the driver")


def test_driver_without_a_device_is_told(libraries: dict[str, object]) -> None:
    libraries["libcuda.so.1"] = Driver(100)
    assert explain_missing_gpu().startswith("The NVIDIA driver finds no GPU it can use: cuInit returns 100.")


def test_missing_library_is_named(libraries: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader names the first library that it does not find."""

    def load(name: str) -> object:
        if name.endswith("libonnxruntime_providers_cuda.so"):
            raise OSError("libcudnn.so.9: cannot open shared object file: No such file or directory")
        return libraries[name]

    libraries["libcuda.so.1"] = Driver(0)
    monkeypatch.setattr(gpu.ctypes, "CDLL", load)
    assert explain_missing_gpu().startswith("A library cannot be loaded: libcudnn.so.9.")


def test_driver_and_library_are_named_together(libraries: dict[str, object]) -> None:
    text = explain_missing_gpu()
    assert "The NVIDIA driver is missing" in text
    assert "A library cannot be loaded: libonnxruntime_providers_cuda.so." in text


def test_complete_libraries_leave_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Driver(0))
    assert "Compare their versions" in explain_missing_gpu()


def test_gpu_facts_hold_driver_and_devices(tmp_path: Path) -> None:
    device = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "information").write_text("Model: \t NVIDIA L4\nIRQ: 33\nGPU UUID: \t GPU-1\n")
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54\n")
    facts = gpu_facts(tmp_path)
    assert "550.54" in facts["driver"]
    assert facts["gpus"] == "Model: \t NVIDIA L4; GPU UUID: \t GPU-1"


def test_machine_without_a_gpu_has_empty_facts(tmp_path: Path) -> None:
    facts = gpu_facts(tmp_path / "empty")
    assert (facts["driver"], facts["gpus"]) == ("", "")
