import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OffsetUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OFFSET_UNIT_UNSPECIFIED: _ClassVar[OffsetUnit]
    OFFSET_UNIT_CODE_POINT: _ClassVar[OffsetUnit]
    OFFSET_UNIT_UTF16: _ClassVar[OffsetUnit]
    OFFSET_UNIT_UTF8_BYTE: _ClassVar[OffsetUnit]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_BATCH: _ClassVar[Priority]
OFFSET_UNIT_UNSPECIFIED: OffsetUnit
OFFSET_UNIT_CODE_POINT: OffsetUnit
OFFSET_UNIT_UTF16: OffsetUnit
OFFSET_UNIT_UTF8_BYTE: OffsetUnit
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_BATCH: Priority

class ParseRequest(_message.Message):
    __slots__ = ("text", "model", "version", "request_id", "top_k", "offset_unit", "tasks", "thresholds", "priority", "context", "reference_time", "time_zone")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    OFFSET_UNIT_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_TIME_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    text: str
    model: str
    version: str
    request_id: str
    top_k: int
    offset_unit: OffsetUnit
    tasks: _containers.RepeatedScalarFieldContainer[str]
    thresholds: Thresholds
    priority: Priority
    context: Context
    reference_time: _timestamp_pb2.Timestamp
    time_zone: str
    def __init__(self, text: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., request_id: _Optional[str] = ..., top_k: _Optional[int] = ..., offset_unit: _Optional[_Union[OffsetUnit, str]] = ..., tasks: _Optional[_Iterable[str]] = ..., thresholds: _Optional[_Union[Thresholds, _Mapping]] = ..., priority: _Optional[_Union[Priority, str]] = ..., context: _Optional[_Union[Context, _Mapping]] = ..., reference_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., time_zone: _Optional[str] = ...) -> None: ...

class Context(_message.Message):
    __slots__ = ("turns", "requested_slots")
    TURNS_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_SLOTS_FIELD_NUMBER: _ClassVar[int]
    turns: _containers.RepeatedScalarFieldContainer[str]
    requested_slots: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, turns: _Optional[_Iterable[str]] = ..., requested_slots: _Optional[_Iterable[str]] = ...) -> None: ...

class Thresholds(_message.Message):
    __slots__ = ("intent_confidence", "ambiguity_margin", "out_of_scope")
    INTENT_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    AMBIGUITY_MARGIN_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_SCOPE_FIELD_NUMBER: _ClassVar[int]
    intent_confidence: float
    ambiguity_margin: float
    out_of_scope: float
    def __init__(self, intent_confidence: _Optional[float] = ..., ambiguity_margin: _Optional[float] = ..., out_of_scope: _Optional[float] = ...) -> None: ...

