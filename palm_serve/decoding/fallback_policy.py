"""Fallback: when a dialogue system should not act on the top intent."""

from palm_serve.bundle.manifest import TaskThresholds
from palm_serve.types import Classification, FallbackReason, Thresholds


def model_thresholds(limits: TaskThresholds) -> Thresholds:
    """Return the limits of a task for requests that name none."""
    return Thresholds(limits.intent_confidence, limits.ambiguity_margin, limits.out_of_scope)


def judge(answer: Classification, thresholds: Thresholds, *, unknown_language: bool = False) -> FallbackReason:
    """Return the first reason that holds: unknown language, out of scope, low confidence, ambiguous.

    Args:
        answer: the answer. Its ranking needs two entries for `ambiguous`.
        thresholds: limits of the request or the model.
        unknown_language: True if the model cannot read most of the text.
    """
    if unknown_language:
        return FallbackReason.UNKNOWN_LANGUAGE
    if thresholds.out_of_scope is not None and answer.out_of_scope_score > thresholds.out_of_scope:
        return FallbackReason.OUT_OF_SCOPE
    if thresholds.intent_confidence is not None and answer.label.confidence < thresholds.intent_confidence:
        return FallbackReason.LOW_CONFIDENCE
    if thresholds.ambiguity_margin is not None and len(answer.ranking) > 1:
        margin = answer.ranking[0].confidence - answer.ranking[1].confidence
        if margin < thresholds.ambiguity_margin:
            return FallbackReason.AMBIGUOUS
    return FallbackReason.NONE
