"""`manifest.json`: the only description of a bundle, and the only copy of its schema. The exporter writes these models, the server reads them."""

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from palm_serve.types import Windows

FORMAT_VERSION = 1

Role = Literal["", "intent", "slots"]


@dataclass(frozen=True, slots=True)
class KindFacts:
    """Facts about a task kind that every reader of a manifest needs."""

    name: str
    reads_pairs: bool = False
    """True where every task of the kind reads a text and its pair."""
    reads_windows: bool = False
    """True where a long pair is read in windows instead of being cut."""


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
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorInfo(_Strict):
    """One input of the graph: name, dtype, and axes by name (`batch`, `sequence`), all dynamic."""

    name: str
    dtype: Literal["int64"] = "int64"
    axes: tuple[str, ...] = ("batch", "sequence")


class EncoderInfo(_Strict):
    """Facts about the shared encoder, for people and for the model card."""

    family: str
    name: str
    layers: Annotated[int, Field(ge=0)]
    hidden_size: Annotated[int, Field(ge=1)]
    vocab_size: Annotated[int, Field(ge=1)]
    parameters: Annotated[int, Field(ge=1)]
    pad_token_id: Annotated[int, Field(ge=0)]


class Decode(_Strict):
    """How the outputs of a task become answers. `arrays` maps a role (`transitions`, `start`, `end`) to a name in decode.npz."""

    scheme: Literal["", "BIO"] = ""
    crf: bool = False
    arrays: dict[str, str] = {}
    match_label: str = ""
    """Label whose probability is the score of a match."""
    pairs: bool = False
    """The task reads a text and its pair."""
    value_punctuation: str | None = None
    """Punctuation and symbols seen inside the values of the training data. A piece made only of others is never tagged; None: no such rule."""
    max_answer_tokens: int | None = None
    """mrc; None: 30, as in BERT's SQuAD recipe (Devlin et al. 2019), like the next three."""
    max_query_tokens: int | None = None
    """None: 64."""
    doc_stride_tokens: int | None = None
    """None: 128."""
    n_best: int | None = None
    """Answers that are ranked; None: 20."""
    null_threshold: float | None = None
    """By how much the score of "no answer" must exceed that of the best answer; None: the passage always holds one."""


class Calibration(_Strict):
    """Temperature scaling of a task's logits (Guo et al. 2017); 1.0 leaves them as they are."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    method: str = "none"
    ece: float | None = None
    """Expected calibration error on dev, after scaling, 0 to 1."""
    out_of_scope: Literal["", "softmax", "energy", "mahalanobis"] = ""


class TaskThresholds(_Strict):
    """Fallback limits chosen on dev; None switches a check off. `labels` are per-label limits of a multi-label task."""

    intent_confidence: float | None = None
    ambiguity_margin: float | None = None
    out_of_scope: float | None = None
    labels: dict[str, float] = {}


class TaskInfo(_Strict):
    """One head of the graph. `labels` are in logit order; for `sequence_label` they are tags (`O`, `B-city`, `I-city`)."""

    kind: Kind
    role: Role = ""
    outputs: tuple[str, ...]
    labels: tuple[str, ...] = ()
    decode: Decode = Decode()
    calibration: Calibration = Calibration()
    thresholds: TaskThresholds = TaskThresholds()

    @property
    def pairs(self) -> bool:
        """Whether the task reads a text and its pair."""
        return KINDS[self.kind].reads_pairs or self.decode.pairs

    @property
    def windows(self) -> Windows | None:
        """How the task reads a long pair; None: it is cut to what the model takes."""
        if not KINDS[self.kind].reads_windows:
            return None
        return Windows(self.decode.max_query_tokens or 64, self.decode.doc_stride_tokens or 128)


class Gate(_Strict):
    """One combination of provider and precision that a variant was compared on, with the figures seen."""

    provider: str
    precision: str
    passed: bool
    figures: dict[str, float] = {}
    instructions: str = ""
    """Instructions of the processor that multiplied integers (`avx512_vnni`, `avx2`); empty for other precisions and in older bundles."""

    @property
    def computed_in(self) -> str:
        """Return the precision, and for int8 the instructions too: `int8 (avx512_vnni)`."""
        return f"{self.precision} ({self.instructions})" if self.instructions else self.precision


class GraphVariant(_Strict):
    """One graph file of the model. `size` in bytes; `opset` of the ONNX standard."""

    file: str
    opset: int | None = None
    graph: Literal["plain", "fused"] = "plain"
    weights: Literal["fp32", "fp16", "int8"] = "fp32"
    weight_bits: Literal[7, 8] | None = None
    """Bits of an integer weight. 7 bits give the same integers on every processor. None: float weights, or 8 bits in an older bundle."""
    size: Annotated[int, Field(ge=1)]
    gates: tuple[Gate, ...] = ()


class Manifest(_Strict):
    """The whole of `manifest.json`."""

    format_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    version: str = ""
    """Digest of everything but `created` and itself."""
    created: str
    encoder: EncoderInfo
    max_length: Annotated[int, Field(ge=3)]
    """Tokens, special ones included."""
    inputs: tuple[TensorInfo, ...]
    tasks: Annotated[dict[str, TaskInfo], Field(min_length=1)]
    variants: dict[str, GraphVariant]
    files: dict[str, str]
    """Path inside the bundle -> sha256 (hex)."""

    @model_validator(mode="after")
    def _check(self) -> "Manifest":
        if "plain" not in self.variants:
            raise ValueError(f"variants has no 'plain' entry (it has: {', '.join(self.variants) or 'none'})")
        for key, variant in self.variants.items():
            if variant.file not in self.files:
                raise ValueError(f"variant '{key}' names the file '{variant.file}', which `files` does not list")
        for role in ("intent", "slots"):
            holders = [name for name, task in self.tasks.items() if task.role == role]
            if len(holders) > 1:
                raise ValueError(f"role '{role}' is held by several tasks: {', '.join(holders)}")
        return self

    def digest(self) -> str:
        """Version of the bundle: sha256 over the canonical JSON of everything but `created` and `version`."""
        # Without defaults: a field that a later version adds must not change the version of a bundle that knows nothing of it.
        content = self.model_dump(mode="json", exclude={"created", "version"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def task_with_role(self, role: Role) -> str | None:
        """Name of the task with this role, or None."""
        return next((name for name, task in self.tasks.items() if task.role == role), None)


def tasks_digest(tasks: dict[str, TaskInfo], tokenizer_json: bytes) -> str:
    """What the graph's metadata holds (`palm.digest`): sha256 over the canonical `tasks` and the tokenizer file; ties a graph to its labels."""
    content = {
        name: task.model_dump(mode="json", exclude={"calibration", "thresholds"}, exclude_defaults=True)
        for name, task in tasks.items()
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode())
    digest.update(hashlib.sha256(tokenizer_json).digest())
    return digest.hexdigest()
