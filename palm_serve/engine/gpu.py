"""GPU of this machine: facts that its results depend on, and what is missing where it cannot be used."""

import ctypes
import functools
import importlib.metadata
import mmap
import re
import sys
from pathlib import Path

import onnxruntime as ort

_DRIVER = "proc/driver/nvidia/version"
_GPUS = "proc/driver/nvidia/gpus"
_DRIVER_LIBRARY = "libcuda.so.1"
_PROVIDER_LIBRARY = "libonnxruntime_providers_cuda.so"
_NEEDED = re.compile(rb"lib(?:cudart|cublasLt|cublas|cudnn|cufft|curand)\.so\.\d+")
"""Names of the libraries that the GPU build of ONNX Runtime is linked with."""
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
    fault = _driver_fault()
    if fault:
        return fault
    missing = _missing_libraries(Path(ort.__file__).parent / "capi" / _PROVIDER_LIBRARY)
    if missing:
        names = ", ".join(missing)
        return f"These libraries cannot be loaded: {names}. Install them, as with `pip install 'palm-nlu[serve-gpu]'`."
    return "The driver and the libraries of CUDA and cuDNN load. Compare their versions with those that ONNX Runtime needs."


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


def _missing_libraries(provider: Path) -> list[str]:
    """Return the libraries that ONNX Runtime's CUDA provider is linked with and that cannot be loaded."""
    try:
        with provider.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            names = {name.decode() for name in _NEEDED.findall(content)}
    except (OSError, ValueError):
        return [provider.name]
    missing = []
    for name in sorted(names):
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    return missing
