"""Device and numeric precision of training."""

from dataclasses import dataclass

import torch

from palm_trainer.errors import PalmError


@dataclass(frozen=True)
class TrainingPrecision:
    """Device and autocast dtype (None: fp32 throughout)."""

    device: torch.device
    autocast: torch.dtype | None


def choose_precision(device: str = "auto", precision: str = "auto") -> TrainingPrecision:
    """Choose device and precision.

    `auto` prefers CUDA, then MPS, then the CPU, and bf16 where the hardware supports it.

    Raises:
        PalmError: the device does not exist.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    torch_device = torch.device(device)
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if (torch_device.index or 0) >= counts[torch_device.type]:
        devices = []
        for kind, count in counts.items():
            if count:
                devices.append(f"{count} x {kind}")
        available = ", ".join(devices)
        raise PalmError(
            f"train.device: '{device}' is not on this machine, which has {available}. Choose one of these, or auto."
        )
    if precision == "auto":
        if torch_device.type == "cuda":
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            has_bf16 = torch_device.type == "cpu" and cpu_multiplies_bf16()
        precision = "bf16" if has_bf16 else "fp32"
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}
    return TrainingPrecision(torch_device, dtypes[precision])


def cpu_multiplies_bf16() -> bool:
    """Return True if the CPU has bf16 instructions (AVX512-BF16 or AMX).

    Emulated bf16 is slower than fp32.
    """
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        check = getattr(torch.cpu, name, None)  # a private function, which a version of torch may lack
        if check is not None and check():
            return True
    return False
