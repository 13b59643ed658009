"""The gate: does a bundle on a provider answer as the trained model does? Measured over all dev examples and over random shapes.

Logits are held to the limit wherever one is read: those of a text, and those of its pieces. At padding, which no decoder reads, the difference
is measured and told but decides nothing: there PyTorch's own fp32 strays (a trained ATIS model: 1.9e-4 at padding, 2.4e-5 elsewhere. Where this
was compared with float64, on another model, PyTorch was off by 1.7e-4 and ONNX Runtime by 5e-6).

The side under test is the bundle read back from its files, in the server's own engine, tokenization and decoding: what is proven is what serves.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding import Item, golden_answer
from palm_serve.types import Answer, Classification, Encoding, Match, Spans, TaskAnswer
from palm_trainer.data.example import Example
from palm_trainer.export.predictors import Outputs, Side

LOGIT_LIMIT = 1e-4
"""Largest difference of any logit in fp32."""
CONFIDENCE_LIMIT = 1e-4
"""Largest difference of any probability of an answer in fp32."""
INVARIANCE_LIMIT = 1e-5
"""Largest difference of any probability in fp32 between an input alone, with more padding, and the same input in a batch."""
EQUAL_SHARE = 0.997
"""Share of the answers on dev that a reduced precision must leave as they are."""
METRIC_DROP = 0.002
"""How much of a metric on dev a reduced precision may cost: 0.2 points."""
SHAPES = 200
_MAX_ROWS, _MAX_TOKENS = 32, 256
"""Rows of a random shape; tokens of one that is not a corner, unless a single row has more: large ones cost much and show nothing that these do not."""
_ALONE = 200
"""Examples that are run alone too, at most."""
_PADDING = 24
"""Most tokens of padding that these get."""
_EXAMPLES, _PASSAGES = 32, 8
"""Examples in a batch; of those with a passage, each of which has several rows."""


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
    at_padding: float = 0.0
    """Largest difference of a logit that nothing reads."""
    compared: int = 0
    unequal: list[str] = field(default_factory=list)
    """Descriptions of the answers that differ, in the order met."""
    uncertain: list[str] = field(default_factory=list)
    """The same for equal answers whose probabilities differ by more than CONFIDENCE_LIMIT."""
    answers: dict[int, dict[str, TaskAnswer]] = field(default_factory=dict)
    differs: set[int] = field(default_factory=set)
    """Examples with an answer in `unequal`."""
    alone: int = 0
    """Answers to examples alone that were compared with those in a batch."""
    varying: list[str] = field(default_factory=list)
    """Descriptions of those that differ, in what they say or, in probability, by more than INVARIANCE_LIMIT (`drifting`)."""
    drifting: list[str] = field(default_factory=list)
    drift: float = 0.0
    """Largest difference of a probability in answers that say the same."""

    @property
    def max_difference(self) -> float:
        """Of all logits that are read."""
        return self.worst.size if self.worst else 0.0

    @property
    def equal_share(self) -> float:
        """Answers on dev that are equal, 0 to 1."""
        return 1 - len(self.unequal) / self.compared if self.compared else 0.0

    @property
    def invariant_share(self) -> float:
        """Answers on dev that are the same alone and in a batch, 0 to 1."""
        return 1 - len(self.varying) / self.alone if self.alone else 0.0

    def loss(self, spent: float = 1.0) -> str | None:
        """Why this side is not close enough (the rule for reduced precisions), or None. `spent` is the share of what may change that it may use up."""
        tolerated = (1 - EQUAL_SHARE) * spent
        for what, found, count in (
            ("differ", self.unequal, self.compared),
            ("depend on the batch", self.varying, self.alone),
        ):
            if not count:
                return "no answer was compared"
            allowed = int(round(tolerated * count, 9))
            if len(found) > allowed:
                return f"{len(found)} of {count} answers {what}, and at most {allowed} may; first: {found[0]}"
        return None

    def fault(self) -> str | None:
        """Why this side is not exact (the rule for fp32), or None."""
        if self.worst is not None and not self.worst.size <= LOGIT_LIMIT:
            return f"{self.worst}; the limit is a difference of {LOGIT_LIMIT:g}"
        if self.unequal:
            return f"{len(self.unequal)} of {self.compared} answers differ, first: {self.unequal[0]}"
        if self.uncertain:
            return f"{len(self.uncertain)} of {self.compared} answers differ in confidence by more than {CONFIDENCE_LIMIT:g}, first: {self.uncertain[0]}"
        if self.varying or self.drifting:
            return f"{len(self.varying) + len(self.drifting)} of {self.alone} answers depend on the batch, first: {[*self.varying, *self.drifting][0]}"
        return None


def compare_examples(
    reference: Side, sides: Sequence[Side], examples: Sequence[Example]
) -> tuple[list[dict[str, TaskAnswer]], list[Tally]]:
    """The reference's answers to all examples, and what each side showed. Examples of similar length share a batch."""
    tallies = [Tally(side) for side in sides]
    answers: list[dict[str, TaskAnswer]] = [{} for _ in examples]
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].text) + len(examples[i].pair or ""))
    for windows, tasks in reference.readings().items():
        pairs = {reference.tasks[task].pairs for task in tasks}
        read = [i for i in order if (examples[i].pair is not None) in pairs]
        size = _EXAMPLES if windows is None else _PASSAGES
        for begin in range(0, len(read), size):
            chosen = read[begin : begin + size]
            batch = [examples[i] for i in chosen]
            items = reference.items(batch, windows)
            rows = [row for item in items for row in item.rows]
            outputs = reference.run(rows)
            names = [_quoted(item) for item in items for _ in item.rows]
            for i, found in zip(chosen, reference.decode(outputs, items, tasks), strict=True):
                answers[i].update(found)
            for tally in tallies:
                own = tally.side.items(batch, windows)
                values = _run(tally, [row for item in own for row in item.rows], outputs, names)
                if values is None:
                    continue
                _compare_outputs(tally, outputs, values, rows, names)
                if any(outputs[name].shape != values[name].shape for name in outputs):
                    continue  # nothing to decode; the tally has failed
                for i, item, have in zip(chosen, own, tally.side.decode(values, own, tasks), strict=True):
                    _compare_answers(tally, i, _quoted(item), answers[i], have)
    return answers, tallies


