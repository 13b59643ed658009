"""Data types shared by the parts of serving and by training's evaluation. Needs the standard library and numpy only.

Text positions are half-open code-point offsets everywhere in both packages. Other units exist only in gRPC messages.

Shape letters: B rows of a batch, S sequence length in tokens, C labels, T tags.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from enum import Enum
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Int64Array: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float32]

SPECIAL = -1
"""Segment of special tokens ([CLS], [SEP])."""
_CONTEXT_SEPARATOR = " | "
_PUNCTUATION_OF_NAMES = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Encoding:
    """One tokenized input: a text, or a text and its pair or context.

    `offsets[i]` is the code-point range of token i in its text. `segments[i]` is 0 for the text, 1 for the pair or
    context, and SPECIAL for a special token.
    """

    input_ids: Sequence[int]
    type_ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]
    segments: Sequence[int]
    truncated: bool = False
    seen: int = 0
    """Code points of the text that the model reads."""

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows in which a long passage is read, each after the question. Lengths are in tokens."""

    max_query: int
    """Longest question. Longer ones are cut."""
    stride: int
    """Distance between the starts of two windows."""


@dataclass(frozen=True, slots=True)
class RowLayout:
    """How a task reads its inputs. Tasks with the same layout share the rows of the encoder."""

    windows: Windows | None = None
    """Windows of a long pair. None: one row, cut to what the model reads."""
    context: bool = False
    """True if the context of a text is read, where it has one."""


def context_text(turns: Sequence[str], requested_slots: Iterable[str] = ()) -> str:
    """Return what was said before a text as one text: the names of the requested slots, then the turns, the newest first.

    A model reads as much of its beginning as fits, so the oldest turns are cut. Blank turns are left out.

    Args:
        turns: earlier turns of the dialogue, of the user and of the system, the newest last.
        requested_slots: names of the slots that the system has just asked for.

    Returns:
        "" for no context.
    """
    texts = []
    for name in requested_slots:
        texts.append(_PUNCTUATION_OF_NAMES.sub(" ", name).strip())
    for turn in reversed(turns):
        texts.append(" ".join(turn.split()))
    return _CONTEXT_SEPARATOR.join(filter(None, texts))


class InputTexts(NamedTuple):
    """Texts of one input: what is to be understood, its pair or None, and what was said before it (`context_text`)."""

    text: str
    pair: str | None = None
    context: str = ""

    @property
    def second(self) -> str | None:
        """The text that the model reads after the first: the pair, or the context. None: there is neither."""
        return self.pair if self.pair is not None else self.context or None

    @property
    def characters(self) -> int:
        """Code points of all texts."""
        return len(self.text) + len(self.pair or "") + len(self.context)


@dataclass(frozen=True, slots=True)
class Label:
    """A class and its calibrated probability, 0 to 1."""

    name: str
    confidence: float


@dataclass(frozen=True, slots=True)
class ResolvedValue:
    """The meaning of a value. `json` is the canonical value as JSON: a string, or an object with the parts of a resolver's answer."""

    canonical: str
    kind: str
    json: str


@dataclass(frozen=True, slots=True)
class Span:
    """A labelled range of the text, with `value == text[start:end]`.

    `confidence` is the marginal probability of the whole span. `resolved` is None until `palm_serve.values` knows a meaning.
    """

    name: str
    value: str
    start: int
    end: int
    confidence: float
    role: str = ""
    group: str = ""
    resolved: ResolvedValue | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """Answer of a `classify` or `multi_label` head. `ranking` is complete and sorted by confidence, ties by label order."""

    label: Label
    ranking: tuple[Label, ...]
    labels: tuple[Label, ...] = ()
    """All labels above their thresholds (multi-label tasks)."""
    out_of_scope_score: float = 0.0


@dataclass(frozen=True, slots=True)
class Spans:
    """Answer of a `sequence_label` head: spans in text order, without overlap."""

    spans: tuple[Span, ...]
    has_roles: bool = False
    """True if the task learnt roles and groups. Otherwise empty ones say nothing about the text."""


