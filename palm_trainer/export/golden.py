"""Which dev inputs a bundle carries as its self-test: few, varied, and none that another provider might decide otherwise."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from palm_serve.bundle.golden import GoldenExample
from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding import golden_answer
from palm_serve.types import Answer, Classification, Match, Spans, TaskAnswer
from palm_trainer.data.example import Example

CONFIDENT = 0.6
"""Least probability of a label and of every span."""
LEAST, MOST = 20, 50
_LAST_RESORT = 5
"""How many of the surest are taken where nothing is confident."""
_LONGEST = 500
"""Characters."""

Answered = tuple[Example, Mapping[str, TaskAnswer]]


def choose_golden(sets: Sequence[Sequence[Answered]], tasks: Mapping[str, TaskInfo]) -> list[GoldenExample]:
    """20 to 50 inputs that together show as many labels and span names of as many tasks as they can; fewer where dev has fewer.

    Args:
        sets: examples of each data set with their answers, only those on which all providers that passed agree.
        tasks: manifest entries.
    """
    pool = list(_interleave(sets))
    answers = [_confident(found, CONFIDENT) for _, found in pool]
    if not any(answers):
        surest = sorted(range(len(pool)), key=lambda i: -min(map(_certainty, pool[i][1].values()), default=0.0))
        return [_golden(pool[i][0], pool[i][1], tasks) for i in surest[:_LAST_RESORT]]
    usable = [i for i, found in enumerate(answers) if found]
    chosen: list[int] = []
    seen: set[tuple[str, str]] = set()
    for i in usable:
        facts = set(_facts(answers[i]))
        if len(chosen) < MOST and facts - seen:
            seen |= facts
            chosen.append(i)
    rest = [i for i in usable if i not in set(chosen)]
    missing = max(0, LEAST - len(chosen))
    chosen += rest[:: max(1, len(rest) // missing)][:missing] if missing else []
    return [_golden(pool[i][0], answers[i], tasks) for i in sorted(chosen)]


def _interleave(sets: Sequence[Sequence[Answered]]) -> Iterator[Answered]:
    """One of each data set in turn; texts that are blank, long or repeated left out."""
    seen: set[tuple[str, str | None]] = set()
    for group in zip_longest(*sets):
        for one in group:
            if one is None:
                continue
            key = (one[0].text, one[0].pair)
            size = len(one[0].text) + len(one[0].pair or "")
            if key not in seen and one[0].text.strip() and size <= _LONGEST:
                seen.add(key)
                yield one


def _confident(answers: Mapping[str, TaskAnswer], least: float) -> dict[str, TaskAnswer]:
    return {task: answer for task, answer in answers.items() if _certainty(answer) >= least}


def _certainty(answer: TaskAnswer) -> float:
    """Probability of the label or answer, or of the least certain span (1 where there is none). A ranker's score decides nothing."""
    match answer:
        case Classification():
            return answer.label.confidence
        case Spans():
            return min((span.confidence for span in answer.spans), default=1.0)
        case Match():
            return answer.label.confidence if answer.label else 1.0
        case Answer():
            return answer.confidence


def _facts(answers: Mapping[str, TaskAnswer]) -> Iterator[tuple[str, str]]:
    """What an example shows: a task with one of its labels or span names."""
    for task, answer in answers.items():
        match answer:
            case Classification():
                yield task, answer.label.name
            case Spans():
                yield from ((task, span.name) for span in answer.spans)
            case Match():
                yield task, answer.label.name if answer.label else ""
            case Answer():
                yield task, "no answer" if answer.no_answer else "answer"


def _golden(example: Example, answers: Mapping[str, TaskAnswer], tasks: Mapping[str, TaskInfo]) -> GoldenExample:
    said = {task: golden_answer(answer, tasks[task]) for task, answer in answers.items()}
    return GoldenExample(text=example.text, pair=example.pair, answers=said)
