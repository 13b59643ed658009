"""What kind of processor this is, as far as the choice of a provider depends on it."""

import functools
import platform
from pathlib import Path

_BF16_FLAGS = {"amx_bf16", "avx512_bf16"}


@functools.cache
def _facts(root: Path) -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def processor(root: Path = Path("/")) -> str:
    """Model name, family and stepping where the system tells them, else the architecture."""
    facts = _facts(root)
    names = [facts[key] for key in ("model name", "cpu family", "model", "stepping") if key in facts]
    return " ".join(names) or platform.processor() or platform.machine()


def computes_in_bf16(root: Path = Path("/")) -> bool:
    """Whether the processor multiplies matrices in bf16 (AMX or AVX512-BF16); without it bf16 saves nothing."""
    return not _BF16_FLAGS.isdisjoint(_facts(root).get("flags", "").split())
