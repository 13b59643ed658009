"""Answers that a server would refuse: it triggers the fallback with the thresholds of the model."""

from collections.abc import Sequence

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding.fallback_policy import judge, model_thresholds
from palm_serve.tokenization import TextTokenizer
from palm_serve.tokenization.scripts import is_unknown_language
from palm_serve.types import Classification, FallbackReason, TaskAnswer
from palm_trainer.data.example import Example


def find_refusals(
    info: TaskInfo, tokenizer: TextTokenizer, examples: Sequence[Example], answers: Sequence[TaskAnswer]
) -> list[FallbackReason]:
    """Return the reason for which a server would refuse each answer of a task, NONE for an answer that it would give.

    Only the task of the intents has a fallback. The answers of others are never refused.

    Args:
        info: manifest entry of the task.
        tokenizer: tokenizer of the model.
        examples: the texts.
        answers: an answer for each, with at least two entries in its ranking.
    """
    if info.role != "intent":
        return [FallbackReason.NONE] * len(examples)
    thresholds = model_thresholds(info.thresholds)
    unknown = _find_unknown_languages(info, tokenizer, examples)
    reasons = []
    for answer, is_unknown in zip(answers, unknown, strict=True):
        assert isinstance(answer, Classification)
        reasons.append(judge(answer, thresholds, unknown_language=is_unknown))
    return reasons


def _find_unknown_languages(info: TaskInfo, tokenizer: TextTokenizer, examples: Sequence[Example]) -> list[bool]:
    """Return True for each text in a language that the model does not read."""
    scripts = frozenset(info.thresholds.scripts)
    if not scripts:
        return [False] * len(examples)
    rows = tokenizer.encode_rows([example.inputs for example in examples], info.layout)
    unknown = []
    for example, encodings in zip(examples, rows, strict=True):
        unknown.append(is_unknown_language(example.text, encodings[0], tokenizer.unknown_id, scripts))
    return unknown
