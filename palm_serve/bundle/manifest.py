"""Schema of `manifest.json`, the description of a bundle. The exporter writes these models, and the server reads them."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from palm_serve.bundle.span_types import SpanType
from palm_serve.types import RowLayout, Windows

FORMAT_VERSION = 1

MAX_TOKENS = 65_536
"""Limit of every number of tokens. The longest encoders read a few thousand."""
_MAX_COUNT = (1 << 31) - 1
MAX_NAME_LENGTH = 10_000
"""Limit of the characters of a label, or of an output of the graph."""

Role = Literal["", "intent", "slots"]


@dataclass(frozen=True, slots=True)
class KindFacts:
    """Facts about a task kind that every reader of a manifest needs."""

    name: str
    reads_pairs: bool = False
    """True if every task of the kind reads a text and its pair."""
    reads_windows: bool = False
    """True if a long pair is read in windows instead of being cut."""


KINDS = {
    facts.name: facts
    for facts in (
        KindFacts("classify"),
        KindFacts("multi_label"),
        KindFacts("sequence_label"),
        KindFacts("match", reads_pairs=True),
        KindFacts("mrc", reads_pairs=True, reads_windows=True),
        KindFacts("masked_lm"),
    )
}
"""Task kinds that a manifest may name. `masked_lm` is trained only: no bundle holds it."""


def register_kind(facts: KindFacts) -> None:
    """Add a kind to those that a manifest may name."""
    KINDS[facts.name] = facts


def check_kind(name: str) -> str:
    """Return the name of a known kind. Raise pydantic's error of a literal for any other."""
    if name not in KINDS:
        *names, last = map(repr, KINDS)
        raise PydanticCustomError(
            "literal_error", "Input should be {expected}", {"expected": f"{', '.join(names)} or {last}"}
        )
    return name


