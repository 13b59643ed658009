"""`[encoder]`: the shared encoder, with pretrained weights or from scratch."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from palm_trainer.config.section import MAX_LENGTH, ConfigSection, Fraction, SectionUnion, Table

_DEFAULT_MODEL = "minilm-l6-en"


class EncoderConfig(ConfigSection):
    """The shared encoder."""

    model: str = Field(default=_DEFAULT_MODEL, min_length=1)
    """A name of `palm-train models ls`, a local directory or a run (relative to the file), a Hugging Face id, or `scratch`."""
    max_length: int = Field(default=128, ge=3, le=MAX_LENGTH)
    """Longest input in tokens, special tokens included. Longer texts are cut. Where `model` is a run, that of the run."""
    pooling: Literal["auto", "cls", "mean"] = "auto"
    """Vector of a text: that of the first token (`cls`), or the mean of all tokens.
    `auto`: what `modules.json` or `1_Pooling/config.json` of the encoder's folder says, else `cls`."""


class PretrainedEncoderConfig(EncoderConfig):
    """An encoder with pretrained weights."""

    heads: bool = False
    """Take over the heads of tasks of the same name, kind and labels too, where `model` is a run."""
    digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 that the weights of a run as `model` must have. The config.toml of a run names that of the run it started from."""

    @field_validator("heads", mode="before")
    @classmethod
    def _refuse_number_of_heads(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            raise ValueError("must be true or false, as a number of attention heads is only for model 'scratch'")
        return value


class ScratchEncoderConfig(EncoderConfig):
    """A small encoder without pretrained weights. Its vocabulary is learned from the training text."""

    model: Literal["scratch"]
    """Train a new encoder."""
    layers: int = Field(default=4, ge=1, le=48)
    """Number of transformer layers."""
    hidden_size: int = Field(default=256, ge=8, le=4096)
    """Width of the layers. A multiple of `heads`."""
    heads: int = Field(default=4, ge=1, le=64)
    """Attention heads of each layer."""
    intermediate_size: int | None = Field(default=None, ge=8, le=65_536)
    """Width of the feed-forward layers. None: 4 x hidden_size."""
    vocab_size: int = Field(default=8000, ge=64, le=1_000_000)
    """Largest number of tokens in the vocabulary."""
    dropout: Fraction = 0.1
    """Dropout probability in the encoder."""
    convolutions: int = Field(default=0, ge=0, le=8)
    """Convolutions over three tokens between the embeddings and the layers, for little text. Two work well."""
    lowercase: bool = True
    """Convert text to lower case before it is split into tokens."""
    characters: bool = False
    """Use one token per character (for Chinese) instead of WordPiece."""

    @classmethod
    def faults_between_keys(cls, table: Table) -> Iterator[tuple[str, str]]:
        """Yield the fault of a width that the attention heads cannot share."""
        hidden_size, heads = table.get("hidden_size", 256), table.get("heads", 4)
        if not isinstance(hidden_size, int) or not isinstance(heads, int):
            return
        if heads > 0 and hidden_size % heads:
            yield "hidden_size", f"must be a multiple of heads = {heads}, got {hidden_size}. Change one of them."


ENCODERS: SectionUnion[EncoderConfig] = SectionUnion(
    tag="model",
    base=EncoderConfig,
    members={"scratch": ScratchEncoderConfig},
    otherwise=PretrainedEncoderConfig,
    default=_DEFAULT_MODEL,
)
