"""Differences between an engine and the trained model, and the rules for them: those of the export and of every server.

The limits of fp32 hold for every logit that a decoder reads: those of a text and those of its tokens. Differences at
padding are reported but not limited, because no decoder reads them. There PyTorch itself is less exact in fp32: for a
trained ATIS model the difference is 1.9e-4 at padding and 2.4e-5 elsewhere. For another model, compared with float64,
PyTorch was off by 1.7e-4 and ONNX Runtime by 5e-6.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.bundle.proof import RecordedAnswer
from palm_serve.decoding import golden_answer
from palm_serve.proof.predictor import EnginePredictor, Outputs
from palm_serve.types import Answer, Classification, Encoding, FloatArray, Match, Spans, TaskAnswer

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
    logit_limit: float = LOGIT_LIMIT
    """Largest difference of a logit in fp32."""

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

    @property
    def is_exact(self) -> bool:
        """Return True if the rule for fp32 applies."""
        return self.predictor.engine.info.precision == "fp32"

    def has_failed(self, answers: int = 0) -> bool:
        """Return True if no further comparison can make the predictor pass.

        Args:
            answers: number of answers that are compared in all. Smaller than `compared`: no more are to come.
        """
        if self.worst is not None and not math.isfinite(self.worst.size):
            return True
        if self.is_exact:
            too_far = self.worst is not None and not self.worst.size <= self.logit_limit
            return too_far or bool(self.unequal or self.uncertain)
        return len(self.unequal) > permitted_changes(max(answers, self.compared))

    def check_reduced(self, budget: float = 1.0) -> str | None:
        """Return why the predictor breaks the rule for reduced precisions, or None if it does not.

        `budget` is the fraction of the permitted changes that it may use.
        """
        if self.worst is not None and not math.isfinite(self.worst.size):
            return str(self.worst)
        checks = (
            ("differ", self.unequal, self.compared),
            ("depend on the batch", self.batch_dependent, self.singles),
        )
        for verb, descriptions, count in checks:
            if not count:
                return "no answer was compared"
            permitted = permitted_changes(count, budget)
            if len(descriptions) > permitted:
                return (
                    f"{len(descriptions)} of {count} answers {verb}, and at most {permitted} may; "
                    f"first: {descriptions[0]}"
                )
        return None

    def check_exact(self) -> str | None:
        """Return why the predictor breaks the rule for fp32, or None if it does not."""
        if self.worst is not None and not self.worst.size <= self.logit_limit:
            return f"{self.worst}; the limit is a difference of {self.logit_limit:g}"
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


def permitted_changes(count: int, budget: float = 1.0) -> int:
    """Return how many of `count` answers a reduced precision may change. `budget` is the fraction of it to use."""
    return int(round((1 - EQUAL_SHARE) * budget * count, 9))


def record_answer(answer: TaskAnswer, info: TaskInfo, decided_only: bool = False) -> RecordedAnswer:
    """Return what is compared of an answer.

    Args:
        answer: the answer.
        info: manifest entry of its task.
        decided_only: leave out the probabilities of labels that were not chosen.
    """
    score = answer.out_of_scope_score if isinstance(answer, Classification) else None
    # Without validation, because a probability may be NaN. The comparison of the logits finds that.
    return RecordedAnswer.model_construct(
        decision=golden_answer(answer, info),
        confidences=list_confidences(answer, decided_only),
        out_of_scope=score,
    )


def list_confidences(answer: TaskAnswer, decided_only: bool = False) -> dict[str, float]:
    """Return the probabilities of an answer, by the label or span that they belong to.

    Args:
        answer: the answer.
        decided_only: leave out labels that were not chosen.
    """
    match answer:
        case Classification():
            labels = (answer.label, *answer.labels) if decided_only else answer.ranking
            return {label.name: label.confidence for label in labels}
        case Spans():
            return {f"{span.start} {span.name}": span.confidence for span in answer.spans}
        case Match():
            return {"score": answer.score, "label": answer.label.confidence if answer.label else 0.0}
        case Answer():
            return {"answer": answer.confidence}


def readable_values(values: FloatArray, lengths: Sequence[int], per_token: bool) -> FloatArray:
    """Return the values of an output that a decoder reads, in one axis: all but those at padding.

    Args:
        values: the output, `[rows, ...]` or `[rows, tokens, ...]`.
        lengths: tokens of each row.
        per_token: True if the output has an axis for the tokens.
    """
    if not per_token:
        return values.reshape(-1)
    is_token = np.arange(values.shape[1]) < np.asarray(lengths)[:, None]  # [rows, tokens]
    return values[is_token].reshape(-1)


def run_batch(
    result: ParityResult, rows: Sequence[Encoding], outputs: Sequence[str], names: Sequence[str], length: int = 0
) -> Outputs | None:
    """Run the predictor. If it cannot run the batch, note that as its worst difference and return None.

    Args:
        result: result of the predictor, which is updated.
        rows: rows of the batch.
        outputs: names of the outputs.
        names: description of each row.
        length: fewest tokens of a row.
    """
    try:
        return result.predictor.run(rows, length)
    except Exception as error:  # The exceptions of ONNX Runtime have no common base class.
        reason = str(error).partition("\n")[0]
        result.worst = LogitDifference(np.inf, outputs[0], names[0], f"the bundle cannot be run: {reason}")
        return None


def compare_outputs(
    result: ParityResult,
    expected_outputs: Outputs,
    outputs: Outputs,
    rows: Sequence[Encoding],
    names: Sequence[str],
) -> None:
    """Note the largest differences.

    Args:
        result: result of the predictor, which is updated.
        expected_outputs: outputs of the trained model.
        outputs: outputs of the predictor.
        rows: rows of the batch.
        names: description of each row.
    """
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


def compare_single(
    result: ParityResult, task: str, batch_answer: TaskAnswer, single_answer: TaskAnswer, name: str
) -> None:
    """Note the differences between the answers to one example alone and in a batch.

    Args:
        result: result of the predictor, which is updated.
        task: name of the task.
        batch_answer: answer in a batch.
        single_answer: answer to the example alone.
        name: description of the example.
    """
    info = result.predictor.tasks[task]
    result.singles += 1
    in_batch = record_answer(batch_answer, info)
    alone_answer = record_answer(single_answer, info)
    if not _agree(in_batch, alone_answer, info):
        batch_text = _format_answer(in_batch, info)
        single_text = _format_answer(alone_answer, info)
        result.batch_dependent.append(f"task '{task}' on {name}: {batch_text} in a batch, {single_text} alone")
        return
    gap = _confidence_gap(in_batch, alone_answer)
    result.drift = max(result.drift, gap)
    if gap > INVARIANCE_LIMIT:
        result.batch_drifting.append(f"task '{task}' on {name}: a probability differs by {gap:.6f} alone")


def compare_answers(
    result: ParityResult,
    index: int,
    name: str,
    expected_answers: Mapping[str, RecordedAnswer],
    answers: Mapping[str, TaskAnswer],
) -> None:
    """Note the differences between the answers to one example.

    Args:
        result: result of the predictor, which is updated.
        index: position of the example.
        name: description of the example.
        expected_answers: answers of the trained model, by task.
        answers: answers of the predictor.
    """
    result.answers.setdefault(index, {}).update(answers)
    for task, answer in answers.items():
        expected = expected_answers[task]
        info = result.predictor.tasks[task]
        result.compared += 1
        recorded = record_answer(answer, info)
        gap = _confidence_gap(expected, recorded)
        expected_text = _format_answer(expected, info)
        text = _format_answer(recorded, info)
        description = f"task '{task}' on {name}: PyTorch answers {expected_text}, the bundle {text}"
        if not _agree(expected, recorded, info):
            result.unequal.append(description)
            result.unequal_examples.add(index)
        elif gap > CONFIDENCE_LIMIT:
            result.uncertain.append(f"{description}, with a difference of {gap:.6f}")


def _agree(first: RecordedAnswer, second: RecordedAnswer, info: TaskInfo) -> bool:
    """Return True if two answers are equal, and both or neither are out of scope."""
    if not first.decision.agrees(second.decision):
        return False
    limit = info.thresholds.out_of_scope
    if limit is None or first.out_of_scope is None or second.out_of_scope is None:
        return True
    gap = abs(first.out_of_scope - second.out_of_scope)
    # A threshold is the score of a dev example, so that rounding alone can move that score across it.
    rounding = CONFIDENCE_LIMIT * max(1.0, abs(limit))
    return gap <= rounding or _is_rejected(first, info) == _is_rejected(second, info)


def _is_rejected(answer: RecordedAnswer, info: TaskInfo) -> bool:
    limit = info.thresholds.out_of_scope
    return limit is not None and answer.out_of_scope is not None and answer.out_of_scope > limit


def _format_answer(answer: RecordedAnswer, info: TaskInfo) -> str:
    text = str(answer.decision)
    return f"{text} as out of scope" if _is_rejected(answer, info) else text


def _confidence_gap(expected: RecordedAnswer, answer: RecordedAnswer) -> float:
    """Return the largest difference between the probabilities of two equal answers."""
    gap = 0.0
    for key, confidence in expected.confidences.items():
        gap = max(gap, abs(confidence - answer.confidences.get(key, math.inf)))
    return gap
