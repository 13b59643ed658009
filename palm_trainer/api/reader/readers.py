"""Readers of the Python API, one for each kind of task, with the arguments of the original PALM."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from palm_serve.bundle.manifest import Kind, Role
from palm_serve.types import Windows
from palm_trainer.api.compat import accept_unused
from palm_trainer.api.phase import Phase
from palm_trainer.api.reader.base_reader import ReaderBatch
from palm_trainer.api.reader.label_maps import (
    LabelMap,
    check_classes,
    class_field,
    class_target,
    read_label_map,
    tag_target,
    tags_of,
)
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.inputs import Inputs, PairAndNegative, PassageWindows, Texts
from palm_trainer.data.targets.base import Target
from palm_trainer.data.targets.masked_lm import MaskedLMTarget, MaskVocabulary
from palm_trainer.data.targets.match import NEGATIVE, MatchTarget, RankTarget
from palm_trainer.data.targets.mrc import MrcTarget
from palm_trainer.errors import WiringError
from palm_trainer.tasks import task_kind
from palm_trainer.tensors import IGNORE


class ClassifyReader(TextReader):
    """Reads texts, or pairs of texts, with a class: columns `label`, `text_a` and optionally `text_b`.

    Labels are names, or PALM's numbers 0 to n-1. `label_map` (JSON file or dict, label -> id) fixes the labels and their order.
    """

    kinds = ("classify", "multi_label")

    def __init__(
        self,
        vocab_path: str | Path,
        max_len: int,
        tokenizer: str = "wordpiece",
        lang: str = "en",
        seed: int | None = None,
        do_lower_case: bool | None = None,
        phase: Phase = "train",
        *,
        label_map: LabelMap | None = None,
    ) -> None:
        super().__init__(vocab_path, max_len, tokenizer, lang, seed, do_lower_case, phase)
        self.label_map = None if label_map is None else read_label_map(label_map)

    @property
    def labels_attr(self) -> dict[str, list[Any]]:
        """Labels of the batches."""
        return {"label_ids": [[-1], "int64"]}

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """Return the classes of the label map, or else of the data.

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
        self._check_kind(task, kind)
        return class_target(task, kind, self.examples, self.label_map, classes, role)