def compare_shapes(reference: Side, tallies: Sequence[Tally], vocab_size: int, count: int, seed: int = 0) -> None:
    """Compares logits on random ids in `count` shapes, each row padded at random."""
    generator = np.random.default_rng(seed)
    for rows, length in stratified_shapes(generator, reference.tokenizer.max_length, count):
        encodings = list(_random_encodings(generator, rows, length, vocab_size))
        outputs = reference.run(encodings, length)
        names = [f"random ids in shape [{rows}, {length}]"] * rows
        for tally in tallies:
            values = _run(tally, encodings, outputs, names, length)
            if values is not None:
                _compare_outputs(tally, outputs, values, encodings, names)


def compare_alone(tally: Tally, examples: Sequence[Example], seed: int = 0) -> None:
    """Compares a side with itself: each example alone, with padding at random, against its answers in a batch. `compare_examples` comes first."""
    generator = np.random.default_rng(seed)
    side = tally.side
    step = max(1, -(-len(examples) // _ALONE))
    for windows, tasks in side.readings().items():
        pairs = {side.tasks[task].pairs for task in tasks}
        for i in range(0, len(examples), step):
            example = examples[i]
            if (example.pair is not None) not in pairs or tasks[0] not in tally.answers.get(i, {}):
                continue
            [item] = side.items([example], windows)
            longest = min(
                max(map(len, item.rows)) + int(generator.integers(0, _PADDING + 1)), side.tokenizer.max_length
            )
            [found] = side.decode(side.run(item.rows, longest), [item], tasks)
            for task, have in found.items():
                _note_varying(tally, task, tally.answers[i][task], have, _quoted(item))


def _note_varying(tally: Tally, task: str, batched: TaskAnswer, alone: TaskAnswer, name: str) -> None:
    info = tally.side.tasks[task]
    tally.alone += 1
    if not _agree(batched, alone, info):
        told, tells = _told(batched, info), _told(alone, info)
        tally.varying.append(f"task '{task}' on {name}: {told} in a batch, {tells} alone")
        return
    gap = _confidence_gap(batched, alone)
    tally.drift = max(tally.drift, gap)
    if gap > INVARIANCE_LIMIT:
        tally.drifting.append(f"task '{task}' on {name}: a probability differs by {gap:.6f} alone")


def stratified_shapes(generator: np.random.Generator, max_length: int, count: int) -> list[tuple[int, int]]:
    """`count` shapes (rows 1 to 32, tokens 1 to `max_length`), the corners first, then a Latin hypercube that is even in the logarithms:
    small shapes are where traces freeze. Long rows come in smaller batches (`_MAX_TOKENS`)."""
    corners = [(rows, length) for rows in (1, _MAX_ROWS) for length in (1, max_length)]
    strata = [(generator.permutation(count) + generator.random(count)) / count for _ in range(2)]
    rows = np.floor((_MAX_ROWS + 1) ** strata[0]).astype(int)
    lengths = np.floor((max_length + 1) ** strata[1]).astype(int)
    rows = np.minimum(rows, np.maximum(1, _MAX_TOKENS // lengths))
    drawn = [(int(r), int(n)) for r, n in zip(rows, lengths, strict=True)]
    return (corners + drawn)[:count]


def _random_encodings(generator: np.random.Generator, rows: int, length: int, vocab_size: int) -> Iterator[Encoding]:
    for _ in range(rows):
        size = int(generator.integers(1, length + 1))
        ids, types = generator.integers(0, vocab_size, size), generator.integers(0, 2, size)
        yield Encoding(ids.tolist(), types.tolist(), [(0, 0)] * size, [0] * size)


def _run(
    tally: Tally, rows: Sequence[Encoding], expected: Outputs, names: Sequence[str], length: int = 0
) -> Outputs | None:
    """Outputs of the side under test; None where it cannot run this batch, which is then its worst difference."""
    try:
        return tally.side.run(rows, length)
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        reason = str(error).partition("\n")[0]
        tally.worst = Difference(np.inf, next(iter(expected)), names[0], f"the bundle cannot be run: {reason}")
        return None


def _compare_outputs(
    tally: Tally, expected: Outputs, found: Outputs, rows: Sequence[Encoding], names: Sequence[str]
) -> None:
    """Keeps the largest differences; `names` says what each row is."""
    lengths = np.array([len(row) for row in rows])
    for output, want in expected.items():
        have = found[output]
        if want.shape != have.shape:
            shapes = f"PyTorch gives the shape {list(want.shape)}, the bundle {list(have.shape)}"
            tally.worst = Difference(np.inf, output, names[0], shapes)
            continue
        gaps = np.nan_to_num(np.abs(want - have), nan=np.inf)
        if output in tally.side.by_token:
            read = np.arange(gaps.shape[1]) < lengths[:, None]  # [B, S]
            tally.at_padding = max(tally.at_padding, float(gaps[~read].max(initial=0.0)))
            gaps[~read] = 0.0
        where = tuple(int(i) for i in np.unravel_index(int(gaps.argmax()), gaps.shape))
        if tally.worst is None or gaps[where] > tally.worst.size:
            at = ", ".join(map(str, where[1:]))
            values = f"at [{at}] PyTorch gives {want[where]:.6f}, the bundle {have[where]:.6f}"
            tally.worst = Difference(float(gaps[where]), output, names[where[0]], values)


def _compare_answers(
    tally: Tally, example: int, name: str, expected: Mapping[str, TaskAnswer], found: Mapping[str, TaskAnswer]
) -> None:
    """Notes what differs in the answers to one example."""
    tally.answers.setdefault(example, {}).update(found)
    for task, have in found.items():
        want, info = expected[task], tally.side.tasks[task]
        tally.compared += 1
        gap = _confidence_gap(want, have)
        told = f"task '{task}' on {name}: PyTorch answers {_told(want, info)}, the bundle {_told(have, info)}"
        if not _agree(want, have, info):
            tally.unequal.append(told)
            tally.differs.add(example)
        elif gap > CONFIDENCE_LIMIT:
            tally.uncertain.append(f"{told}, with a difference of {gap:.6f}")


def _agree(one: TaskAnswer, other: TaskAnswer, info: TaskInfo) -> bool:
    """Whether two answers say the same, and both or neither are out of scope."""
    if not golden_answer(one, info).agrees(golden_answer(other, info)):
        return False
    limit = info.thresholds.out_of_scope
    if limit is None or not isinstance(one, Classification) or not isinstance(other, Classification):
        return True
    gap = abs(one.out_of_scope_score - other.out_of_scope_score)
    # A threshold is the score of some dev example, which rounding alone puts on either side of it.
    rounding = CONFIDENCE_LIMIT * max(1.0, abs(limit))
    return gap <= rounding or _is_rejected(one, info) == _is_rejected(other, info)


def _is_rejected(answer: TaskAnswer, info: TaskInfo) -> bool:
    limit = info.thresholds.out_of_scope
    return limit is not None and isinstance(answer, Classification) and answer.out_of_scope_score > limit


def _told(answer: TaskAnswer, info: TaskInfo) -> str:
    return f"{golden_answer(answer, info)}{' as out of scope' if _is_rejected(answer, info) else ''}"


def confidences(answer: TaskAnswer) -> dict[object, float]:
    """All probabilities of an answer, by what they belong to."""
    match answer:
        case Classification():
            return {label.name: label.confidence for label in answer.ranking}
        case Spans():
            return {(span.name, span.start): span.confidence for span in answer.spans}
        case Match():
            return {"score": answer.score, "label": answer.label.confidence if answer.label else 0.0}
        case Answer():
            return {"answer": answer.confidence}


def _confidence_gap(want: TaskAnswer, have: TaskAnswer) -> float:
    """Largest difference of what two answers that say the same give as probabilities."""
    found = confidences(have)
    return max((abs(value - found.get(key, np.inf)) for key, value in confidences(want).items()), default=0.0)


def _quoted(item: Item) -> str:
    return f"'{item.text}'" if item.pair is None else f"'{item.text}' with '{item.pair}'"