class ParseResponse(_message.Message):
    __slots__ = ("request_id", "model", "version", "text", "intent", "intents", "ranking", "slots", "fallback", "results", "truncated", "seen", "timings")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INTENT_FIELD_NUMBER: _ClassVar[int]
    INTENTS_FIELD_NUMBER: _ClassVar[int]
    RANKING_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    version: str
    text: str
    intent: Label
    intents: _containers.RepeatedCompositeFieldContainer[Label]
    ranking: _containers.RepeatedCompositeFieldContainer[Label]
    slots: _containers.RepeatedCompositeFieldContainer[Span]
    fallback: Fallback
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    truncated: bool
    seen: int
    timings: Timings
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., text: _Optional[str] = ..., intent: _Optional[_Union[Label, _Mapping]] = ..., intents: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., ranking: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., slots: _Optional[_Iterable[_Union[Span, _Mapping]]] = ..., fallback: _Optional[_Union[Fallback, _Mapping]] = ..., results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., truncated: bool = ..., seen: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("name", "confidence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    confidence: float
    def __init__(self, name: _Optional[str] = ..., confidence: _Optional[float] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("name", "value", "start", "end", "confidence", "role", "group", "resolved")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    start: int
    end: int
    confidence: float
    role: str
    group: str
    resolved: ResolvedValue
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., confidence: _Optional[float] = ..., role: _Optional[str] = ..., group: _Optional[str] = ..., resolved: _Optional[_Union[ResolvedValue, _Mapping]] = ...) -> None: ...

class ResolvedValue(_message.Message):
    __slots__ = ("canonical", "kind", "json")
    CANONICAL_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    canonical: str
    kind: str
    json: str
    def __init__(self, canonical: _Optional[str] = ..., kind: _Optional[str] = ..., json: _Optional[str] = ...) -> None: ...

class Fallback(_message.Message):
    __slots__ = ("triggered", "reason", "out_of_scope_score")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Fallback.Reason]
        LOW_CONFIDENCE: _ClassVar[Fallback.Reason]
        AMBIGUOUS: _ClassVar[Fallback.Reason]
        OUT_OF_SCOPE: _ClassVar[Fallback.Reason]
        UNKNOWN_LANGUAGE: _ClassVar[Fallback.Reason]
    REASON_UNSPECIFIED: Fallback.Reason
    LOW_CONFIDENCE: Fallback.Reason
    AMBIGUOUS: Fallback.Reason
    OUT_OF_SCOPE: Fallback.Reason
    UNKNOWN_LANGUAGE: Fallback.Reason
    TRIGGERED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_SCOPE_SCORE_FIELD_NUMBER: _ClassVar[int]
    triggered: bool
    reason: Fallback.Reason
    out_of_scope_score: float
    def __init__(self, triggered: bool = ..., reason: _Optional[_Union[Fallback.Reason, str]] = ..., out_of_scope_score: _Optional[float] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("tokenize_us", "queue_us", "inference_us", "decode_us", "batch_size", "resolve_us")
    TOKENIZE_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_US_FIELD_NUMBER: _ClassVar[int]
    DECODE_US_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    RESOLVE_US_FIELD_NUMBER: _ClassVar[int]
    tokenize_us: int
    queue_us: int
    inference_us: int
    decode_us: int
    batch_size: int
    resolve_us: int
    def __init__(self, tokenize_us: _Optional[int] = ..., queue_us: _Optional[int] = ..., inference_us: _Optional[int] = ..., decode_us: _Optional[int] = ..., batch_size: _Optional[int] = ..., resolve_us: _Optional[int] = ...) -> None: ...

class ItemError(_message.Message):
    __slots__ = ("code", "message", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    retry_after_ms: int
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class ParseItem(_message.Message):
    __slots__ = ("request_id", "response", "error")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    response: ParseResponse
    error: ItemError
    def __init__(self, request_id: _Optional[str] = ..., response: _Optional[_Union[ParseResponse, _Mapping]] = ..., error: _Optional[_Union[ItemError, _Mapping]] = ...) -> None: ...

class ParseBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ParseRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ParseRequest, _Mapping]]] = ...) -> None: ...

