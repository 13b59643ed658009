"""`[data.NAME]`: a data set, whose options depend on its file format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from palm_trainer.config.mappings import absent
from palm_trainer.config.section import (
    PACKAGED_TEXTS,
    ConfigSection,
    DataPaths,
    Epochs,
    Names,
    Positive,
    SectionUnion,
    UnlabelledPaths,
)

_TEXTS_FOLDER = Path(__file__).parent.parent / "data" / "out_of_scope"


class DataConfig(ConfigSection):
    """A data set: files of one format, by split."""

    format: str
    """File format of all splits."""
    train: DataPaths = Field(min_length=1, json_schema_extra={"minItems": 1})
    """Training data: a path or a list of paths, relative to the configuration file."""
    dev: DataPaths = ()
    """Data that chooses the best checkpoint, temperatures and thresholds."""
    dev_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the different texts of `train` that is set apart as `dev`, drawn with `train.seed`. Equal texts stay
    together and each label keeps its share. 0: none."""
    test: DataPaths = ()
    """Data that the finished model is measured on."""
    out_of_domain: DataPaths = ()
    """Labelled text from another domain than that of `train`, to measure generalisation. Never trained or selected on."""
    out_of_scope: UnlabelledPaths = ()
    """Text that belongs to no class of the data set's `classify` tasks. Never trained on (see `out_of_scope_train`).
    With dev it chooses how out-of-scope text is detected. In the data set's format, or `.txt` with one text per line.
    `general-en`: general English sentences that are installed with PALM."""
    out_of_scope_train: UnlabelledPaths = ()
    """More text that belongs to no class, to train on: the `classify` tasks learn to give all classes the same probability.
    Then far more out-of-scope text is detected. It must hold nothing that a class covers. `general-en-train`: general English sentences."""
    out_of_scope_test: UnlabelledPaths = ()
    """More text that belongs to no class. Nothing is chosen with it: the test metrics report how much is rejected.
    `general-en-test`: other general English sentences."""
    review: DataPaths = ()
    """Decisions about rows, as the page of `palm-train health` saves them: a file or a list of files. Rows are relabelled,
    removed and classes merged when the data is read. The data files stay as they are."""
    mix_ratio: Positive = 1.0
    """mixing = mix_ratio: how often its batches come, relative to those of the other data sets."""
    epochs: Epochs | None = None
    """mixing = per_task_epochs: passes over this data set. None: `train.epochs`."""
    substitute: float = Field(default=0.0, ge=0, le=1)
    """Share of training examples whose slot values are replaced, drawn anew in each epoch.
    New values have the same label, or a label that shares many values with it. Lists of values beside the examples
    (Rasa's `lookup`, types of Alexa, lines of values in `jsonl`) are values too. 0: off."""

    def paths(self, split: str) -> tuple[Path, ...]:
        """Return the files of a split, empty where the data set has no such split.

        With `dev_share` the files of `dev` are those of `train`.

        Args:
            split: `train`, `dev`, `test`, `out_of_domain`, `out_of_scope`, `out_of_scope_train` or `out_of_scope_test`.
        """
        if split == "dev" and self.dev_share:
            split = "train"
        files: tuple[Path, ...] = getattr(self, split)
        if split.startswith("out_of_scope"):
            return tuple(map(_packaged, files))
        return files

    def options(self) -> dict[str, Any]:
        """Return the options of the data set's format."""
        return {key: getattr(self, key) for key in type(self).option_names()}

    @classmethod
    def option_names(cls) -> list[str]:
        """Return the keys that only some formats have."""
        return absent(cls.model_fields, DataConfig.model_fields)


def _packaged(path: Path) -> Path:
    """Return the installed file for the name of packaged texts, any other path as it is."""
    return _TEXTS_FOLDER / f"{path}.txt" if str(path) in PACKAGED_TEXTS else path


class _SeveralClasses(DataConfig):
    label_separator: str | None = Field(default=None, min_length=1)
    """Separator of several classes in one field (`a#b`), for `multi_label` tasks. None: a field holds one class."""


class _TagScheme(_SeveralClasses):
    scheme: Literal["bio", "iob1", "bioes", "bmes", "bilou"] = "bio"
    """Tagging scheme of the spans."""