Kind: TypeAlias = Annotated[str, AfterValidator(check_kind)]
"""Name of a known task kind."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TensorInfo(_Strict):
    """One input of the graph. All its axes are dynamic."""

    name: str
    """Name of the input (`input_ids`)."""
    dtype: Literal["int64"] = "int64"
    """Type of its numbers."""
    axes: tuple[str, ...] = ("batch", "sequence")
    """Names of its axes."""


TokenCount: TypeAlias = Annotated[int, Field(ge=0, le=MAX_TOKENS)]


class EncoderInfo(_Strict):
    """Facts about the shared encoder, for people and for the model card."""

    family: str
    """Family of the architecture (`bert`)."""
    name: str
    """Name of the pretrained model, or `scratch`."""
    layers: Annotated[int, Field(ge=0, le=_MAX_COUNT)]
    """Number of transformer layers."""
    hidden_size: Annotated[int, Field(ge=1, le=_MAX_COUNT)]
    """Width of the layers."""
    vocab_size: Annotated[int, Field(ge=1, le=_MAX_COUNT)]
    """Number of tokens in the vocabulary."""
    parameters: Annotated[int, Field(ge=1, le=1 << 53)]
    """Number of weights."""
    pad_token_id: Annotated[int, Field(ge=0, le=_MAX_COUNT)]
    """Id of the token that fills short rows."""
    started_from: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """SHA-256 of the weights of the run that the training started from. Empty: it started from no run."""

    @model_serializer(mode="wrap")
    def _leave_out_no_start(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As for `span_types`: servers from before refuse unknown fields.
        fields: dict[str, Any] = serialize(self)
        if not self.started_from:
            fields.pop("started_from", None)
        return fields


class Decode(_Strict):
    """Settings for decoding the outputs of a task into answers."""

    scheme: Literal["", "BIO"] = ""
    """Tagging scheme of a `sequence_label` task. Empty for other kinds."""
    crf: bool = False
    """True if the tags are decoded by a linear-chain CRF."""
    arrays: dict[str, str] = {}
    """Name in decode.npz of each array (`transitions`, `start`, `end`)."""
    match_label: str = ""
    """Label whose probability is the score of a match."""
    pairs: bool = False
    """True if the task reads a text and its pair."""
    value_punctuation: str | None = None
    """Punctuation and symbols inside the values of the training data.

    A token that consists only of other punctuation is never tagged. None: no such rule.
    """
    span_types: dict[str, SpanType] = {}
    """Name, role and group by what follows `B-` or `I-` in a tag. Empty: the task learnt no roles, and names follow there."""
    context: bool = False
    """True if the task learnt to read what was said before a text."""
    given: str = ""
    """Task whose class of the text says which tags are possible (`arrays["given"]`, [classes, tags]). Empty: all are."""
    max_answer_tokens: TokenCount | None = None
    """Longest answer (mrc). None: 30. The defaults of the mrc settings are those of BERT on SQuAD (Devlin et al. 2019)."""
    max_query_tokens: TokenCount | None = None
    """Longest question (mrc). None: 64."""
    doc_stride_tokens: TokenCount | None = None
    """Distance between the starts of two windows (mrc). None: 128."""
    n_best: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Answers that are ranked (mrc). None: 20."""
    null_threshold: float | None = None
    """Margin by which the score of "no answer" must exceed that of the best answer. None: there is always an answer."""

    @model_serializer(mode="wrap")
    def _leave_out_what_is_newer(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Servers from before roles refuse unknown fields, and must still load bundles without roles.
        fields: dict[str, Any] = serialize(self)
        for name in ("span_types", "context", "given"):
            if not getattr(self, name):
                fields.pop(name, None)
        return fields


class Calibration(_Strict):
    """Temperature scaling of a task's logits (Guo et al. 2017). 1.0 leaves them unchanged."""

    temperature: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    """Divisor of the logits."""
    method: str = "none"
    """How the temperature was found (`none`: it was not)."""
    ece: float | None = None
    """Expected calibration error on dev, after scaling, 0 to 1."""
    out_of_scope: Literal["", "softmax", "energy", "mahalanobis"] = ""
    """Score that detects text of no class. Empty: there is none."""


class TaskThresholds(_Strict):
    """Fallback limits fitted on dev. None switches a check off. `labels` are the limits of a multi-label task, by label."""

    intent_confidence: float | None = None
    """Confidence of the intent below which the fallback is LOW_CONFIDENCE."""
    ambiguity_margin: float | None = None
    """Distance of the two highest confidences below which the fallback is AMBIGUOUS."""
    out_of_scope: float | None = None
    """Score above which the fallback is OUT_OF_SCOPE."""
    labels: dict[str, float] = {}
    """Probability from which a class applies, by label."""
    scripts: tuple[str, ...] = ()
    """Scripts that the model reads (`latin`, `cjk`). Other text triggers the fallback UNKNOWN_LANGUAGE. Empty: no such check."""

    @model_serializer(mode="wrap")
    def _leave_out_empty_scripts(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As for span_types: checkpoints and bundles without scripts stay as older versions wrote them.
        fields: dict[str, Any] = serialize(self)
        if not self.scripts:
            fields.pop("scripts", None)
        return fields


class TaskInfo(_Strict):
    """One head of the graph."""

    kind: Kind
    """Kind of the task."""
    role: Role = ""
    """Part of the answer of `Parse` that the task gives. Empty: none."""
    outputs: tuple[str, ...]
    """Names of its outputs of the graph."""
    labels: tuple[str, ...] = ()
    """Labels in the order of the logits. Tags for `sequence_label` (`O`, `B-city`, `I-city`)."""
    decode: Decode = Decode()
    """Settings of decoding."""
    calibration: Calibration = Calibration()
    """Temperature of its confidences."""
    thresholds: TaskThresholds = TaskThresholds()
    """Limits of the fallback and of several classes."""

    @field_validator("labels", "outputs")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        earlier: set[str] = set()
        for name in names:
            if len(name) > MAX_NAME_LENGTH:
                raise ValueError(f"a name must have at most {MAX_NAME_LENGTH:,} characters, got {len(name):,}")
            if not name.strip():
                raise ValueError(f"a name must have a visible character, got {name!r}")
            if name in earlier:
                raise ValueError(f"names must differ, got '{name[:100]}' twice")
            earlier.add(name)
        return names

    @property
    def pairs(self) -> bool:
        """True if the task reads a text and its pair."""
        return KINDS[self.kind].reads_pairs or self.decode.pairs

    @property
    def windows(self) -> Windows | None:
        """Windows in which the task reads a long pair. None: the pair is cut to what the model reads."""
        if not KINDS[self.kind].reads_windows:
            return None
        return Windows(self.decode.max_query_tokens or 64, self.decode.doc_stride_tokens or 128)

    @property
    def layout(self) -> RowLayout:
        """Return how the task reads its inputs."""
        return RowLayout(self.windows, self.decode.context and not self.pairs)

    def span_type(self, tag: str) -> SpanType:
        """Return the type of the spans that a tag other than `O` marks."""
        label = tag[2:]
        return self.decode.span_types.get(label) or SpanType(name=label)


class Gate(_Strict):
    """Comparison of a variant with the trained model, for one execution provider and one precision."""

    provider: str
    """Execution provider (`CPU`, `OpenVINO`, `CUDA`, `TensorRT`)."""
    precision: str
    """Number format of the computation."""
    passed: bool
    """True if the variant may be served so."""
    figures: dict[str, float] = {}
    """What was measured: the largest difference of a logit, the share of equal answers, the metric."""
    instructions: str = ""
    """Instructions that multiplied integers (`avx512_vnni`, `avx2`). Empty for other precisions and in older bundles."""

    @property
    def computed_in(self) -> str:
        """The precision, with the instructions for int8: `int8 (avx512_vnni)`."""
        return f"{self.precision} ({self.instructions})" if self.instructions else self.precision


class GraphVariant(_Strict):
    """One graph file of the model."""

    file: str
    """Path inside the bundle."""
    opset: int | None = None
    """Version of the ONNX operators."""
    graph: Literal["plain", "fused"] = "plain"
    """`fused`: with the operators that ONNX Runtime makes of several."""
    weights: Literal["fp32", "fp16", "int8"] = "fp32"
    """Number format of the weights."""
    weight_bits: Literal[7, 8] | None = None
    """Bits of an integer weight. 7 bits give the same integers on every processor.

    None: float weights, or 8 bits in an older bundle.
    """
    size: Annotated[int, Field(ge=1, le=1 << 53)]
    """Bytes of the file."""
    gates: tuple[Gate, ...] = ()
    """Comparisons with the trained model, one for each provider and precision."""


class Manifest(_Strict):
    """Contents of `manifest.json`."""

    format_version: Literal[1] = 1
    """Version of this format."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name under which the model is served."""
    version: str = ""
    """Digest of everything but `created` and `version`."""
    created: str
    """Time of the export, ISO 8601."""
    encoder: EncoderInfo
    """Facts about the encoder."""
    max_length: Annotated[int, Field(ge=3, le=MAX_TOKENS)]
    """Tokens of an input, special tokens included."""
    inputs: tuple[TensorInfo, ...]
    """Inputs of the graph."""
    tasks: Annotated[dict[str, TaskInfo], Field(min_length=1)]
    """Heads of the graph, by the name of the task."""
    variants: dict[str, GraphVariant]
    """Graphs of the same model. `plain` is always there."""
    files: dict[str, str]
    """SHA-256 in hexadecimal digits, by path inside the bundle."""

    @model_validator(mode="after")
    def _check(self) -> "Manifest":
        if "plain" not in self.variants:
            raise ValueError(f"variants has no 'plain' entry (it has: {', '.join(self.variants) or 'none'})")
        for key, variant in self.variants.items():
            if variant.file not in self.files:
                raise ValueError(f"variant '{key}' names the file '{variant.file}', which `files` does not list")
        if len({*self.input_names}) < len(self.inputs):
            raise ValueError(f"inputs must differ, got {', '.join(self.input_names)}")
        for role in ("intent", "slots"):
            holders = [name for name, task in self.tasks.items() if task.role == role]
            if len(holders) > 1:
                raise ValueError(f"role '{role}' is held by several tasks: {', '.join(holders)}")
        return self

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph's inputs."""
        return tuple(tensor.name for tensor in self.inputs)

    def digest(self) -> str:
        """Return the version of the bundle: SHA-256 of the canonical JSON without `created` and `version`."""
        # Without defaults, because a field that a later release adds must not change the version of older bundles.
        content = self.model_dump(mode="json", exclude={"created", "version"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def tasks_reading(self, *, pairs: bool) -> tuple[str, ...]:
        """Return the names of the tasks that read pairs of texts, or else of those that read single texts."""
        names = []
        for name, task in self.tasks.items():
            if task.pairs == pairs:
                names.append(name)
        return tuple(names)

    def task_with_role(self, role: Role) -> str | None:
        """Return the name of the task with this role, or None."""
        for name, task in self.tasks.items():
            if task.role == role:
                return name
        return None


def with_given(names: Collection[str], tasks: Mapping[str, TaskInfo]) -> list[str]:
    """Return some tasks with those that they are decoded given, each once.

    Args:
        names: names of the tasks.
        tasks: all tasks of the model.
    """
    needed = dict.fromkeys(names)
    for name in names:
        given_task = tasks[name].decode.given
        if given_task:
            needed[given_task] = None
    return list(needed)


def tasks_digest(tasks: dict[str, TaskInfo], tokenizer_json: bytes) -> str:
    """Return the digest in the metadata of a graph (`palm.digest`), which ties the graph to its labels and tokenizer."""
    content = {}
    for name, task in tasks.items():
        content[name] = task.model_dump(mode="json", exclude={"calibration", "thresholds"}, exclude_defaults=True)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode())
    digest.update(hashlib.sha256(tokenizer_json).digest())
    return digest.hexdigest()
