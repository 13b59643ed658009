"""Base of the text readers: vocabulary, loading, and batches as dicts of arrays."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from palm_serve.bundle.manifest import Kind, Role
from palm_serve.tokenization import TextTokenizer
from palm_trainer.api.compat import user_stack_level
from palm_trainer.api.phase import Phase
from palm_trainer.api.reader.base_reader import Reader, ReaderBatch
from palm_trainer.api.reader.label_maps import is_spans
from palm_trainer.config.section import MAX_COUNT, MAX_EPOCHS, MAX_LENGTH
from palm_trainer.data.dataset import EncodedDataset, TrainingBatch
from palm_trainer.data.example import Example
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.text_files import Defect, Defects, FormatOptions
from palm_trainer.data.found_values import FoundValues
from palm_trainer.data.inputs import Inputs, Texts
from palm_trainer.data.sampler import LengthBucketedSampler
from palm_trainer.data.substitution import Substitution
from palm_trainer.data.targets.base import Target
from palm_trainer.errors import DataError, WiringError
from palm_trainer.tensors import PALM_NAMES
from palm_trainer.tokenization.vocabulary_files import load_tokenizer, pad_token_id

TEXT_ATTRS: dict[str, list[Any]] = {
    "token_ids": [[-1, -1], "int64"],
    "position_ids": [[-1, -1], "int64"],
    "segment_ids": [[-1, -1], "int64"],
    "task_ids": [[-1, -1], "int64"],
    "input_mask": [[-1, -1], "int64"],
}
"""Arrays of every text reader: name -> [shape, dtype]. -1 is variable."""

_CHINESE = ("cn", "chinese")


class TextReader(Reader):
    """Base of the readers of the package: files of text to batches of token ids.

    Args:
        vocab_path: `vocab.txt` (one token per line) or `tokenizer.json`, or the directory that holds one.
        max_len: limit of a text in tokens, special tokens included. Longer texts are cut.
        tokenizer: `wordpiece`. A `tokenizer.json` declares its own type.
        lang: `en` or `cn`. `cn` removes all blanks of the text.
        seed: seed of the order of the batches. None: 0.
        do_lower_case: None: as the vocabulary was made. PALM's default, False, maps capitalized words to
            the unknown token of an uncased vocabulary.
        phase: `train`, or `predict`: one pass in the order of the file, labels optional.

    Raises:
        DataError: a vocabulary that cannot be used.
        WiringError: an unknown `tokenizer`, `lang` or `phase`.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ()
    """Task kinds that its data can train."""
    formats: ClassVar[Mapping[str, str]] = {}
    """PALM's names of file formats, where ours differ."""

    def __init__(
        self,
        vocab_path: str | Path,
        max_len: int,
        tokenizer: str = "wordpiece",
        lang: str = "en",
        seed: int | None = None,
        do_lower_case: bool | None = None,
        phase: Phase = "train",
    ) -> None:
        super().__init__(phase)
        for name, value, choices in (
            ("tokenizer", tokenizer, ("wordpiece",)),
            ("lang", lang, ("en", "english", *_CHINESE)),
        ):
            if value not in choices:
                raise WiringError(f"{type(self).__name__}: {name} must be one of {', '.join(choices)}, got '{value}'.")
        if not 3 <= max_len <= MAX_LENGTH:
            raise WiringError(
                f"{type(self).__name__}: max_len must be from 3 to {MAX_LENGTH}, got {max_len}. A typical value for sentences is 128."
            )
        self.tokenizer_json = load_tokenizer(Path(vocab_path), do_lower_case)
        fitting = load_tokenizer(Path(vocab_path)) if do_lower_case is False else self.tokenizer_json
        if fitting != self.tokenizer_json:
            warnings.warn(
                f"do_lower_case must be None or True for {vocab_path}, which has no token with a capital letter, got False. "
                "Texts are lower-cased. Leave it out.",
                stacklevel=user_stack_level(),
            )
            self.tokenizer_json = fitting
        self.max_len = max_len
        self.lang = lang
        self.seed = seed or 0
        self.examples: list[Example] = []
        self.path = Path()
        self.format = ""
        self.options = FormatOptions()
        self.substitute = 0.0
        self._shuffle = phase == "train"
        self._defects = Defects()
        self._register = {"token_ids"} | (set(self.labels_attr) if phase == "train" else set())

    @property
    def labels_attr(self) -> dict[str, list[Any]]:
        """Arrays of the labels, registered while training."""
        return {}

    @property
    def inputs(self) -> Inputs:
        """Converter of examples to rows of the encoder."""
        return Texts()

    def clone(self, phase: Phase = "train") -> Self:
        """Return a reader with the same vocabulary and settings, without data, for another phase."""
        twin = super().clone(phase)
        twin.examples, twin._defects = [], Defects()
        return twin

    @property
    def outputs_attr(self) -> dict[str, list[Any]]:
        """Arrays that the batches can hold: name -> [shape, dtype]. -1 is variable."""
        return {**TEXT_ATTRS, **self.labels_attr}

    @property
    def num_examples(self) -> int:
        """Examples in the file (MRC: windows)."""
        return len(self.examples)

    @property
    def values(self) -> FoundValues:
        """Values of slots that the file holds beside its examples."""
        return self._defects.values

    @property
    def defects(self) -> list[Defect]:
        """Defects of the file that were repaired or skipped."""
        return list(self._defects)

    def load_data(
        self,
        input_file: str | Path,
        batch_size: int,
        num_epochs: int | None = None,
        file_format: str = "tsv",
        shuffle_train: bool = True,
        *,
        substitute: float = 0.0,
        **options: Any,
    ) -> None:
        """Read a file.

        Args:
            input_file: the file, or for format `joint` the directory.
            batch_size: examples in a batch. The last batch of an epoch may be smaller.
            num_epochs: epochs of the training. None: the trainer decides.
            file_format: `tsv` (PALM's own of this reader), or a format of `[data.NAME]` in a configuration.
            shuffle_train: False keeps the order of the file while training.
            substitute: share of the training examples whose slot values are replaced in each epoch.
            options: options of the format, as in a configuration (`columns`, `scheme`, `joiner`, `label_separator`, ...).

        Raises:
            DataError: a file or an argument that is not valid.
        """
        name = self.formats.get(file_format, file_format)
        if name not in FORMATS:
            raise DataError(f"{input_file}: file_format must be one of {', '.join(FORMATS)}, got '{file_format}'.")
        if not 1 <= batch_size <= MAX_COUNT:
            raise DataError(
                f"{input_file}: batch_size must be from 1 to {MAX_COUNT:,}, got {batch_size}. Typical values are 16 or 32."
            )
        if num_epochs is not None and not 0 < num_epochs <= MAX_EPOCHS:
            raise DataError(
                f"{input_file}: num_epochs must be above 0 and at most {MAX_EPOCHS:,}, got {num_epochs}. Or leave it out."
            )
        if not 0 <= substitute <= 1:
            raise DataError(f"{input_file}: substitute must be between 0 and 1, got {substitute}. 0.5 suits most data.")
        if self.lang in _CHINESE:
            options.setdefault("joiner", "")
        self.substitute = float(substitute)
        self.path, self.format = Path(input_file).resolve(), name
        self._batch_size, self._num_epochs = batch_size, num_epochs
        self._shuffle = shuffle_train and self.phase == "train"
        self.options, self._defects = FormatOptions(**options), Defects()
        examples = FORMATS[name](Path(input_file), self.options, self._defects)
        self.examples = list(map(self._prepared, examples))
        if not self.examples:
            raise DataError(
                f"{input_file} must hold at least one example, got none. Check the file and its file_format."
            )

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """Return the target that a head learns from the data.

        Args:
            task: name of the task, for messages.
            kind: kind of the head.
            classes: number of classes that the head declares. None: the data decides.
            role: role of the task in `Parse`.
            options: further options of the head.

        Raises:
            WiringError: the data of this reader cannot train the head.
            DataError: a label that is not valid.
        """
        raise NotImplementedError

    def dataset(
        self, targets: Mapping[str, Target], input_names: Sequence[str], substitution: Substitution | None = None
    ) -> EncodedDataset:
        """Return the data, tokenized once.

        Args:
            targets: targets of the tasks that train on it.
            input_names: inputs of the encoder.
            substitution: replacement of values of some examples in each epoch.

        Raises:
            WiringError: no data is loaded.
        """
        if not self.examples:
            raise WiringError(f"{type(self).__name__} has no data yet. Call load_data(FILE, batch_size) first.")
        tokenizer = TextTokenizer(self.tokenizer_json, self.max_len)
        inputs = None if targets else self.inputs
        pad = pad_token_id(self.tokenizer_json)
        return EncodedDataset(self.examples, tokenizer, targets, input_names, pad, inputs, substitution)

    def sampler(self, dataset: EncodedDataset) -> LengthBucketedSampler:
        """Return the order of the batches, which depends on the seed of the reader only."""
        return LengthBucketedSampler(dataset.lengths, self.batch_size, self.seed, shuffle=self._shuffle)

    def _iterator(self) -> Iterator[ReaderBatch]:
        """Yield the batches of `num_epochs` epochs (None: one) with the registered attributes."""
        targets = {}
        if self._register & set(self.labels_attr):
            targets["task"] = self.target("task", self.kinds[0])
        dataset = self.dataset(targets, tuple(PALM_NAMES))
        sampler = self.sampler(dataset)
        for _ in range(sampler.batches_per_epoch * (self.num_epochs or 1)):
            yield self.attrs_of(dataset.batch(sampler.next(), sampler.epoch))

    def attrs_of(self, batch: TrainingBatch) -> ReaderBatch:
        """Return the registered attributes of a batch under PALM's names."""
        tokens, mask = batch.inputs["input_ids"].numpy(), batch.inputs["attention_mask"].numpy()
        zeros = np.zeros_like(tokens)
        segments = batch.inputs["token_type_ids"].numpy() if "token_type_ids" in batch.inputs else zeros
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        arrays: ReaderBatch = {"token_ids": tokens, "position_ids": positions, "segment_ids": segments}
        arrays |= {"task_ids": zeros, "input_mask": mask}
        for target in batch.targets.values():
            arrays |= self._label_attrs(target.numpy(), mask)
        return {name: arrays[name] for name in self.outputs_attr if name in self._register and name in arrays}

    def _label_attrs(self, target: npt.NDArray[Any], mask: npt.NDArray[Any]) -> ReaderBatch:
        """Return the arrays that `labels_attr` declares."""
        return {"label_ids": target}

    def _prepared(self, example: Example) -> Example:
        """Remove the blanks of a Chinese text (`lang='cn'`) unless spans or words refer to its positions."""
        has_spans = any(is_spans(value) for value in example.fields.values())
        if self.lang not in _CHINESE or has_spans or example.words is not None:
            return example
        pair = None if example.pair is None else "".join(example.pair.split())
        return replace(example, text="".join(example.text.split()), pair=pair)

    def _check_kind(self, task: str, kind: Kind) -> None:
        if kind not in self.kinds:
            raise WiringError(
                f"trainer '{task}': the kind of its head must be one that {type(self).__name__} reads ({', '.join(self.kinds)}), got '{kind}'."
            )
