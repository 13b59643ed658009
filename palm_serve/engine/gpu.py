"""GPU of this machine: facts that its results depend on, and what is missing where it cannot be used."""

import ctypes
import functools
import importlib.metadata
import re
import sys
from pathlib import Path

import onnxruntime as ort

from palm_serve.system.installation import how_to_install

_DRIVER = "proc/driver/nvidia/version"
_GPUS = "proc/driver/nvidia/gpus"
_DRIVER_LIBRARY = "libcuda.so.1"
_PROVIDER_LIBRARY = "libonnxruntime_providers_cuda.so"
_NOT_FOUND = "cannot open shared object file"
_COMPLETE = (
    "The driver and the libraries of CUDA and cuDNN load. Compare their versions with those that ONNX Runtime needs."
)
_PACKAGES = re.compile(r"(nvidia|tensorrt)[-_]", re.IGNORECASE)


@functools.cache
def gpu_facts(root: Path = Path("/")) -> dict[str, str]:
    """Return driver, GPUs and versions of the GPU libraries. What cannot be read is left out.

    Args:
        root: directory that holds `proc`.
    """
    facts = {}
    try:
        facts["driver"] = (root / _DRIVER).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        facts["driver"] = ""
    models = []
    try:
        for folder in sorted((root / _GPUS).iterdir()):
            text = (folder / "information").read_text(encoding="utf-8", errors="replace")
            models += [line for line in text.splitlines() if line.startswith(("Model", "GPU UUID"))]
    except OSError:
        models = []
    facts["gpus"] = "; ".join(models)
    packages = set()
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if _PACKAGES.match(name):
            packages.add(f"{name} {distribution.version}")
    facts["packages"] = "; ".join(sorted(packages))
    return facts


def explain_missing_gpu() -> str:
    """Return what keeps CUDA from being used, after a session has fallen back to the CPU."""
    if sys.platform != "linux":
        return "Check that the driver, CUDA and cuDNN are installed."
    faults = [_driver_fault()]
    missing = _missing_library(Path(ort.__file__).parent / "capi" / _PROVIDER_LIBRARY)
    if missing:
        faults.append(
            f"A library cannot be loaded: {missing}. To install CUDA and cuDNN, {how_to_install('serve-gpu')}"
        )
    return " ".join(filter(None, faults)) or _COMPLETE


def _driver_fault() -> str:
    """Return what is wrong with the driver. Empty: it finds a GPU."""
    try:
        driver = ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError:
        return f"The NVIDIA driver is missing: {_DRIVER_LIBRARY} cannot be loaded. Install it, or give the container the GPU."
    code = int(driver.cuInit(0))
    if code:
        return f"The NVIDIA driver finds no GPU it can use: cuInit returns {code}. `nvidia-smi` tells more."
    return ""


def _missing_library(provider: Path) -> str:
    """Return the name of a library that ONNX Runtime's CUDA provider needs and that cannot be loaded, or an empty text.

    The session has tried the same before, so nothing is loaded here that was not.
    """
    try:
        ctypes.CDLL(str(provider))
    except OSError as error:
        name, _, reason = str(error).partition(": ")
        return Path(name).name if _NOT_FOUND in reason else ""
    return ""
