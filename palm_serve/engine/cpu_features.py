"""Features of the processor that the choice of a provider depends on."""

import functools
import platform
from pathlib import Path

_BF16_FLAGS = {"amx_bf16", "avx512_bf16"}
_INT8_INSTRUCTIONS = {
    "amx_int8": "amx_int8",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512bw": "avx512bw",
    "avx2": "avx2",
    "i8mm": "neon_i8mm",
    "asimddp": "neon_dotprod",
    "asimd": "neon",
}
"""Instructions for int8 products by flag in /proc/cpuinfo, the best first."""
_SATURATING = {"avx512bw", "avx2", "x86_64", "AMD64"}
"""Instructions, or architectures, whose kernels add pairs of products in 16 bits."""


@functools.cache
def _facts(root: Path) -> dict[str, str]:
    """Return the entries of the first processor in /proc/cpuinfo. Empty: there is no such file."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    facts = {}
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    return facts


def processor(root: Path = Path("/")) -> str:
    """Return the model name, family and stepping of the processor, or else its architecture."""
    facts = _facts(root)
    names = []
    for key in ("model name", "cpu family", "model", "stepping"):
        if key in facts:
            names.append(facts[key])
    return " ".join(names) or platform.processor() or platform.machine()


def computes_in_bf16(root: Path = Path("/")) -> bool:
    """Return True if the processor multiplies matrices in bf16 (AMX or AVX512-BF16). Otherwise bf16 saves nothing."""
    return not _BF16_FLAGS.isdisjoint(_flags(root))


def int8_instructions(root: Path = Path("/")) -> str:
    """Return the processor's best instructions for products of int8, or the architecture where none is known."""
    flags = _flags(root)
    for flag, name in _INT8_INSTRUCTIONS.items():
        if flag in flags:
            return name
    return platform.machine()


def saturates_int8(root: Path = Path("/")) -> bool:
    """Return True for x86-64 without VNNI: pairs of products of uint8 and 8-bit weights exceed 16 bits and saturate."""
    return int8_instructions(root) in _SATURATING


def _flags(root: Path) -> set[str]:
    """Return the features of the processor, which Arm's kernel calls `Features`."""
    facts = _facts(root)
    return set((facts.get("flags") or facts.get("Features") or "").split())
