"""Conversion of predictions to response messages, with offsets in the unit of the client."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, assert_never

from palm_serve.bundle.manifest import Manifest
from palm_serve.config import Limits
from palm_serve.decoding import label_names
from palm_serve.decoding.fallback_policy import judge
from palm_serve.rpc.messages.offsets import Offsets
from palm_serve.rpc.messages.requests import CheckedRequest
from palm_serve.types import (
    Answer,
    Classification,
    EngineTrial,
    FallbackReason,
    Label,
    Match,
    Prediction,
    Span,
    Spans,
    TaskAnswer,
    Timings,
)
from palm_serve.v1 import palm_pb2 as pb

if TYPE_CHECKING:
    from palm_serve.registry import LoadedModel


class AnsweringModel(Protocol):
    """The model version that answered a request."""

    @property
    def name(self) -> str:
        """Name of the model in requests."""
        ...

    @property
    def version(self) -> str:
        """Digest of its bundle."""
        ...

    @property
    def manifest(self) -> Manifest:
        """Manifest of its bundle."""
        ...


def parse_response(
    request_id: str, model: AnsweringModel, checked: CheckedRequest, prediction: Prediction
) -> pb.ParseResponse:
    """Create the response to a ParseRequest. The fields of a role stay unset if its task was not requested.

    Args:
        request_id: id of the request.
        model: model version that answered.
        checked: the request.
        prediction: its answers.
    """
    text = checked.request.text
    response = pb.ParseResponse(
        request_id=request_id,
        model=model.name,
        version=model.version,
        text=text,
        truncated=prediction.truncated,
        seen=Offsets(text, checked.unit)(prediction.seen),
        timings=timings_message(prediction.timings),
    )
    for name in checked.request.tasks:
        answer = prediction.answers[name]
        role = model.manifest.tasks[name].role
        if role == "intent" and isinstance(answer, Classification):
            reason = judge(answer, checked.thresholds, unknown_language=prediction.unknown_language)
            _set_intent(response, answer, checked.top_k, reason)
        elif role == "slots" and isinstance(answer, Spans):
            response.slots.extend(_spans(answer.spans, Offsets(text, checked.unit)))
        else:
            response.results.append(task_result(name, answer, checked))
    return response


def predict_response(
    request_id: str, model: AnsweringModel, checked: CheckedRequest, prediction: Prediction
) -> pb.PredictResponse:
    """Create the response to a PredictRequest.

    Args:
        request_id: id of the request.
        model: model version that answered.
        checked: the request.
        prediction: its answer.
    """
    (name,) = checked.request.tasks
    return pb.PredictResponse(
        request_id=request_id,
        model=model.name,
        version=model.version,
        result=task_result(name, prediction.answers[name], checked),
        truncated=prediction.truncated,
        timings=timings_message(prediction.timings),
    )


def task_result(name: str, answer: TaskAnswer, checked: CheckedRequest) -> pb.TaskResult:
    """Convert the answer of one task.

    Args:
        name: name of the task.
        answer: its answer. Offsets of spans refer to the text, those of reading comprehension to the pair.
        checked: the request.
    """
    match answer:
        case Classification():
            message = pb.Classification(
                label=_label(answer.label),
                ranking=_labels(answer.ranking[: checked.top_k]),
                labels=_labels(answer.labels),
            )
            return pb.TaskResult(task=name, classification=message)
        case Spans():
            return pb.TaskResult(
                task=name, spans=pb.Spans(spans=_spans(answer.spans, Offsets(checked.request.text, checked.unit)))
            )
        case Match():
            label = None if answer.label is None else _label(answer.label)
            return pb.TaskResult(task=name, match=pb.Match(label=label, score=answer.score))
        case Answer():
            return pb.TaskResult(task=name, answer=_answer(answer, Offsets(checked.request.pair or "", checked.unit)))
        case _:
            assert_never(answer)


def timings_message(timings: Timings) -> pb.Timings:
    """Convert timings, in microseconds."""
    return pb.Timings(
        tokenize_us=timings.tokenize_us,
        queue_us=timings.queue_us,
        inference_us=timings.inference_us,
        decode_us=timings.decode_us,
        batch_size=timings.batch_size,
        resolve_us=timings.resolve_us,
    )


def model_message(model: "LoadedModel", limits: Limits) -> pb.Model:
    """Describe a loaded version for ListModels and GetModel."""
    tasks = []
    for name, task in model.manifest.tasks.items():
        span_types = []
        for span_type in task.decode.span_types.values():
            span_types.append(pb.SpanType(name=span_type.name, role=span_type.role, group=span_type.group))
        labels = label_names(task)
        tasks.append(
            pb.Task(
                name=name,
                kind=task.kind,
                role=task.role,
                labels=labels,
                span_types=span_types,
                reads_context=task.layout.context,
            )
        )
    return pb.Model(
        name=model.name,
        version=model.version,
        labels=model.labels,
        ready=model.ready,
        tasks=tasks,
        max_length_tokens=model.manifest.max_length,
        max_text_bytes=limits.text_bytes,
        provider=model.info.provider,
        precision=model.info.precision,
        engine_trials=map(_engine_trial, model.info.selection.trials),
        engine_reason=model.info.selection.reason,
    )


def _engine_trial(trial: EngineTrial) -> pb.EngineTrial:
    return pb.EngineTrial(
        variant=trial.variant,
        provider=trial.provider,
        precision=trial.precision,
        outcome=trial.outcome,
        reason=trial.reason,
        latency_ms=trial.latency_ms,
        chosen=trial.is_chosen,
    )


def _set_intent(response: pb.ParseResponse, answer: Classification, top_k: int, reason: FallbackReason) -> None:
    response.intent.CopyFrom(_label(answer.label))
    response.intents.extend(_labels(answer.labels))
    response.ranking.extend(_labels(answer.ranking[:top_k]))
    fallback = response.fallback
    fallback.triggered = bool(reason.value)
    fallback.reason = pb.Fallback.Reason.ValueType(reason.value)
    fallback.out_of_scope_score = answer.out_of_scope_score


def _label(label: Label) -> pb.Label:
    return pb.Label(name=label.name, confidence=label.confidence)


def _labels(labels: Iterable[Label]) -> list[pb.Label]:
    return [_label(label) for label in labels]


def _spans(spans: Sequence[Span], offsets: Offsets) -> list[pb.Span]:
    messages = []
    for span in spans:
        message = pb.Span(
            name=span.name,
            value=span.value,
            start=offsets(span.start),
            end=offsets(span.end),
            confidence=span.confidence,
            role=span.role,
            group=span.group,
        )
        if span.resolved is not None:
            message.resolved.canonical = span.resolved.canonical
            message.resolved.kind = span.resolved.kind
            message.resolved.json = span.resolved.json
        messages.append(message)
    return messages


def _answer(answer: Answer, offsets: Offsets) -> pb.Answer:
    return pb.Answer(
        text=answer.text,
        start=offsets(answer.start),
        end=offsets(answer.end),
        confidence=answer.confidence,
        no_answer=answer.no_answer,
        alternatives=[_answer(alternative, offsets) for alternative in answer.alternatives],
    )
