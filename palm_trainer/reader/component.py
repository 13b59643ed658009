"""The readers of the Python API, one a kind of task, with the arguments of the original PALM."""

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from palm_serve.bundle.manifest import Kind, Role
from palm_serve.types import Windows
from palm_trainer.errors import DataError, WiringError
from palm_trainer.example import Example, LabelledSpan
from palm_trainer.reader.base_reader import Reader, ReaderBatch
from palm_trainer.reader.classify import ClassifyTarget
from palm_trainer.reader.formats.jsonl import ANSWER
from palm_trainer.reader.inputs import Inputs, PairAndNegative, PassageWindows, Texts
from palm_trainer.reader.masked_lm import MaskedLMTarget, MaskVocabulary
from palm_trainer.reader.match import NEGATIVE, MatchTarget, RankTarget
from palm_trainer.reader.mrc import MrcTarget
from palm_trainer.reader.multi_label import MultiLabelTarget
from palm_trainer.reader.sequence_label import SequenceLabelTarget, spans_of
from palm_trainer.reader.target import Target
from palm_trainer.specs import IGNORE

LabelMap = str | Path | Mapping[str, int]
_PREFIXED = re.compile(r"[BIESM]-(.+)")


class ClassifyReader(Reader):
    """Texts, or pairs of texts, with a class: columns `label`, `text_a` and perhaps `text_b`.

    Labels are names or PALM's numbers 0 to n-1. `label_map` (JSON file or dict, label -> id) fixes which there are and their order.
    """

    kinds = ("classify", "multi_label")

    def __init__(self, *arguments: Any, label_map: LabelMap | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.label_map = None if label_map is None else read_label_map(label_map)

    @property
    def labels_attr(self) -> dict[str, list[Any]]:
        """Labels of the batches."""
        return {"label_ids": [[-1], "int64"]}

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """Classes of the label map, or of the data."""
        self._check_kind(task, kind)
        return class_target(task, kind, self.examples, self.label_map, classes, role)


class MatchReader(Reader):
    """Pairs of texts: `text_a`, `text_b` and a class `label` (`pointwise`), or a second text that matches less, `text_b_neg` (`pairwise`)."""

    kinds = ("match",)

    def __init__(
        self, *arguments: Any, learning_strategy: str = "pointwise", match_label: str | None = None, **settings: Any
    ) -> None:
        if learning_strategy not in ("pointwise", "pairwise"):
            raise WiringError(
                f"MatchReader: learning_strategy is '{learning_strategy}', but is 'pointwise' or 'pairwise'."
            )
        self.pairwise = learning_strategy == "pairwise"
        self.match_label = match_label
        super().__init__(*arguments, **settings)

    @property
    def labels_attr(self) -> dict[str, list[Any]]:
        """Labels of the batches."""
        return {} if self.pairwise else {"label_ids": [[-1], "int64"]}

    @property
    def inputs(self) -> Inputs:
        """Pairs; while training a ranker, each with its negative."""
        return PairAndNegative(NEGATIVE) if self.pairwise and self.phase == "train" else Texts()

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """Classes of the pairs, or nothing but their order."""
        self._check_kind(task, kind)
        mine = "pairwise" if self.pairwise else "pointwise"
        if options.get("learning_strategy", mine) != mine:
            raise WiringError(
                f"trainer '{task}': its head learns '{options['learning_strategy']}', but its MatchReader reads '{mine}'. Give both one learning_strategy."
            )
        if self.pairwise:
            return RankTarget.learn(task, NEGATIVE, self.examples)
        field = class_field(task, self.examples, self.path)
        target = MatchTarget.learn(task, field, self.examples, match_label=self.match_label)
        check_classes(
            task, classes, len(target.info.labels), f"{self.path} has the labels {', '.join(target.info.labels)}"
        )
        return target


class SequenceLabelReader(Reader):
    """Words with a tag each: columns `text_a` and `label`, joined by the control character 0x02; other formats by `file_format`.

    `label_map_config` (JSON file or dict, tag -> id) says which tags there are. They stand for their spans: whatever the ids, special tokens
    and padding are never trained, and a span of several pieces has an `I-` tag even where the map has none.
    """

    kinds = ("sequence_label",)
    formats: ClassVar[Mapping[str, str]] = {"tsv": "palm"}

    def __init__(
        self, vocab_path: str | Path, max_len: int, label_map_config: LabelMap, *arguments: Any, **settings: Any
    ) -> None:
        super().__init__(vocab_path, max_len, *arguments, **settings)
        self.label_map = read_label_map(label_map_config)

    @property
    def labels_attr(self) -> dict[str, list[Any]]:
        """Labels of the batches."""
        return {"label_ids": [[-1, -1], "int64"], "seq_lens": [[-1], "int64"]}

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """Tags of the label map."""
        self._check_kind(task, kind)
        check_classes(task, classes, len(self.label_map), f"the label map holds {len(self.label_map)} tags")
        return tag_target(task, self.examples, self.label_map, role, **options)

    def _label_attrs(self, target: npt.NDArray[Any], mask: npt.NDArray[Any]) -> ReaderBatch:
        return {"label_ids": target, "seq_lens": mask.sum(axis=1)}


class JointReader(Reader):
    """Texts with a class and tagged words in one file (`joint`, `conll`, `jsonl`). Give it to two trainers: they share its batches and encoder passes.

    `label_map` and `intent_map` fix tags and classes; without them they are what the training data holds.
    """

    kinds = ("sequence_label", "classify", "multi_label")
    formats: ClassVar[Mapping[str, str]] = {"tsv": "palm"}

    def __init__(
        self, *arguments: Any, label_map: LabelMap | None = None, intent_map: LabelMap | None = None, **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self.label_map = None if label_map is None else read_label_map(label_map)
        self.intent_map = None if intent_map is None else read_label_map(intent_map)

    @property
    def labels_attr(self) -> dict[str, list[Any]]:
        """Labels of the batches."""
        return {"label_ids": [[-1, -1], "int64"]}

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """Tags or classes."""
        self._check_kind(task, kind)
        if kind != "sequence_label":
            return class_target(task, kind, self.examples, self.intent_map, classes, role)
        tags = self.label_map or tags_of(self.examples)
        check_classes(task, classes, len(tags), f"{self.path} holds {len(tags)} tags")
        return tag_target(task, self.examples, tags, role, **options)


class MRCReader(Reader):
    """Questions and passages: SQuAD JSON 1.1 or 2.0. Long passages are read in windows.

    A window that does not hold the whole answer is taught to say "no answer", as BERT does; PALM dropped it (`remove_noanswer`).

    Args (beside those of `Reader`):
        max_query_len: tokens that a question is cut to.
        doc_stride: tokens from one window to the next.
    """

    kinds = ("mrc",)
    formats: ClassVar[Mapping[str, str]] = {"tsv": "squad", "csv": "squad", "json": "squad"}

    def __init__(
        self,
        vocab_path: str | Path,
        max_len: int,
        max_query_len: int,
        doc_stride: int,
        *arguments: Any,
        **settings: Any,
    ) -> None:
        if not 0 < max_query_len <= max_len // 2:
            raise WiringError(
                f"MRCReader: max_query_len is {max_query_len} tokens, but is from 1 to half of max_len={max_len}. The passage needs the rest."
            )
        if doc_stride < 1:
            raise WiringError(
                f"MRCReader: doc_stride is {doc_stride} tokens, but is 1 at least. A third of max_len suits most."
            )
        if settings.pop("remove_noanswer", False):
            warnings.warn(
                "MRCReader: remove_noanswer has no effect; windows without the answer teach 'no answer'. Leave it out.",
                stacklevel=2,
            )
        super().__init__(vocab_path, max_len, *arguments, **settings)
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
        """Windows."""
        return len(self.dataset({}, ()))

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """Places of the answers. The question's length is the reader's."""
        self._check_kind(task, kind)
        own = {"max_query_tokens": self.windows.max_query, "doc_stride_tokens": self.windows.stride}
        return MrcTarget.learn(task, ANSWER, self.examples, max_length=self.max_len, **{**options, **own})

    def _label_attrs(self, target: npt.NDArray[Any], mask: npt.NDArray[Any]) -> ReaderBatch:
        return {"start_positions": target[:, 0], "end_positions": target[:, 1]}


class MaskLMReader(Reader):
    """Texts without labels: column `text_a` (and `text_b`), or `file_format='text'`, a text a line. What is masked is drawn anew in each epoch.

    Args (beside those of `Reader`):
        mask_share: of the pieces.
        whole_word: all pieces of a word are masked together.
    """

    kinds = ("masked_lm",)

    def __init__(self, *arguments: Any, mask_share: float = 0.15, whole_word: bool = False, **settings: Any) -> None:
        if not 0.0 < mask_share < 1.0:
            raise WiringError(f"MaskLMReader: mask_share is {mask_share}, but is between 0 and 1. 0.15 is BERT's.")
        super().__init__(*arguments, **settings)
        self.mask_share = mask_share
        self.whole_word = whole_word

    @property
    def labels_attr(self) -> dict[str, list[Any]]:
        """Labels of the batches: positions in the flattened batch (row * length + column), and what stood there."""
        return {"mask_pos": [[-1], "int64"], "mask_label": [[-1], "int64"]}

    def target(self, task: str, kind: Kind, *, classes: int | None = None, role: Role = "", **options: Any) -> Target:
        """What was masked."""
        self._check_kind(task, kind)
        vocabulary = MaskVocabulary.of(task, self.tokenizer_json)
        return MaskedLMTarget(task, vocabulary, share=self.mask_share, whole_word=self.whole_word, seed=self.seed)

    def _label_attrs(self, target: npt.NDArray[Any], mask: npt.NDArray[Any]) -> ReaderBatch:
        flat = target.ravel()
        return {"mask_pos": (positions := (flat != IGNORE).nonzero()[0]), "mask_label": flat[positions]}


def read_label_map(given: LabelMap) -> dict[str, int]:
    """Label -> id, in the order of the ids. Raises DataError for anything but a JSON object of different ids."""
    source = "label_map"
    if isinstance(given, str | Path):
        source = str(given)
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f'{source}: no label map: {error}. Write a JSON object such as {{"O": 0, "B-city": 1}}.'
            ) from None
    if not isinstance(given, Mapping) or not given or not all(type(i) is int for i in given.values()):
        raise DataError(f'{source}: no label map. Write a JSON object such as {{"O": 0, "B-city": 1}}.')
    if len(set(given.values())) < len(given):
        raise DataError(f"{source}: two labels have one id. Give each its own.")
    return dict(sorted(given.items(), key=lambda item: item[1]))


def check_classes(task: str, declared: int | None, found: int, because: str) -> None:
    """Raises WiringError when the head was declared for another number of classes."""
    if declared is not None and declared != found:
        raise WiringError(
            f"trainer '{task}': its head was declared with num_classes={declared}, but {because}. Write num_classes={found}."
        )


def class_field(task: str, examples: Iterable[Example], path: Path | str = "", several: bool = False) -> str:
    """The field that holds classes: `label`, `intent`, the trainer's name, or the only one. Raises DataError."""
    known: dict[str, None] = {}
    for example in examples:
        for name, value in example.fields.items():
            if name != NEGATIVE and (isinstance(value, str) or (several and not _spans(value))):
                known[name] = None
    chosen = next((name for name in ("label", task, "intent") if name in known), None)
    if chosen is None and len(known) == 1:
        [chosen] = known
    if chosen is None:
        raise DataError(
            f"{path}: trainer '{task}' needs one column of labels, and the data has {', '.join(known) or 'none'}. Name it 'label'."
        )
    return chosen


def class_target(
    task: str,
    kind: Kind,
    examples: Sequence[Example],
    label_map: Mapping[str, int] | None,
    classes: int | None,
    role: Role,
) -> Target:
    """What a classifier learns: the map's labels; or PALM's numbers 0 to `classes` - 1; or the labels of the data, in alphabetical order."""
    source = examples[0].source.rpartition(":")[0] if examples else ""
    field = class_field(task, examples, source, several=kind == "multi_label")
    learn = MultiLabelTarget if kind == "multi_label" else ClassifyTarget
    learned = learn.learn(task, field, examples, role=role)
    labels: Sequence[str] = learned.info.labels
    if label_map is not None:
        _check_known(labels, label_map, examples, field)
        labels = list(label_map)
        check_classes(task, classes, len(labels), f"the label map holds {len(labels)} labels")
    elif all(label.isdecimal() for label in labels):
        largest = max(map(int, labels))
        if classes is not None and largest >= classes:
            raise WiringError(
                f"trainer '{task}': its head was declared with num_classes={classes}, but {source} holds the label {largest}. "
                f"Write num_classes={largest + 1} or more."
            )
        labels = [str(i) for i in range(classes or largest + 1)]
    else:
        check_classes(task, classes, len(labels), f"{source} holds {len(labels)} labels; a label_map may hold more")
    return learn(task, field, labels, role=role, pairs=learned.info.decode.pairs)


def tag_target(
    task: str, examples: Sequence[Example], label_map: Mapping[str, int], role: Role, *, crf: bool = True
) -> Target:
    """What a tagger learns: the span types of the map's tags. Raises DataError for a tag of the data that the map lacks."""
    field = span_field(task, examples)
    types = list(dict.fromkeys(m[1] for tag in label_map if (m := _PREFIXED.fullmatch(tag))))
    for example in examples:
        for span in spans_of(example, field, task):
            if span.label not in types:
                raise DataError(
                    f"{example.source}: tag 'B-{span.label}' is not in the label map, which holds {len(label_map)} tags. Add it, or mend the row."
                )
    learned = SequenceLabelTarget.learn(task, field, examples, role=role)
    punctuation = learned.info.decode.value_punctuation
    return SequenceLabelTarget(task, field, types, role=role, crf=crf, value_punctuation=punctuation)


def span_field(task: str, examples: Iterable[Example]) -> str:
    """The field that holds spans: the trainer's name, `label`, `slots`, `tags`, or the only one. Raises DataError."""
    known = dict.fromkeys(name for e in examples for name, value in e.fields.items() if _spans(value))
    chosen = next((name for name in (task, "label", "slots", "tags") if name in known), None) or next(iter(known), None)
    if chosen is None:
        raise DataError(
            f"trainer '{task}' needs tagged words, and the data holds no span. Check the file and its file_format."
        )
    return chosen


def tags_of(examples: Iterable[Example]) -> dict[str, int]:
    """A label map of the data's own span types: O, then B- and I- of each."""
    types = {
        item.label
        for e in examples
        for value in e.fields.values()
        if _spans(value)
        for item in value
        if isinstance(item, LabelledSpan)
    }
    return {tag: i for i, tag in enumerate(["O", *(f"{prefix}-{name}" for name in sorted(types) for prefix in "BI")])}


def _spans(value: object) -> bool:
    return isinstance(value, tuple) and any(isinstance(item, LabelledSpan) for item in value)


def _check_known(labels: Iterable[str], label_map: Mapping[str, int], examples: Iterable[Example], field: str) -> None:
    unknown = [label for label in labels if label not in label_map]
    if unknown:
        where = next(e.source for e in examples if unknown[0] in (e.fields.get(field), *(e.fields.get(field) or ())))
        raise DataError(
            f"{where}: label '{unknown[0]}' is not in the label map, which holds {len(label_map)} labels. Add it, or mend the row."
        )
