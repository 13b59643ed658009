"""Parity check: a bundle on a provider must give the answers of the trained model.

It is measured over all dev examples and over random shapes.

The limit holds for every logit that a decoder reads: those of a text and those of its tokens. Differences at padding
are reported but not limited, because no decoder reads them. There PyTorch itself is less exact in fp32: for a trained
ATIS model the difference is 1.9e-4 at padding and 2.4e-5 elsewhere. For another model, compared with float64,
PyTorch was off by 1.7e-4 and ONNX Runtime by 5e-6.

The bundle under test is read back from its files, with the engine, tokenization and decoding of the server.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding import golden_answer
from palm_serve.types import Answer, Classification, Encoding, Match, Spans, TaskAnswer
from palm_trainer.data.example import Example
from palm_trainer.export.predictors import EnginePredictor, Outputs
from palm_trainer.export.reference import Reference, ReferenceBatch, collect_rows, quote_item

LOGIT_LIMIT = 1e-4
"""Largest difference of any logit in fp32."""
CONFIDENCE_LIMIT = 1e-4
"""Largest difference of any probability of an answer in fp32."""
INVARIANCE_LIMIT = 1e-5
"""Largest difference of any probability in fp32 between a single input and the same input in a batch."""
EQUAL_SHARE = 0.997
"""Fraction of the answers on dev that a reduced precision must not change."""
METRIC_DROP = 0.002
"""Largest loss of a metric on dev by a reduced precision: 0.2 percentage points."""
SHAPES = 200
_MAX_ROWS = 32
_MAX_TOKENS = 256
"""Tokens of a random shape of several rows that is not a corner. Larger ones take long and find nothing more."""
_SINGLE_EXAMPLES = 200
"""Largest number of examples that are also run one by one."""
_MAX_PADDING = 24
"""Largest number of padding tokens of a single example."""


@dataclass(frozen=True, slots=True)
class LogitDifference:
    """Difference of one logit. `size` is infinite for a wrong shape or NaN. `place` is a text or a shape."""

    size: float
    output: str
    place: str
    detail: str

    def __str__(self) -> str:
        return f"output '{self.output}' on {self.place}: {self.detail}"


@dataclass
class ParityResult:
    """Differences between a predictor and the trained model."""

    predictor: EnginePredictor
    worst: LogitDifference | None = None
    padding_difference: float = 0.0
    """Largest difference of a logit at padding."""
    compared: int = 0
    """Number of compared answers."""
    unequal: list[str] = field(default_factory=list)
    """Descriptions of the answers that differ."""
    uncertain: list[str] = field(default_factory=list)
    """Descriptions of equal answers whose probabilities differ by more than CONFIDENCE_LIMIT."""
    answers: dict[int, dict[str, TaskAnswer]] = field(default_factory=dict)
    """Answers by the position of the example."""
    unequal_examples: set[int] = field(default_factory=set)
    """Positions of the examples with an answer in `unequal`."""
    singles: int = 0
    """Number of answers to single examples, each compared with that in a batch."""
    batch_dependent: list[str] = field(default_factory=list)
    """Descriptions of answers to single examples that differ from those in a batch."""
    batch_drifting: list[str] = field(default_factory=list)
    """Descriptions of equal ones whose probabilities differ by more than INVARIANCE_LIMIT."""
    drift: float = 0.0
    """Largest difference of a probability between equal answers of a single example and in a batch."""

    @property
    def max_difference(self) -> float:
        """Return the largest difference of a logit that a decoder reads."""
        return self.worst.size if self.worst else 0.0

    @property
    def equal_share(self) -> float:
        """Return the fraction of the answers on dev that are equal, 0 to 1."""
        return 1 - len(self.unequal) / self.compared if self.compared else 0.0

    @property
    def invariant_share(self) -> float:
        """Return the fraction of the answers on dev that do not depend on the batch, 0 to 1."""
        return 1 - len(self.batch_dependent) / self.singles if self.singles else 0.0

    def check_reduced(self, budget: float = 1.0) -> str | None:
        """Return why the predictor breaks the rule for reduced precisions, or None if it does not.

        `budget` is the fraction of the permitted changes that it may use.
        """
        permitted_share = (1 - EQUAL_SHARE) * budget
        checks = (
            ("differ", self.unequal, self.compared),
            ("depend on the batch", self.batch_dependent, self.singles),
        )
        for verb, descriptions, count in checks:
            if not count:
                return "no answer was compared"
            permitted = int(round(permitted_share * count, 9))
            if len(descriptions) > permitted:
                return (
                    f"{len(descriptions)} of {count} answers {verb}, and at most {permitted} may; "
                    f"first: {descriptions[0]}"
                )
        return None

    def check_exact(self) -> str | None:
        """Return why the predictor breaks the rule for fp32, or None if it does not."""
        if self.worst is not None and not self.worst.size <= LOGIT_LIMIT:
            return f"{self.worst}; the limit is a difference of {LOGIT_LIMIT:g}"
        if self.unequal:
            return f"{len(self.unequal)} of {self.compared} answers differ, first: {self.unequal[0]}"
        if self.uncertain:
            return (
                f"{len(self.uncertain)} of {self.compared} answers differ in confidence by more than "
                f"{CONFIDENCE_LIMIT:g}, first: {self.uncertain[0]}"
            )
        dependent = [*self.batch_dependent, *self.batch_drifting]
        if dependent:
            return f"{len(dependent)} of {self.singles} answers depend on the batch, first: {dependent[0]}"
        return None


def compare_examples(reference: Reference, predictors: Sequence[EnginePredictor]) -> list[ParityResult]:
    """Compare predictors with the trained model on all examples of the reference."""
    results = [ParityResult(predictor) for predictor in predictors]
    for batch in reference.batches:
        expected_outputs = reference.outputs(batch)
        for result in results:
            _compare_batch(result, reference, batch, expected_outputs)
    return results


def compare_shapes(
    reference: EnginePredictor, results: Sequence[ParityResult], vocab_size: int, count: int, seed: int = 0
) -> None:
    """Compare logits on random ids in `count` shapes, each row with random padding.

    Args:
        reference: the trained model.
        results: results of the predictors to compare, which are updated.
        vocab_size: number of token ids.
        count: number of shapes.
        seed: seed of ids and shapes.
    """
    if not results:
        return
    generator = np.random.default_rng(seed)
    for rows, length in stratified_shapes(generator, reference.tokenizer.max_length, count):
        encodings = list(_random_encodings(generator, rows, length, vocab_size))
        expected_outputs = reference.run(encodings, length)
        names = [f"random ids in shape [{rows}, {length}]"] * rows
        for result in results:
            outputs = _run(result, encodings, expected_outputs, names, length)
            if outputs is not None:
                _compare_outputs(result, expected_outputs, outputs, encodings, names)


def compare_singles(result: ParityResult, examples: Sequence[Example], seed: int = 0) -> None:
    """Compare a predictor's answers to single examples, with random padding, with its answers in a batch.

    Args:
        result: result of `compare_examples`, which is updated.
        examples: the examples.
        seed: seed of the padding.
    """
    generator = np.random.default_rng(seed)
    predictor = result.predictor
    step = max(1, -(-len(examples) // _SINGLE_EXAMPLES))
    for windows, tasks in predictor.tasks_by_windows().items():
        pairs = predictor.pair_values(tasks)
        for index in range(0, len(examples), step):
            example = examples[index]
            batch_answers = result.answers.get(index, {})
            if (example.pair is not None) not in pairs or tasks[0] not in batch_answers:
                continue
            [item] = predictor.tokenize([example], windows)
            padding = int(generator.integers(0, _MAX_PADDING + 1))
            length = min(max(map(len, item.rows)) + padding, predictor.tokenizer.max_length)
            [single_answers] = predictor.decode(predictor.run(item.rows, length), [item], tasks)
            for task, answer in single_answers.items():
                _compare_single(result, task, batch_answers[task], answer, quote_item(item))


def stratified_shapes(generator: np.random.Generator, max_length: int, count: int) -> list[tuple[int, int]]:
    """Draw `count` shapes: rows from 1 to 32, tokens from 1 to `max_length`.

    The corners come first. The others are a Latin hypercube that is even in the logarithms, because traces freeze
    small shapes most often. Long rows have smaller batches.

    Args:
        generator: source of randomness.
        max_length: largest number of tokens.
        count: number of shapes.
    """
    shapes = [(1, 1), (1, max_length), (_MAX_ROWS, 1), (_MAX_ROWS, max_length)]
    row_strata = (generator.permutation(count) + generator.random(count)) / count
    length_strata = (generator.permutation(count) + generator.random(count)) / count
    rows = np.floor((_MAX_ROWS + 1) ** row_strata).astype(int)
    lengths = np.floor((max_length + 1) ** length_strata).astype(int)
    rows = np.minimum(rows, np.maximum(1, _MAX_TOKENS // lengths))
    for row_count, length in zip(rows.tolist(), lengths.tolist(), strict=True):
        shapes.append((row_count, length))
    return shapes[:count]


def list_confidences(answer: TaskAnswer) -> dict[object, float]:
    """Return all probabilities of an answer, by the label or span that they belong to."""
    match answer:
        case Classification():
            return {label.name: label.confidence for label in answer.ranking}
        case Spans():
            return {(span.name, span.start): span.confidence for span in answer.spans}
        case Match():
            return {"score": answer.score, "label": answer.label.confidence if answer.label else 0.0}
        case Answer():
            return {"answer": answer.confidence}


def _compare_batch(
    result: ParityResult, reference: Reference, batch: ReferenceBatch, expected_outputs: Outputs
) -> None:
    predictor = result.predictor
    items = predictor.tokenize(batch.examples, batch.windows)
    outputs = _run(result, collect_rows(items), expected_outputs, batch.row_names)
    if outputs is None:
        return
    _compare_outputs(result, expected_outputs, outputs, batch.rows, batch.row_names)
    if any(values.shape != outputs[name].shape for name, values in expected_outputs.items()):
        return  # Outputs of another shape cannot be decoded, and the result has failed already.
    answers = predictor.decode(outputs, items, batch.tasks)
    for index, item, example_answers in zip(batch.indices, items, answers, strict=True):
        _compare_answers(result, index, quote_item(item), reference.answers[index], example_answers)


def _compare_single(
    result: ParityResult, task: str, batch_answer: TaskAnswer, single_answer: TaskAnswer, name: str
) -> None:
    info = result.predictor.tasks[task]
    result.singles += 1
    if not _agree(batch_answer, single_answer, info):
        batch_text = _format_answer(batch_answer, info)
        single_text = _format_answer(single_answer, info)
        result.batch_dependent.append(f"task '{task}' on {name}: {batch_text} in a batch, {single_text} alone")
        return
    gap = _confidence_gap(batch_answer, single_answer)
    result.drift = max(result.drift, gap)
    if gap > INVARIANCE_LIMIT:
        result.batch_drifting.append(f"task '{task}' on {name}: a probability differs by {gap:.6f} alone")


def _random_encodings(generator: np.random.Generator, rows: int, length: int, vocab_size: int) -> Iterator[Encoding]:
    for _ in range(rows):
        size = int(generator.integers(1, length + 1))
        ids = generator.integers(0, vocab_size, size)
        type_ids = generator.integers(0, 2, size)
        yield Encoding(ids.tolist(), type_ids.tolist(), [(0, 0)] * size, [0] * size)


def _run(
    result: ParityResult, rows: Sequence[Encoding], expected_outputs: Outputs, names: Sequence[str], length: int = 0
) -> Outputs | None:
    """Run the predictor. If it cannot run the batch, note that as its worst difference and return None."""
    try:
        return result.predictor.run(rows, length)
    except Exception as error:  # The exceptions of ONNX Runtime have no common base class.
        reason = str(error).partition("\n")[0]
        output = next(iter(expected_outputs))
        result.worst = LogitDifference(np.inf, output, names[0], f"the bundle cannot be run: {reason}")
        return None


def _compare_outputs(
    result: ParityResult,
    expected_outputs: Outputs,
    outputs: Outputs,
    rows: Sequence[Encoding],
    names: Sequence[str],
) -> None:
    """Note the largest differences. `names` describes each row."""
    lengths = np.array([len(row) for row in rows])
    for output, expected in expected_outputs.items():
        values = outputs[output]
        if expected.shape != values.shape:
            shapes = f"PyTorch gives the shape {list(expected.shape)}, the bundle {list(values.shape)}"
            result.worst = LogitDifference(np.inf, output, names[0], shapes)
            continue
        gaps = np.nan_to_num(np.abs(expected - values), nan=np.inf)
        if output in result.predictor.token_outputs:
            is_token = np.arange(gaps.shape[1]) < lengths[:, None]  # [batch, tokens]
            padding_gap = float(gaps[~is_token].max(initial=0.0))
            result.padding_difference = max(result.padding_difference, padding_gap)
            gaps[~is_token] = 0.0
        position = tuple(map(int, np.unravel_index(int(gaps.argmax()), gaps.shape)))
        if result.worst is None or gaps[position] > result.worst.size:
            place = ", ".join(map(str, position[1:]))
            detail = f"at [{place}] PyTorch gives {expected[position]:.6f}, the bundle {values[position]:.6f}"
            result.worst = LogitDifference(float(gaps[position]), output, names[position[0]], detail)


def _compare_answers(
    result: ParityResult,
    index: int,
    name: str,
    expected_answers: Mapping[str, TaskAnswer],
    answers: Mapping[str, TaskAnswer],
) -> None:
    """Note the differences between the answers to one example."""
    result.answers.setdefault(index, {}).update(answers)
    for task, answer in answers.items():
        expected = expected_answers[task]
        info = result.predictor.tasks[task]
        result.compared += 1
        gap = _confidence_gap(expected, answer)
        expected_text = _format_answer(expected, info)
        text = _format_answer(answer, info)
        description = f"task '{task}' on {name}: PyTorch answers {expected_text}, the bundle {text}"
        if not _agree(expected, answer, info):
            result.unequal.append(description)
            result.unequal_examples.add(index)
        elif gap > CONFIDENCE_LIMIT:
            result.uncertain.append(f"{description}, with a difference of {gap:.6f}")


def _agree(first: TaskAnswer, second: TaskAnswer, info: TaskInfo) -> bool:
    """Return True if two answers are equal, and both or neither are out of scope."""
    if not golden_answer(first, info).agrees(golden_answer(second, info)):
        return False
    limit = info.thresholds.out_of_scope
    if limit is None or not isinstance(first, Classification) or not isinstance(second, Classification):
        return True
    gap = abs(first.out_of_scope_score - second.out_of_scope_score)
    # A threshold is the score of a dev example, so that rounding alone can move that score across it.
    rounding = CONFIDENCE_LIMIT * max(1.0, abs(limit))
    return gap <= rounding or _is_rejected(first, info) == _is_rejected(second, info)


def _is_rejected(answer: TaskAnswer, info: TaskInfo) -> bool:
    limit = info.thresholds.out_of_scope
    return limit is not None and isinstance(answer, Classification) and answer.out_of_scope_score > limit


def _format_answer(answer: TaskAnswer, info: TaskInfo) -> str:
    text = str(golden_answer(answer, info))
    return f"{text} as out of scope" if _is_rejected(answer, info) else text


def _confidence_gap(expected: TaskAnswer, answer: TaskAnswer) -> float:
    """Return the largest difference between the probabilities of two equal answers."""
    confidences = list_confidences(answer)
    gap = 0.0
    for key, confidence in list_confidences(expected).items():
        gap = max(gap, abs(confidence - confidences.get(key, np.inf)))
    return gap