@dataclass(frozen=True, slots=True)
class Match:
    """Answer of a `match` head. `label` is None for a ranker. `score` is the probability of a match."""

    label: Label | None
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of an `mrc` head, with `text == passage[start:end]`. With `no_answer`, the text is empty."""

    text: str
    start: int
    end: int
    confidence: float
    no_answer: bool = False
    alternatives: tuple["Answer", ...] = ()


TaskAnswer: TypeAlias = Classification | Spans | Match | Answer


class FallbackReason(Enum):
    """Reason why a dialogue system should not act on the top intent. Values are those of `palm.proto`."""

    NONE = 0
    LOW_CONFIDENCE = 1
    AMBIGUOUS = 2
    OUT_OF_SCOPE = 3
    UNKNOWN_LANGUAGE = 4


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits that trigger a fallback. None switches a check off."""

    intent_confidence: float | None = None
    ambiguity_margin: float | None = None
    out_of_scope: float | None = None


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Padded model inputs, each int64 `[B, S]`. `arrays` holds those that the graph declares."""

    arrays: Mapping[str, Int64Array]
    lengths: Int64Array
    """Tokens per row without padding, int64 `[B]`."""


@dataclass(frozen=True, slots=True)
class EngineTrial:
    """One combination of graph, execution provider and precision that a server looked at."""

    provider: str
    precision: str
    variant: str
    outcome: str
    """passed or failed the proof, unusable (it cannot be opened here), or not_tried."""
    reason: str = ""
    """Reason of another outcome than passed. It names no text and no file."""
    latency_ms: float = 0.0
    """Time of one text of 16 tokens. Zero: it was not timed."""
    is_chosen: bool = False


@dataclass(frozen=True, slots=True)
class EngineSelection:
    """Combinations that were looked at for a bundle, and why one was chosen. Empty for a bundle without a proof."""

    trials: tuple[EngineTrial, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Execution provider, precision and graph variant of an engine."""

    provider: str
    precision: str
    variant: str
    details: Mapping[str, str] = field(default_factory=dict)
    selection: EngineSelection = EngineSelection()
    """Combinations that were looked at before this one was selected."""


class Priority(Enum):
    """Priority of a request. Values are those of `palm.proto`."""

    INTERACTIVE = 1
    BATCH = 2


@dataclass(frozen=True, slots=True)
class Moment:
    """Time and place of a user, for values such as "tomorrow"."""

    time: datetime | None = None
    """With its zone. None: the time at which the value is read."""
    zone: tzinfo = UTC


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One text, with or without a pair, for some tasks of one model. `deadline` is in seconds of `time.monotonic()`."""

    text: str
    tasks: tuple[str, ...]
    pair: str | None = None
    context: str = ""
    """Turns before the text, as `context_text` writes them. Tasks that learnt no context do not read it."""
    top_k: int = 3
    deadline: float | None = None
    priority: Priority = Priority.INTERACTIVE
    client: str = ""
    """Name of the client: the name of a token, or else an address. Clients of a model take turns."""
    moment: Moment = Moment()

    @property
    def inputs(self) -> InputTexts:
        """Texts of the request."""
        return InputTexts(self.text, self.pair, self.context)


@dataclass(frozen=True, slots=True)
class Timings:
    """Timings of one request in microseconds. `batch_size` is the number of rows of its batch."""

    tokenize_us: int = 0
    queue_us: int = 0
    inference_us: int = 0
    decode_us: int = 0
    batch_size: int = 0
    run_ns: int = 0
    """Start of its batch in the engine, on the clock of `time.perf_counter_ns()`. Zero: unknown."""
    decode_ns: int = 0
    """Start of the decoding of its batch, on the same clock."""
    resolve_us: int = 0


@dataclass(frozen=True, slots=True)
class Prediction:
    """Answers of one request by task name. `seen` counts the code points of the text that the model read."""

    answers: Mapping[str, TaskAnswer]
    truncated: bool
    seen: int
    timings: Timings
    unknown_language: bool = False
    """True if the model cannot read most of the text."""


@dataclass(slots=True)
class AnsweredText:
    """Model, version and timings of one answered text of a call."""

    model: str
    version: str
    timings: Timings


@dataclass(slots=True)
class CallRecord:
    """One call that has ended, for metrics, traces and the access log. It holds no text."""

    method: str
    service: str
    """Full name of the service."""
    code: str
    """Name of the status code."""
    number: int
    """Number of the status code."""
    seconds: float
    ended_ns: int
    """End of the call on the clock of `time.perf_counter_ns()`."""
    request_id: str
    client: str
    door: str = "grpc"
    """Transport of the call: grpc or http."""
    health: bool = False
    """True for a health check."""
    stream: bool = False
    """True for an open-ended stream, whose duration says nothing."""
    draining: bool = False
    """True if the server was draining."""
    reason: str = ""
    """Reason of a refusal: queue_full, deadline, client_rate or client_calls."""
    texts: int = 0
    """Number of answered texts."""
    answered: Sequence[AnsweredText] = ()
    """The first answered texts."""
    request_bytes: int = 0
    """Size of a unary call's request. Zero: unknown."""
    response_bytes: int = 0
    traceparent: str = ""
    """Trace context of the caller, unchanged (W3C Trace Context)."""
    tracestate: str = ""
    trace_id: str = ""
    """32 hexadecimal digits. Empty: the call belongs to no trace."""


class Engine(Protocol):
    """Runs a graph, one call at a time."""

    info: EngineInfo

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Return graph outputs by name, as float32. `outputs` selects some of them (None: all)."""
        ...

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        """Return the rows and tokens that a batch of this size should be padded to.

        Providers that compile each shape use a few shapes only.
        """
        ...


class ServedEngine(Engine, Protocol):
    """An engine whose run another thread can stop."""

    def interrupt(self) -> None:
        """Ask the run in progress, in another thread, to end with EngineTimeout. Not every run can be ended."""
        ...