class ParseBatchResponse(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ParseItem]
    def __init__(self, items: _Optional[_Iterable[_Union[ParseItem, _Mapping]]] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("task", "text", "text_pair", "model", "version", "request_id", "top_k", "offset_unit", "priority", "context")
    TASK_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TEXT_PAIR_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    OFFSET_UNIT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    task: str
    text: str
    text_pair: str
    model: str
    version: str
    request_id: str
    top_k: int
    offset_unit: OffsetUnit
    priority: Priority
    context: Context
    def __init__(self, task: _Optional[str] = ..., text: _Optional[str] = ..., text_pair: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., request_id: _Optional[str] = ..., top_k: _Optional[int] = ..., offset_unit: _Optional[_Union[OffsetUnit, str]] = ..., priority: _Optional[_Union[Priority, str]] = ..., context: _Optional[_Union[Context, _Mapping]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("request_id", "model", "version", "result", "truncated", "timings")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    version: str
    result: TaskResult
    truncated: bool
    timings: Timings
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., result: _Optional[_Union[TaskResult, _Mapping]] = ..., truncated: bool = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("task", "classification", "spans", "match", "answer")
    TASK_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    task: str
    classification: Classification
    spans: Spans
    match: Match
    answer: Answer
    def __init__(self, task: _Optional[str] = ..., classification: _Optional[_Union[Classification, _Mapping]] = ..., spans: _Optional[_Union[Spans, _Mapping]] = ..., match: _Optional[_Union[Match, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ...) -> None: ...

class Classification(_message.Message):
    __slots__ = ("label", "ranking", "labels")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    RANKING_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    label: Label
    ranking: _containers.RepeatedCompositeFieldContainer[Label]
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    def __init__(self, label: _Optional[_Union[Label, _Mapping]] = ..., ranking: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ...) -> None: ...

class Spans(_message.Message):
    __slots__ = ("spans",)
    SPANS_FIELD_NUMBER: _ClassVar[int]
    spans: _containers.RepeatedCompositeFieldContainer[Span]
    def __init__(self, spans: _Optional[_Iterable[_Union[Span, _Mapping]]] = ...) -> None: ...

class Match(_message.Message):
    __slots__ = ("label", "score")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    label: Label
    score: float
    def __init__(self, label: _Optional[_Union[Label, _Mapping]] = ..., score: _Optional[float] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("text", "start", "end", "confidence", "no_answer", "alternatives")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    NO_ANSWER_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    text: str
    start: int
    end: int
    confidence: float
    no_answer: bool
    alternatives: _containers.RepeatedCompositeFieldContainer[Answer]
    def __init__(self, text: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., confidence: _Optional[float] = ..., no_answer: bool = ..., alternatives: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "failures")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    failures: _containers.RepeatedCompositeFieldContainer[LoadFailure]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[LoadFailure, _Mapping]]] = ...) -> None: ...

class LoadFailure(_message.Message):
    __slots__ = ("name", "label", "message")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    message: str
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class UnloadModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "labels", "ready", "tasks", "max_length_tokens", "max_text_bytes", "provider", "precision", "engine_trials", "engine_reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_TRIALS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    ready: bool
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    max_length_tokens: int
    max_text_bytes: int
    provider: str
    precision: str
    engine_trials: _containers.RepeatedCompositeFieldContainer[EngineTrial]
    engine_reason: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., ready: bool = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., max_length_tokens: _Optional[int] = ..., max_text_bytes: _Optional[int] = ..., provider: _Optional[str] = ..., precision: _Optional[str] = ..., engine_trials: _Optional[_Iterable[_Union[EngineTrial, _Mapping]]] = ..., engine_reason: _Optional[str] = ...) -> None: ...

class EngineTrial(_message.Message):
    __slots__ = ("variant", "provider", "precision", "outcome", "reason", "latency_ms", "chosen")
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    variant: str
    provider: str
    precision: str
    outcome: str
    reason: str
    latency_ms: float
    chosen: bool
    def __init__(self, variant: _Optional[str] = ..., provider: _Optional[str] = ..., precision: _Optional[str] = ..., outcome: _Optional[str] = ..., reason: _Optional[str] = ..., latency_ms: _Optional[float] = ..., chosen: bool = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("name", "kind", "role", "labels", "span_types", "reads_context")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SPAN_TYPES_FIELD_NUMBER: _ClassVar[int]
    READS_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    role: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    span_types: _containers.RepeatedCompositeFieldContainer[SpanType]
    reads_context: bool
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., role: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., span_types: _Optional[_Iterable[_Union[SpanType, _Mapping]]] = ..., reads_context: bool = ...) -> None: ...

class SpanType(_message.Message):
    __slots__ = ("name", "role", "group")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    group: str
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., group: _Optional[str] = ...) -> None: ...
