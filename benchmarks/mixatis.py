"""MixATIS' test counted by the ATIS utterances that its rows are made of.

A row joins one to three utterances of ATIS with a conjunction. The 828 rows of test hold 1,713 parts, of 309 distinct utterances; twenty of these are
36 % of all parts. Exact match over rows therefore counts a few utterances many times. Here each distinct utterance counts once in total.
"""

from collections import Counter
from collections.abc import Sequence, Set
from functools import cache
from pathlib import Path
from typing import TypeAlias

from palm_trainer.config.loader import Config
from palm_trainer.evaluation.evaluate import comparable
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.job_from_config import evaluation_sets

Words: TypeAlias = tuple[str, ...]

_CONJUNCTIONS: Sequence[Words] = (
    ("and",),
    ("and", "also"),
    ("and", "then"),
    (",", "and"),
    (",", "and", "also"),
    (",", "and", "then"),
    (",",),
    ("also",),
    ("then",),
)


def base_utterances(text: str, known: Set[str]) -> list[str]:
    """Return the utterances that a row joins: as few as possible.

    Args:
        text: of the row.
        known: utterances of ATIS.

    Raises:
        ValueError: it is made of something else too.
    """
    words = tuple(text.split())

    @cache
    def parts_from(start: int) -> tuple[str, ...] | None:
        shortest: tuple[str, ...] | None = None
        for end in range(len(words), start, -1):
            part = " ".join(words[start:end])
            if part not in known:
                continue
            if end == len(words):
                return (part,)
            for conjunction in _CONJUNCTIONS:
                after = end + len(conjunction)
                rest = parts_from(after) if words[end:after] == conjunction and after < len(words) else None
                if rest is not None and (shortest is None or len(rest) + 1 < len(shortest)):
                    shortest = (part, *rest)
        return shortest

    parts = parts_from(0)
    if parts is None:
        raise ValueError(
            f"{text!r} must be made of utterances of ATIS and conjunctions. Use the data set as published."
        )
    return list(parts)


def row_weights(rows: Sequence[Sequence[str]]) -> list[float]:
    """Return the weight of each row, given its parts: every distinct part adds 1 in total, shared by the rows that have it."""
    counts = Counter(part for parts in rows for part in parts)
    return [sum(1 / counts[part] for part in parts) for parts in rows]


def by_base_utterance(run: Path, config: Config, atis: Path, split: str = "test") -> dict[str, float]:
    """Return exact match in per cent with every base utterance weighted once, and the number of these.

    Args:
        run: directory of a finished run.
        config: its configuration.
        atis: folder of the split of ATIS that the rows are made of.
        split: of MixATIS.
    """
    known = set()
    for line in (atis / "seq.in").read_text(encoding="utf-8").splitlines():
        known.add(" ".join(line.split()))
    [rows] = [one for one in evaluation_sets(config, split) if one.data == "mixatis"]
    parts = [base_utterances(example.text, known) for example in rows.examples]
    weights = row_weights(parts)
    right = 0.0
    for example, answers, weight in zip(
        rows.examples, Predictor(load_trained(run)).answers(rows.examples, tuple(rows.fields)), weights, strict=True
    ):
        pairs = [
            comparable(config.tasks[task].kind, example, name, answers[task]) for task, name in rows.fields.items()
        ]
        right += weight * all(gold == predicted for gold, predicted in pairs)
    return {
        "exact_match": 100 * right / sum(weights),
        "utterances": float(len({part for row in parts for part in row})),
    }
