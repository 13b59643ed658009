"""Golden examples: dev inputs that a bundle carries as its self-test.

They are few, varied, and clear enough that no provider decides them differently.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from palm_serve.bundle.golden import GoldenExample
from palm_serve.bundle.manifest import TaskInfo
from palm_serve.bundle.span_types import span_label
from palm_serve.decoding import golden_answer
from palm_serve.types import Answer, Classification, InputTexts, Match, Spans, TaskAnswer
from palm_trainer.data.example import Example

MIN_CONFIDENCE = 0.6
"""Lowest probability of a label and of every span."""
MIN_EXAMPLES = 20
MAX_EXAMPLES = 50
_UNCERTAIN_EXAMPLES = 5
"""Examples to choose if no answer is confident."""
_MAX_CHARACTERS = 500

AnsweredExample = tuple[Example, Mapping[str, TaskAnswer]]


def choose_golden(sets: Sequence[Sequence[AnsweredExample]], tasks: Mapping[str, TaskInfo]) -> list[GoldenExample]:
    """Choose 20 to 50 inputs that show as many labels and span names as they can, or fewer if dev is smaller.

    Args:
        sets: examples of each data set with the answers that all passed candidates give.
        tasks: manifest entries.
    """
    pool = list(_interleave(sets, _MAX_CHARACTERS))
    if not pool:  # all texts are long
        pool = sorted(_interleave(sets, sys.maxsize), key=_count_characters)[:MAX_EXAMPLES]
    confident_answers = [_select_confident(answers) for _, answers in pool]
    if not any(confident_answers):
        return _choose_most_certain(pool, tasks)
    usable = [index for index, answers in enumerate(confident_answers) if answers]
    indices: list[int] = []
    covered_labels: set[tuple[str, str]] = set()
    for index in usable:
        labels = set(_list_labels(confident_answers[index]))
        if len(indices) < MAX_EXAMPLES and labels - covered_labels:
            covered_labels |= labels
            indices.append(index)
    indices += _spread_evenly(usable, indices)
    examples = []
    for index in sorted(indices):
        example, _ = pool[index]
        examples.append(_to_golden(example, confident_answers[index], tasks))
    return examples


def _choose_most_certain(pool: Sequence[AnsweredExample], tasks: Mapping[str, TaskInfo]) -> list[GoldenExample]:
    """Choose the most certain examples if no answer is confident."""

    def least_certainty(answered: AnsweredExample) -> float:
        return min(map(_certainty, answered[1].values()), default=0.0)

    ranked = sorted(pool, key=least_certainty, reverse=True)
    examples = []
    for example, answers in ranked[:_UNCERTAIN_EXAMPLES]:
        examples.append(_to_golden(example, answers, tasks))
    return examples


def _spread_evenly(usable: Sequence[int], indices: Sequence[int]) -> list[int]:
    """Choose the indices that are missing from the minimum, at even distances."""
    missing = MIN_EXAMPLES - len(indices)
    if missing <= 0:
        return []
    used = set(indices)
    unused = [index for index in usable if index not in used]
    step = max(1, len(unused) // missing)
    return unused[::step][:missing]


def _interleave(sets: Sequence[Sequence[AnsweredExample]], max_characters: int) -> Iterator[AnsweredExample]:
    """Yield one example of each set in turn, except for blank, long and repeated texts."""
    texts: set[InputTexts] = set()
    for group in zip_longest(*sets):
        for answered in group:
            if answered is None:
                continue
            example = answered[0]
            key = example.inputs
            if key not in texts and example.text.strip() and _count_characters(answered) <= max_characters:
                texts.add(key)
                yield answered


def _count_characters(answered: AnsweredExample) -> int:
    example, _ = answered
    return example.inputs.characters


def _select_confident(answers: Mapping[str, TaskAnswer]) -> dict[str, TaskAnswer]:
    confident_answers = {}
    for task, answer in answers.items():
        if _certainty(answer) >= MIN_CONFIDENCE:
            confident_answers[task] = answer
    return confident_answers


def _certainty(answer: TaskAnswer) -> float:
    """Return the probability of the label or answer, or of the least certain span.

    It is 1 for an answer without spans, and for a ranker, which decides nothing.
    """
    match answer:
        case Classification():
            return answer.label.confidence
        case Spans():
            return min((span.confidence for span in answer.spans), default=1.0)
        case Match():
            return answer.label.confidence if answer.label else 1.0
        case Answer():
            return answer.confidence


def _list_labels(answers: Mapping[str, TaskAnswer]) -> Iterator[tuple[str, str]]:
    """Yield each task with its label or its span types."""
    for task, answer in answers.items():
        match answer:
            case Classification():
                yield task, answer.label.name
            case Spans():
                for span in answer.spans:
                    yield task, span_label(span.name, span.role, span.group)
            case Match():
                yield task, answer.label.name if answer.label else ""
            case Answer():
                yield task, "no answer" if answer.no_answer else "answer"


def _to_golden(example: Example, answers: Mapping[str, TaskAnswer], tasks: Mapping[str, TaskInfo]) -> GoldenExample:
    golden_answers = {}
    for task, answer in answers.items():
        golden_answers[task] = golden_answer(answer, tasks[task])
    texts = example.inputs
    return GoldenExample(text=texts.text, pair=texts.pair, context=texts.context, answers=golden_answers)
