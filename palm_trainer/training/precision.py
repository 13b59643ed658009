"""Precision of training on a device."""

from dataclasses import dataclass

import torch

from palm_trainer.errors import PalmError


@dataclass(frozen=True)
class TrainingPrecision:
    """Device and autocast dtype (None: fp32 throughout)."""

    device: torch.device
    autocast: torch.dtype | None


def choose_precision(device: str = "auto", precision: str = "auto") -> TrainingPrecision:
    """What the machine has: CUDA, then MPS, then the CPU; bf16 where the hardware multiplies in it. Raises PalmError for a device that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    chosen = torch.device(device)
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if (chosen.index or 0) >= counts[chosen.type]:
        there = ", ".join(f"{count} x {kind}" for kind, count in counts.items() if count)
        raise PalmError(
            f"train.device: '{device}' is not on this machine, which has {there}. Choose one of these, or auto."
        )
    if precision == "auto":
        if chosen.type == "cuda":  # noqa: SIM108
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = chosen.type == "cpu" and cpu_multiplies_bf16()
        precision = "bf16" if native else "fp32"
    return TrainingPrecision(chosen, {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision])


def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has bf16 instructions (AVX512-BF16 or AMX); emulated bf16 is slower than fp32."""
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(bool(check()) for check in checks if check is not None)