@accept_unused(dev_count="phase", print_prefix="dev_count")
class MatchReader(TextReader):
    """Reads pairs of texts: columns `text_a` and `text_b`.

    `pointwise` needs a class in column `label`. `pairwise` needs a second text that matches less, in column `text_b_neg`.
    """

    kinds = ("match",)

    def __init__(
        self,
        vocab_path: str | Path,
        max_len: int,
        tokenizer: str = "wordpiece",
        lang: str = "en",
        seed: int | None = None,
        do_lower_case: bool | None = None,
        learning_strategy: str = "pointwise",
        phase: Phase = "train",
        *,
        match_label: str | None = None,
    ) -> None:
        if learning_strategy not in ("pointwise", "pairwise"):
            raise WiringError(
                f"MatchReader: learning_strategy must be 'pointwise' or 'pairwise', got '{learning_strategy}'."
            )
        self.pairwise = learning_strategy == "pairwise"
        self.match_label = match_label
        super().__init__(vocab_path, max_len, tokenizer, lang, seed, do_lower_case, phase)

    @property
    def labels_attr(self) -> dict[str, list[Any]]:
        """Labels of the batches."""
        return {} if self.pairwise else {"label_ids": [[-1], "int64"]}

    @property
    def inputs(self) -> Inputs:
        """Pairs. While a ranker trains, each pair has its negative."""
        return PairAndNegative(NEGATIVE) if self.pairwise and self.phase == "train" else Texts()

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """Return the classes of the pairs, or for a ranker their order.

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
        self._check_kind(task, kind)
        strategy = "pairwise" if self.pairwise else "pointwise"
        if options.get("learning_strategy", strategy) != strategy:
            raise WiringError(
                f"trainer '{task}': its head learns '{options['learning_strategy']}', but its MatchReader reads '{strategy}'. Give both one learning_strategy."
            )
        if self.pairwise:
            return RankTarget.learn(task, NEGATIVE, self.examples)
        field = class_field(task, self.examples, self.path)
        target = MatchTarget.learn(task, field, self.examples, match_label=self.match_label)
        check_classes(
            task, classes, len(target.info.labels), f"{self.path} has the labels {', '.join(target.info.labels)}"
        )
        return target


@accept_unused(dev_count="phase", print_prefix="dev_count")
class SequenceLabelReader(TextReader):
    """Reads words with one tag each: columns `text_a` and `label`, whose values are joined by the control character 0x02.

    `file_format` selects other formats. `label_map_config` (JSON file or dict, tag -> id) lists the tags.
    Tags stand for their spans. Special tokens and padding are never trained, whatever the ids.
    A span of several pieces has an `I-` tag even where the map has none.
    """

    kinds = ("sequence_label",)
    formats: ClassVar[Mapping[str, str]] = {"tsv": "palm"}

    def __init__(
        self,
        vocab_path: str | Path,
        max_len: int,
        label_map_config: LabelMap,
        tokenizer: str = "wordpiece",
        lang: str = "en",
        seed: int | None = None,
        do_lower_case: bool | None = None,
        phase: Phase = "train",
    ) -> None:
        super().__init__(vocab_path, max_len, tokenizer, lang, seed, do_lower_case, phase)
        self.label_map = read_label_map(label_map_config)

    @property
    def labels_attr(self) -> dict[str, list[Any]]:
        """Labels of the batches."""
        return {"label_ids": [[-1, -1], "int64"], "seq_lens": [[-1], "int64"]}

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """Return the tags of the label map.

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
        self._check_kind(task, kind)
        check_classes(task, classes, len(self.label_map), f"the label map holds {len(self.label_map)} tags")
        return tag_target(task, self.examples, self.label_map, role, **options)

    def _label_attrs(self, target: npt.NDArray[Any], mask: npt.NDArray[Any]) -> ReaderBatch:
        return {"label_ids": target, "seq_lens": mask.sum(axis=1)}


