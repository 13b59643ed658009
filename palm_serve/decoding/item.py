"""What a decoder knows of one row beside the graph's outputs."""

from dataclasses import dataclass

from palm_serve.types import Encoding


@dataclass(frozen=True, slots=True)
class Item:
    """One row of a batch: its text, its encoding, and how many labels the ranking should hold (0: all)."""

    text: str
    encoding: Encoding
    pair: str | None = None
    top_k: int = 0
