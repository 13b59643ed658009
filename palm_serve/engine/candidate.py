"""Combinations of graph, execution provider and precision, and their order of preference."""

from dataclasses import dataclass

from palm_serve.engine.options import CPU

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
"""Precisions from exact to coarse, which is the order of preference at equal speed."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One combination of graph, execution provider and precision."""

    variant: str
    provider: str
    precision: str

    def __str__(self) -> str:
        return f"{self.provider} in {self.precision} ({self.variant})"


PLAIN = Candidate("plain", CPU, "fp32")
"""The combination that every bundle supports on every machine."""
