"""What the data looks like: token lengths, how labels are distributed, what is wrong with it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from palm_serve.tokenization import TextTokenizer
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.report.rows import Judged

_UNCUT = 1_000_000
"""Tokens; longer than any text."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of each text of a split, special ones included, and how many texts were cut to the model's length."""

    tokens: Sequence[int]
    cut: int


def lengths(tokenizer_json: str, max_length: int, examples: Sequence[Example]) -> Lengths:
    """Counts the tokens of texts with their pairs."""
    rows = TextTokenizer(tokenizer_json, _UNCUT).encode_rows([(e.text, e.pair) for e in examples])
    tokens = [len(row) for (row,) in rows]
    return Lengths(tokens, sum(count > max_length for count in tokens))


def label_counts(kind: str, field: str, examples: Iterable[Example]) -> Counter[str]:
    """How often each label occurs in a field: classes, or spans by their type (mrc: questions with and without an answer)."""
    counts: Counter[str] = Counter()
    for example in examples:
        value = example.fields.get(field)
        if isinstance(value, str):
            counts[value] += 1
        elif value is not None and kind == "mrc":
            counts["answer in the passage" if value else "no answer"] += 1
        elif value is not None:
            counts.update(item.label if isinstance(item, LabelledSpan) else item for item in value)
    return counts


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the data: where it is, what, how often, and the first example or the names."""

    where: str
    what: str
    count: int
    first: str


def overlap(split: str, train: Mapping[str, Sequence[Example]], sets: Iterable[EvaluationSet]) -> list[Fault]:
    """Texts of the split that were trained on: what is measured on them is memory."""
    faults = []
    for one in sets:
        known = {(e.text, e.pair) for e in train.get(one.data, ())}
        seen = [e for e in one.examples if (e.text, e.pair) in known]
        if seen:
            faults.append(Fault(f"{one.data} {split}", "text that is in train too", len(seen), seen[0].source))
    return faults


def never_trained(split: str, task: str, rows: Iterable[Judged], trained: Iterable[str], kind: str) -> list[Fault]:
    """Gold labels that training never saw, so that no answer can be right."""
    known = set(trained)
    unseen: dict[str, list[str]] = {}
    for row in rows:
        for name in label_counts(kind, row.field, [row.example]):
            if name not in known:
                unseen.setdefault(name, []).append(row.example.source)
    return [
        Fault(f"{task} {split}", f"label '{name}', which training never saw", len(sources), sources[0])
        for name, sources in sorted(unseen.items())
    ]