class JointReader(TextReader):
    """Reads texts with a class and tagged words from one file (`joint`, `conll`, `jsonl`).

    Two trainers that get the same JointReader share its batches and encoder passes.
    `label_map` and `intent_map` fix tags and classes. By default the training data decides.
    """

    kinds = ("sequence_label", "classify", "multi_label")
    formats: ClassVar[Mapping[str, str]] = {"tsv": "palm"}

    def __init__(
        self,
        vocab_path: str | Path,
        max_len: int,
        tokenizer: str = "wordpiece",
        lang: str = "en",
        seed: int | None = None,
        do_lower_case: bool | None = None,
        phase: Phase = "train",
        *,
        label_map: LabelMap | None = None,
        intent_map: LabelMap | None = None,
    ) -> None:
        super().__init__(vocab_path, max_len, tokenizer, lang, seed, do_lower_case, phase)
        self.label_map = None if label_map is None else read_label_map(label_map)
        self.intent_map = None if intent_map is None else read_label_map(intent_map)

    @property
    def labels_attr(self) -> dict[str, list[Any]]:
        """Labels of the batches."""
        return {"label_ids": [[-1, -1], "int64"]}

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """Return the tags for a tagger, else the classes.

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
        self._check_kind(task, kind)
        if not task_kind(kind).learns_tags:
            return class_target(task, kind, self.examples, self.intent_map, classes, role)
        tags = self.label_map or tags_of(self.examples, options.get("roles"))
        check_classes(task, classes, len(tags), f"{self.path} holds {len(tags)} tags")
        return tag_target(task, self.examples, tags, role, **options)


@accept_unused(remove_noanswer="do_lower_case")
class MRCReader(TextReader):
    """Reads questions and passages: SQuAD JSON 1.1 or 2.0. Long passages are read in windows.

    A window without the whole answer is trained to answer "none", as in BERT. PALM could drop it (`remove_noanswer`).

    Args (in addition to those of `TextReader`):
        max_query_len: limit of a question in tokens. Longer questions are cut.
        doc_stride: tokens from the start of one window to the start of the next.
    """

    kinds = ("mrc",)
    formats: ClassVar[Mapping[str, str]] = {"tsv": "squad", "csv": "squad", "json": "squad"}

    def __init__(
        self,
        vocab_path: str | Path,
        max_len: int,
        max_query_len: int,
        doc_stride: int,
        tokenizer: str = "wordpiece",
        lang: str = "en",
        seed: int | None = None,
        do_lower_case: bool | None = None,
        phase: Phase = "train",
    ) -> None:
        if not 0 < max_query_len <= max_len // 2:
            raise WiringError(
                f"MRCReader: max_query_len must be from 1 to half of max_len={max_len}, got {max_query_len}. The passage needs the other half."
            )
        if doc_stride < 1:
            raise WiringError(
                f"MRCReader: doc_stride must be at least 1, got {doc_stride}. A typical value is a third of max_len."
            )
        super().__init__(vocab_path, max_len, tokenizer, lang, seed, do_lower_case, phase)
        self.windows = Windows(max_query_len, doc_stride)

    @property
    def labels_attr(self) -> dict[str, list[Any]]:
        """Labels of the batches."""
        return {"start_positions": [[-1], "int64"], "end_positions": [[-1], "int64"]}

    @property
    def inputs(self) -> Inputs:
        """Windows of the passage."""
        return PassageWindows(self.windows)

    @property
    def num_examples(self) -> int:
        """Number of windows."""
        return len(self.dataset({}, ()))

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """Return the positions of the answers. The reader limits the length of the question.

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
        self._check_kind(task, kind)
        lengths = {"max_query_tokens": self.windows.max_query, "doc_stride_tokens": self.windows.stride}
        return MrcTarget.learn(task, ANSWER, self.examples, max_length=self.max_len, **{**options, **lengths})

    def _label_attrs(self, target: npt.NDArray[Any], mask: npt.NDArray[Any]) -> ReaderBatch:
        return {"start_positions": target[:, 0], "end_positions": target[:, 1]}


@accept_unused(dev_count="phase", print_prefix="dev_count")
class MaskLMReader(TextReader):
    """Reads texts without labels: column `text_a` (and `text_b`), or one text per line with `file_format='text'`.

    The masked tokens are drawn again in each epoch.

    Args (in addition to those of `TextReader`):
        mask_share: share of the pieces that are masked.
        whole_word: mask all pieces of a word together.
    """

    kinds = ("masked_lm",)

    def __init__(
        self,
        vocab_path: str | Path,
        max_len: int,
        tokenizer: str = "wordpiece",
        lang: str = "en",
        seed: int | None = None,
        do_lower_case: bool | None = None,
        phase: Phase = "train",
        *,
        mask_share: float = 0.15,
        whole_word: bool = False,
    ) -> None:
        if not 0.0 < mask_share < 1.0:
            raise WiringError(f"MaskLMReader: mask_share must be between 0 and 1, got {mask_share}. BERT uses 0.15.")
        super().__init__(vocab_path, max_len, tokenizer, lang, seed, do_lower_case, phase)
        self.mask_share = mask_share
        self.whole_word = whole_word

    @property
    def labels_attr(self) -> dict[str, list[Any]]:
        """Labels of the batches: positions in the flattened batch (row * length + column), and the original tokens."""
        return {"mask_pos": [[-1], "int64"], "mask_label": [[-1], "int64"]}

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """Return the masked tokens.

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
        self._check_kind(task, kind)
        vocabulary = MaskVocabulary.of(task, self.tokenizer_json)
        return MaskedLMTarget(task, vocabulary, share=self.mask_share, whole_word=self.whole_word, seed=self.seed)

    def _label_attrs(self, target: npt.NDArray[Any], mask: npt.NDArray[Any]) -> ReaderBatch:
        flat = target.ravel()
        positions = (flat != IGNORE).nonzero()[0]
        return {"mask_pos": positions, "mask_label": flat[positions]}
