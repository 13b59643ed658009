"""What passes between the parts of serving, and between training's evaluation and serving. Standard library and numpy only.

Text positions are half-open code-point offsets everywhere in the two packages; other units exist only at the gRPC door.

Shape letters: B rows of a batch, S sequence length in tokens, C labels, T tags.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Int64Array: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float32]

SPECIAL = -1
"""`Encoding.segments` value of special tokens ([CLS], [SEP])."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One tokenized input: a text, or a text and its pair.

    `offsets[i]` is the code-point range of piece i in its own text; `segments[i]` says which text: 0 the text, 1 the pair, SPECIAL neither.
    """

    input_ids: Sequence[int]
    type_ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]
    segments: Sequence[int]
    truncated: bool = False
    seen: int = 0
    """Code points of the text that the model saw."""

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Windows:
    """How a passage is read that is longer than the model takes: in windows, each behind the question. Lengths in tokens."""

    max_query: int
    """The question is cut to this."""
    stride: int
    """From the beginning of one window to that of the next."""


@dataclass(frozen=True, slots=True)
class Label:
    """A class and its calibrated probability, 0 to 1."""

    name: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Span:
    """A labelled range of the text; `value == text[start:end]`. `confidence` is the marginal probability of the whole span."""

    name: str
    value: str
    start: int
    end: int
    confidence: float
    role: str = ""
    group: str = ""


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
    """Answer of a `sequence_label` head: in text order, not overlapping."""

    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """Answer of a `match` head. `label` is None for a ranker; `score` is the probability of a match."""

    label: Label | None
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of an `mrc` head: `text == passage[start:end]`; empty with `no_answer` when the passage holds none."""

    text: str
    start: int
    end: int
    confidence: float
    no_answer: bool = False
    alternatives: tuple["Answer", ...] = ()


TaskAnswer: TypeAlias = Classification | Spans | Match | Answer


class FallbackReason(Enum):
    """Why a dialogue system should not act on the top intent; values as in `palm.proto`."""

    NONE = 0
    LOW_CONFIDENCE = 1
    AMBIGUOUS = 2
    OUT_OF_SCOPE = 3


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits that trigger a fallback; None switches a check off."""

    intent_confidence: float | None = None
    ambiguity_margin: float | None = None
    out_of_scope: float | None = None


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Padded model inputs, each int64 [B, S]. `arrays` holds those that the graph declares."""

    arrays: Mapping[str, Int64Array]
    lengths: Int64Array
    """Tokens per row without padding, int64 [B]."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What runs a model."""

    provider: str
    precision: str
    variant: str
    details: Mapping[str, str] = field(default_factory=dict)


class Priority(Enum):
    """Who is served first; values as in `palm.proto`."""

    INTERACTIVE = 1
    BATCH = 2


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One text (and its pair) for some tasks of one model. `deadline` is on the `time.monotonic()` clock, in seconds."""

    text: str
    tasks: tuple[str, ...]
    pair: str | None = None
    top_k: int = 3
    deadline: float | None = None
    priority: Priority = Priority.INTERACTIVE


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one request went, microseconds; `batch_size` is the rows of its batch."""

    tokenize_us: int = 0
    queue_us: int = 0
    inference_us: int = 0
    decode_us: int = 0
    batch_size: int = 0
    run_ns: int = 0
    """When its batch took the engine, on the clock of `time.perf_counter_ns()`; 0: not known."""
    decode_ns: int = 0
    """When the decoding of its batch began."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Answers of one request by task name. `seen` is in code points of the text."""

    answers: Mapping[str, TaskAnswer]
    truncated: bool
    seen: int
    timings: Timings


@dataclass(slots=True)
class AnsweredText:
    """Who answered one text of a call, and where the time went."""

    model: str
    version: str
    timings: Timings


@dataclass(slots=True)
class CallRecord:
    """One call that has ended, for those who count, trace and log. It holds no text."""

    method: str
    service: str
    """Its full name."""
    code: str
    """Name of the status code."""
    number: int
    """Its number."""
    seconds: float
    ended_ns: int
    """On the clock of `time.perf_counter_ns()`."""
    request_id: str
    client: str
    health: bool = False
    """Whether it asked how the server is."""
    stream: bool = False
    """Open-ended: how long it took tells nothing."""
    draining: bool = False
    """Whether the server was on its way out."""
    reason: str = ""
    """Of a refusal: queue_full, deadline, client_rate, client_calls."""
    texts: int = 0
    """Texts that were answered."""
    answered: Sequence[AnsweredText] = ()
    """The first of them."""
    request_bytes: int = 0
    """Of a unary call's messages; 0: not known."""
    response_bytes: int = 0
    traceparent: str = ""
    """The caller's context as it came (W3C Trace Context)."""
    tracestate: str = ""
    trace_id: str = ""
    """32 hexadecimal digits; empty: the call belongs to no trace."""


class Engine(Protocol):
    """Runs a graph. Implementations are thread-compatible: one call at a time."""

    info: EngineInfo

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Graph outputs by name, float32; `outputs` selects some (None: all)."""
        ...

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        """Rows and tokens that a batch of this size should be padded to (shape buckets of providers that compile each shape)."""
        ...
