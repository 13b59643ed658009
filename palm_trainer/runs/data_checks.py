"""What is wrong with the data of a run, as lines for the user. `plan`, `run`, `compare` and `evaluate` show them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from palm_serve.errors import shorten_message
from palm_serve.tokenization import TextTokenizer
from palm_trainer.config.loader import Config
from palm_trainer.config.schema import ScratchEncoderConfig
from palm_trainer.data.example import Example
from palm_trainer.data.formats.text_files import Defect
from palm_trainer.data.inputs import Inputs, PassageWindows, Texts, iterate_features
from palm_trainer.data.pieces import UNKNOWN_LIMIT, PieceCounts, count_pieces
from palm_trainer.data.splits import Split, Splits
from palm_trainer.data.statistics import find_split_defects
from palm_trainer.errors import DataError
from palm_trainer.tasks import task_kind

if TYPE_CHECKING:  # `plan --data-only` needs no torch, which takes seconds to load
    from palm_trainer.model.multi_task import TrainedModel
    from palm_trainer.runs.job import Job

log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")
"""Splits whose data is checked."""
_ROWS_COUNTED = 20_000
"""Rows of a split, evenly chosen, whose pieces are counted."""
UNREAD_LIMIT = 0.3
"""Share of letters that are read one at a time from which a pretrained encoder does not know the script."""
_REMEDY = "Choose an encoder.model that reads this text"

ReadSplits: TypeAlias = Mapping[str, Mapping[str, Split]]
"""Data set -> split -> its examples and defects."""
TokenizedSplits: TypeAlias = "Mapping[str, Mapping[str, TokenizedSplit]]"
"""Data set -> split -> how the encoder reads it."""


@dataclass(frozen=True)
class TokenizedSplit:
    """How the encoder reads a split of a data set.

    Args:
        tokens: number of tokens of each row, or of each window of a passage.
        cut: positions of the examples that are longer than the model reads.
        pieces: counts of unknown pieces.
        first_unknown: source of the first row with an unknown piece.
    """

    tokens: Sequence[int]
    cut: Sequence[int]
    pieces: PieceCounts
    first_unknown: str


@dataclass(frozen=True, slots=True)
class DataFault:
    """A defect of a split of a data set. A warning says that the encoder does not fit the data."""

    data: str
    split: str
    defect: Defect
    is_warning: bool = False

    def __str__(self) -> str:
        """Return the fault as a line."""
        defect = self.defect
        line = f"{self.data} {self.split}: {defect.count} x {defect.kind}, first at {defect.first}"
        return shorten_message(f"{line}. {_REMEDY}." if self.is_warning else line)


def read_splits(splits: Splits) -> ReadSplits:
    """Read the files of train, dev and test of every data set. Raises DataError."""
    contents: dict[str, dict[str, Split]] = {}
    for split in SPLITS:
        for data in splits.data_sets(split):
            contents.setdefault(data, {})[split] = splits.read(data, split)
    return contents


def tokenize_job(job: "Job") -> TokenizedSplits:
    """Tokenize every split of a training as its model reads it."""
    trained = job.trained
    tokenized: dict[str, dict[str, TokenizedSplit]] = {}
    for data, contents in read_splits(job.evaluation.splits).items():
        dataset = job.loop.sources[data].dataset
        tokenized[data] = {}
        for split, content in contents.items():
            examples = content.examples
            if split == "train" and dataset.begins_with(examples, trained.max_length):
                cut = list(filter(len(examples).__gt__, dataset.cut))
                tokens = list(dataset.iterate_lengths(len(examples)))
                tokenized[data][split] = _with_pieces(tokens, cut, examples, trained.tokenizer_json)
            else:
                tokenized[data][split] = tokenize_split(
                    dataset.inputs, examples, trained.tokenizer_json, trained.max_length
                )
    return tokenized


def find_job_faults(job: "Job") -> list[DataFault]:
    """Find what is wrong with the data of a training."""
    tokenized = tokenize_job(job)
    faults = []
    for data, contents in read_splits(job.evaluation.splits).items():
        faults += find_faults(job.config, data, contents, tokenized[data])
    return faults


def find_split_faults(config: Config, trained: "TrainedModel", splits: Splits, split: str) -> list[DataFault]:
    """Find what is wrong with a split that a trained model is evaluated on.

    Args:
        config: with resolved fields.
        trained: the model.
        splits: the data.
        split: name of the split. It is compared with train, unless the training files have gone since.

    Raises:
        DataError: the files of the split cannot be used.
    """
    faults = []
    for data in splits.data_sets(split):
        content = splits.read(data, split)
        contents = {split: content}
        try:
            contents["train"] = splits.read(data, "train")
        except DataError as error:
            log.info("%s is not compared with train: %s", data, error)
        inputs = _inputs(config, trained, data)
        tokenized = tokenize_split(inputs, content.examples, trained.tokenizer_json, trained.max_length)
        for fault in find_faults(config, data, contents, {split: tokenized}):
            if fault.split == split:
                faults.append(fault)
    return faults


def _inputs(config: Config, trained: "TrainedModel", data: str) -> Inputs:
    """Return the input layout in which the tasks of a data set are evaluated."""
    for name, task in config.tasks.items():
        info = trained.tasks.get(name)
        if data in task.data and info is not None and info.windows is not None:
            return PassageWindows(info.windows)
    return Texts()


def tokenize_split(inputs: Inputs, examples: Sequence[Example], tokenizer_json: str, max_length: int) -> TokenizedSplit:
    """Tokenize a split as the model reads it.

    Args:
        inputs: input layout of the data set.
        examples: examples of the split.
        tokenizer_json: the tokenizer.
        max_length: tokens that the model reads.
    """
    tokens = []
    cut: set[int] = set()
    for feature in iterate_features(inputs, examples, TextTokenizer(tokenizer_json, max_length)):
        tokens.append(max(map(len, feature.rows)))
        if any(row.truncated for row in feature.rows):
            cut.add(feature.example)
    return _with_pieces(tokens, sorted(cut), examples, tokenizer_json)


def _with_pieces(tokens: list[int], cut: list[int], examples: Sequence[Example], tokenizer_json: str) -> TokenizedSplit:
    """Return a tokenized split with counts of unknown pieces, which are taken from some thousand rows at most.

    Args:
        tokens: of each feature.
        cut: indices of the examples that were cut.
        examples: examples of the split.
        tokenizer_json: the tokenizer.
    """
    step = -(-len(examples) // _ROWS_COUNTED) or 1
    counted = examples[::step]
    pieces = count_pieces(counted, tokenizer_json)
    first_unknown = counted[pieces.unknown_rows[0]].source if pieces.unknown_rows else ""
    return TokenizedSplit(tokens, cut, pieces, first_unknown)


def find_faults(
    config: Config, data: str, splits: Mapping[str, Split], tokenized: Mapping[str, TokenizedSplit]
) -> list[DataFault]:
    """Find what is wrong with the splits of a data set: in its files, against train, and for the encoder.

    Args:
        config: with resolved fields.
        data: name of the data set.
        splits: its splits. Without `train` nothing is compared with it.
        tokenized: how the encoder reads them. Empty where no tokenizer is there.
    """
    fields: dict[str, None] = {}
    unscored_fields: list[str] = []
    examples: dict[str, Sequence[Example]] = {split: content.examples for split, content in splits.items()}
    losses: dict[str, list[Defect]] = {split: [] for split in splits}
    for task in config.tasks.values():
        kind = task_kind(task.kind)
        if data in task.data and kind.has_labels(task) and task.field:
            fields[task.field] = None
            for split, content in splits.items():
                losses[split] += kind.data_losses(task, task.field, content.examples)
                examples[split] = kind.with_label_names(task, task.field, examples[split])
        elif data in task.data and task.field:
            unscored_fields.append(task.field)
    split_defects: dict[str, list[Defect]] = {}
    if "train" in splits:
        split_defects = find_split_defects(examples, list(fields), unscored_fields)
    faults = []
    for split, content in splits.items():
        for defect in (*content.defects, *losses[split], *split_defects.get(split, ())):
            faults.append(DataFault(data, split, defect))
        if split in tokenized:
            faults += _find_encoder_faults(config, data, split, content.examples, tokenized[split])
    return faults


def _find_encoder_faults(
    config: Config, data: str, split: str, examples: Sequence[Example], tokenized: TokenizedSplit
) -> list[DataFault]:
    faults = []
    if tokenized.cut:
        count = len(tokenized.cut)
        cut_share = count / len(examples)
        kind = f"row longer than encoder.max_length = {config.encoder.max_length} tokens (cut, {cut_share:.1%} of the rows)"
        faults.append(DataFault(data, split, Defect(kind, count, examples[tokenized.cut[0]].source)))
    pieces = tokenized.pieces
    if pieces.unknown:
        kind = f"piece that the encoder does not know ({pieces.unknown_share:.1%} of the pieces)"
        is_warning = pieces.unknown_share > UNKNOWN_LIMIT
        faults.append(DataFault(data, split, Defect(kind, pieces.unknown, tokenized.first_unknown), is_warning))
    is_pretrained = not isinstance(config.encoder, ScratchEncoderConfig)
    if is_pretrained and pieces.unread_share > UNREAD_LIMIT:
        kind = f"letter that the encoder reads alone or not at all ({pieces.unread_share:.0%} of the letters)"
        defect = Defect(kind, pieces.unread_letters, examples[0].source)
        faults.append(DataFault(data, split, defect, is_warning=True))
    return faults