class _WordTags(_TagScheme):
    joiner: str = " "
    """Text between words. Empty for characters (Chinese)."""


class JointDataConfig(_WordTags):
    """Directories with `seq.in`, `seq.out` and `label`, one utterance per line."""

    format: Literal["joint"]


class ConllDataConfig(_WordTags):
    """CoNLL files: a word and its tag per line."""

    format: Literal["conll"]
    intent_suffix: str | None = Field(default=None, min_length=1)
    """Suffix of a file of the same name that holds the intents, one per line. None: there is none."""
    intent_line: bool = False
    """The last line of each sentence is its intent."""
    token_column: int | None = Field(default=None, ge=1, le=10_000)
    """Column of the words, counted from 1. None: the first, or the second after one that numbers the words."""
    tag_column: int | None = Field(default=None, ge=1, le=10_000)
    """Column of the tags, counted from 1. None: the last."""


class PalmDataConfig(_WordTags):
    """PALM's tab-separated files."""

    format: Literal["palm"]
    columns: Names = ()
    """Names of the columns in the file's order. `_` skips one. Empty: the first line names them."""
    header: bool | None = None
    """The first line is a header. None: yes unless `columns` are set."""


class DelimitedDataConfig(_TagScheme):
    """Tables with one example per row."""

    format: Literal["tsv", "csv"]
    columns: Names = ()
    """Names of the columns in the file's order. `_` skips one. Empty: the first line names them."""
    header: bool | None = None
    """The first line is a header. None: yes unless `columns` are set."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """Character between columns. None: tab for tsv, comma for csv."""


class JsonDataConfig(_WordTags):
    """JSON lines, one object per line, and JSON lists of objects."""

    format: Literal["jsonl", "json"]
    columns: Names = ()
    """Keys that are read. Empty: all but `id`, `idx` and `guid`."""


class ArrowDataConfig(_WordTags):
    """Parquet files, and data sets of the Hugging Face `datasets` package."""

    format: Literal["parquet", "datasets"]
    columns: Names = ()
    """Columns that are read. Empty: all but `id`, `idx` and `guid`."""


class PlainDataConfig(DataConfig):
    """Formats without options."""

    format: Literal[
        "squad",
        "clinc",
        "rasa",
        "text",
        "luis",
        "clu",
        "dialogflow_es",
        "dialogflow_cx",
        "lex",
        "alexa",
        "snips",
        "wit",
        "label_studio",
        "doccano",
        "prodigy",
        "spacy",
    ]


DATA_FORMATS: SectionUnion[DataConfig] = SectionUnion(
    tag="format",
    base=DataConfig,
    members={
        "joint": JointDataConfig,
        "conll": ConllDataConfig,
        "palm": PalmDataConfig,
        "tsv": DelimitedDataConfig,
        "csv": DelimitedDataConfig,
        "jsonl": JsonDataConfig,
        "json": JsonDataConfig,
        "squad": PlainDataConfig,
        "clinc": PlainDataConfig,
        "rasa": PlainDataConfig,
        "text": PlainDataConfig,
        "luis": PlainDataConfig,
        "clu": PlainDataConfig,
        "dialogflow_es": PlainDataConfig,
        "dialogflow_cx": PlainDataConfig,
        "lex": PlainDataConfig,
        "alexa": PlainDataConfig,
        "snips": PlainDataConfig,
        "wit": PlainDataConfig,
        "label_studio": PlainDataConfig,
        "doccano": PlainDataConfig,
        "prodigy": PlainDataConfig,
        "spacy": PlainDataConfig,
        "parquet": ArrowDataConfig,
        "datasets": ArrowDataConfig,
    },
)

FORMAT_OPTIONS: Mapping[str, frozenset[str]] = {
    name: frozenset(model.option_names()) for name, model in DATA_FORMATS.members.items()
}
"""Names of the file formats, each with the options that it takes."""


def data_config(values: Mapping[str, Any]) -> DataConfig:
    """Return a data set from values in Python, `format` among them."""
    return DATA_FORMATS.members[values["format"]].model_validate(values)
