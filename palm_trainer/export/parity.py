"""The gate: does a bundle on a provider answer as the trained model does? Measured over all dev examples and over random shapes.

The side under test is the bundle read back from its files, in the server's own engine, tokenization and decoding: what is proven is what serves.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from palm_serve.types import Classification, Encoding, FloatArray, Label, Span, Spans, TaskAnswer
from palm_trainer.example import Example
from palm_trainer.export.side import Outputs, Side

LOGIT_LIMIT = 1e-4
"""Largest difference of any logit in fp32."""
CONFIDENCE_LIMIT = 1e-4
"""Largest difference of any probability of an answer in fp32."""
EQUAL_SHARE = 0.997
"""Share of the answers on dev that a reduced precision must leave as they are."""
METRIC_DROP = 0.002
"""How much of a metric on dev a reduced precision may cost: 0.2 points."""
SHAPES = 200
_MAX_ROWS = 32
_ROWS = 32


@dataclass(frozen=True, slots=True)
class Difference:
    """One logit on the two sides; `size` is infinite for a wrong shape or NaN. `where` is a text or a shape."""

    size: float
    output: str
    where: str
    detail: str

    def __str__(self) -> str:
        return f"output '{self.output}' on {self.where}: {self.detail}"


@dataclass
class Tally:
    """What a side under test showed so far."""

    side: Side
    worst: Difference | None = None
    compared: int = 0
    unequal: list[str] = field(default_factory=list)
    """Descriptions of the answers that differ, in the order met."""
    uncertain: list[str] = field(default_factory=list)
    """The same for equal answers whose probabilities differ by more than CONFIDENCE_LIMIT."""
    answers: dict[int, dict[str, TaskAnswer]] = field(default_factory=dict)
    differs: set[int] = field(default_factory=set)
    """Examples with an answer in `unequal`."""

    @property
    def max_difference(self) -> float:
        """Of all logits seen."""
        return self.worst.size if self.worst else 0.0

    @property
    def equal_share(self) -> float:
        """Answers on dev that are equal, 0 to 1."""
        return 1 - len(self.unequal) / self.compared if self.compared else 0.0

    def fault(self) -> str | None:
        """Why this side is not exact (the rule for fp32), or None."""
        if self.worst is not None and not self.worst.size <= LOGIT_LIMIT:
            return f"{self.worst}; the limit is a difference of {LOGIT_LIMIT:g}"
        if self.unequal:
            return f"{len(self.unequal)} of {self.compared} answers differ, first: {self.unequal[0]}"
        if self.uncertain:
            return f"{len(self.uncertain)} of {self.compared} answers differ in confidence by more than {CONFIDENCE_LIMIT:g}, first: {self.uncertain[0]}"
        return None


def compare_examples(
    reference: Side, sides: Sequence[Side], examples: Sequence[Example]
) -> tuple[list[dict[str, TaskAnswer]], list[Tally]]:
    """The reference's answers to all examples, and what each side showed. Examples of similar length share a batch."""
    tallies = [Tally(side) for side in sides]
    answers: dict[int, dict[str, TaskAnswer]] = {}
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].text) + len(examples[i].pair or ""))
    for begin in range(0, len(order), _ROWS):
        rows = order[begin : begin + _ROWS]
        batch = [examples[i] for i in rows]
        encodings = reference.encode(batch)
        outputs = reference.run(encodings)
        expected = reference.decode(outputs, batch, encodings)
        answers.update(zip(rows, expected, strict=True))
        names = [_quoted(example) for example in batch]
        for tally in tallies:
            own = tally.side.encode(batch)
            found = tally.side.run(own)
            _compare_outputs(tally, outputs, found, names)
            if any(outputs[name].shape != found[name].shape for name in outputs):
                continue  # nothing to decode; the tally has failed
            for i, name, want, have in zip(rows, names, expected, tally.side.decode(found, batch, own), strict=True):
                tally.answers[i] = have
                if not _compare_answers(tally, name, want, have):
                    tally.differs.add(i)
    return [answers[i] for i in range(len(examples))], tallies


def compare_shapes(reference: Side, tallies: Sequence[Tally], vocab_size: int, count: int, seed: int = 0) -> None:
    """Compares logits on random ids in `count` shapes, each row padded at random."""
    generator = np.random.default_rng(seed)
    for rows, length in stratified_shapes(generator, reference.tokenizer.max_length, count):
        encodings = list(_random_encodings(generator, rows, length, vocab_size))
        outputs = reference.run(encodings, length)
        for tally in tallies:
            _compare_outputs(
                tally, outputs, tally.side.run(encodings, length), [f"random ids in shape [{rows}, {length}]"] * rows
            )


def stratified_shapes(generator: np.random.Generator, max_length: int, count: int) -> list[tuple[int, int]]:
    """`count` shapes (rows 1 to 32, tokens 1 to `max_length`), the corners first, then a Latin hypercube that is even in the logarithms:
    small shapes are where traces freeze."""
    corners = [(rows, length) for rows in (1, _MAX_ROWS) for length in (1, max_length)]
    strata = [(generator.permutation(count) + generator.random(count)) / count for _ in range(2)]
    rows = np.floor((_MAX_ROWS + 1) ** strata[0]).astype(int)
    lengths = np.floor((max_length + 1) ** strata[1]).astype(int)
    drawn = [(int(r), int(n)) for r, n in zip(rows, lengths, strict=True)]
    return (corners + drawn)[:count]


def _random_encodings(generator: np.random.Generator, rows: int, length: int, vocab_size: int) -> Iterator[Encoding]:
    for _ in range(rows):
        size = int(generator.integers(1, length + 1))
        ids, types = generator.integers(0, vocab_size, size), generator.integers(0, 2, size)
        yield Encoding(ids.tolist(), types.tolist(), [(0, 0)] * size, [0] * size)


def _compare_outputs(tally: Tally, expected: Outputs, found: Outputs, names: Sequence[str]) -> None:
    """Keeps the largest difference; `names` says what each row is."""
    for output, want in expected.items():
        have = found[output]
        difference = _difference(output, want, have, names)
        if tally.worst is None or difference.size > tally.worst.size:
            tally.worst = difference


def _difference(output: str, want: FloatArray, have: FloatArray, names: Sequence[str]) -> Difference:
    if want.shape != have.shape:
        return Difference(
            np.inf, output, names[0], f"PyTorch gives the shape {list(want.shape)}, the bundle {list(have.shape)}"
        )
    gaps = np.nan_to_num(np.abs(want - have), nan=np.inf)
    where = tuple(int(i) for i in np.unravel_index(int(gaps.argmax()), gaps.shape))
    at = ", ".join(map(str, where[1:]))
    return Difference(
        float(gaps[where]),
        output,
        names[where[0]],
        f"at [{at}] PyTorch gives {want[where]:.6f}, the bundle {have[where]:.6f}",
    )


def _compare_answers(
    tally: Tally, name: str, expected: Mapping[str, TaskAnswer], found: Mapping[str, TaskAnswer]
) -> bool:
    """Whether all answers to one example say the same."""
    same = True
    for task, want in expected.items():
        have = found[task]
        tally.compared += 1
        told = f"task '{task}' on {name}: PyTorch answers {show(want)}, the bundle {show(have)}"
        if says(want) != says(have):
            tally.unequal.append(told)
            same = False
        elif _confidence_gap(want, have) > CONFIDENCE_LIMIT:
            tally.uncertain.append(told)
    return same


def says(answer: TaskAnswer) -> object:
    """What an answer claims, without its probabilities: the label, or the spans."""
    match answer:
        case Classification():
            return answer.label.name
        case Spans():
            return tuple((span.name, span.start, span.end) for span in answer.spans)
    raise TypeError(f"answers of the kind {type(answer).__name__} have no rule in the parity gate")


def confidences(answer: TaskAnswer) -> dict[object, float]:
    """All probabilities of an answer, by label or span."""
    match answer:
        case Classification():
            return {label.name: label.confidence for label in answer.ranking}
        case Spans():
            return {(span.name, span.start): span.confidence for span in answer.spans}
    raise TypeError(f"answers of the kind {type(answer).__name__} have no rule in the parity gate")


def _confidence_gap(want: TaskAnswer, have: TaskAnswer) -> float:
    """Largest difference of two answers that say the same."""
    found = confidences(have)
    return max((abs(value - found.get(key, np.inf)) for key, value in confidences(want).items()), default=0.0)


def show(answer: TaskAnswer) -> str:
    """For messages: `flight (0.98)`, or `city[5:11] (0.97), ...`."""
    parts: Sequence[Label | Span] = (
        (answer.label,) if isinstance(answer, Classification) else getattr(answer, "spans", ())
    )
    told = (
        f"{p.name}[{p.start}:{p.end}] ({p.confidence:.6f})" if isinstance(p, Span) else f"{p.name} ({p.confidence:.6f})"
        for p in parts
    )
    return ", ".join(told) or "no spans"


def _quoted(example: Example) -> str:
    return f"'{example.text}'" if example.pair is None else f"'{example.text}' with '{example.pair}'"
