"""Summary of the data of a run: token lengths, label counts and problems."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from palm_trainer.data.example import Example
from palm_trainer.data.formats.text_files import Defect
from palm_trainer.data.pieces import count_tokens
from palm_trainer.data.roles import fold_roles
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.report.rows import RunFacts
from palm_trainer.tasks import Judged, task_kind


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Tokens of each text of a split, special ones included, and the number of truncated texts."""

    tokens: Sequence[int]
    truncated: int


@dataclass(frozen=True, slots=True)
class DataProblem:
    """A problem in the data: place, description, number of cases and source of the first case."""

    place: str
    description: str
    count: int
    first: str


@dataclass(frozen=True)
class DataSummary:
    """Lengths by data set and split (`travel train`), label counts by task and split, problems."""

    lengths: Mapping[str, TokenLengths]
    labels: Mapping[str, Mapping[str, Counter[str]]]
    problems: Sequence[DataProblem]


def summarize_data(
    facts: RunFacts,
    kinds: Mapping[str, str],
    split: str | None,
    sets: Sequence[EvaluationSet],
    rows: Mapping[str, Sequence[Judged]],
) -> DataSummary:
    """Summarize the training data and the evaluated split.

    Args:
        facts: the run.
        kinds: kind of each task that is evaluated.
        split: name of the evaluated split, or None.
        sets: examples of that split.
        rows: evaluated examples of each task.
    """
    config = facts.config
    trained = facts.trained
    evaluated = split is not None and split != "train"
    lengths: dict[str, TokenLengths] = {}
    problems: list[DataProblem] = []
    train_examples: dict[str, Sequence[Example]] = {}
    for name in config.data:
        train = facts.splits.read(name, "train")
        train_examples[name] = train.examples
        lengths[f"{name} train"] = measure_lengths(trained.tokenizer_json, trained.max_length, train.examples)
        problems += _problems_of_defects(f"{name} train", train.defects)
    if split is not None and evaluated:
        for evaluation_set in sets:
            place = f"{evaluation_set.data} {split}"
            lengths[place] = measure_lengths(trained.tokenizer_json, trained.max_length, evaluation_set.examples)
            defects = facts.splits.read(evaluation_set.data, split).defects
            problems += _problems_of_defects(place, defects)
        problems += find_overlap(split, train_examples, sets)
    labels: dict[str, dict[str, Counter[str]]] = {}
    for task, kind in kinds.items():
        if not task_kind(kind).counts_labels(trained.tasks[task]):
            continue
        settings = config.tasks[task]
        field = settings.field or ""
        learnt = bool(trained.tasks[task].decode.span_types)
        train_counts: Counter[str] = Counter()
        for name in settings.data:
            losses = task_kind(kind).data_losses(settings, field, train_examples[name])
            problems += _problems_of_defects(f"{name} train", losses)
            train_counts += count_labels(kind, field, fold_roles(train_examples[name], field, learnt=learnt))
        labels[task] = {"train": train_counts}
        if split is not None and evaluated and task in rows:
            examples = fold_roles([row.example for row in rows[task]], field, learnt=learnt)
            labels[task][split] = count_labels(kind, field, examples)
            problems += find_untrained_labels(split, task, examples, field, train_counts, kind)
    return DataSummary(lengths, labels, problems)


def measure_lengths(tokenizer_json: str, max_length: int, examples: Sequence[Example]) -> TokenLengths:
    """Count the tokens of texts with their pairs.

    Args:
        tokenizer_json: the tokenizer.
        max_length: tokens that the model reads. Longer texts are truncated.
        examples: the texts.
    """
    tokens = count_tokens(examples, tokenizer_json)
    truncated = sum(length > max_length for length in tokens)
    return TokenLengths(tokens, truncated)


def count_labels(kind: str, field: str, examples: Iterable[Example]) -> Counter[str]:
    """Count the labels of a field: classes, or spans by type (mrc: questions with and without an
    answer).

    Args:
        kind: kind of the task.
        field: field of the examples.
        examples: the examples to count.
    """
    counts: Counter[str] = Counter()
    for example in examples:
        counts.update(task_kind(kind).labels_in(example, field))
    return counts


def find_overlap(
    split: str, train_examples: Mapping[str, Sequence[Example]], sets: Iterable[EvaluationSet]
) -> list[DataProblem]:
    """Find texts of a split that are also in train, so that metrics on them measure memorization.

    Args:
        split: name of the split.
        train_examples: training examples by data set.
        sets: examples of the split.
    """
    problems = []
    for evaluation_set in sets:
        train_texts = set()
        for example in train_examples.get(evaluation_set.data, ()):
            train_texts.add(example.inputs)
        repeated = []
        for example in evaluation_set.examples:
            if example.inputs in train_texts:
                repeated.append(example)
        if repeated:
            place = f"{evaluation_set.data} {split}"
            problems.append(DataProblem(place, "text that is also in train", len(repeated), repeated[0].source))
    return problems


def find_untrained_labels(
    split: str, task: str, examples: Iterable[Example], field: str, trained: Iterable[str], kind: str
) -> list[DataProblem]:
    """Find gold labels that are not in train, so that no answer can be right.

    Args:
        split: name of the split.
        task: name of the task.
        examples: its evaluated examples.
        field: field that it learns.
        trained: labels in train.
        kind: kind of the task.
    """
    trained_labels = set(trained)
    sources: dict[str, list[str]] = {}
    for example in examples:
        for label in count_labels(kind, field, [example]):
            if label not in trained_labels:
                sources.setdefault(label, []).append(example.source)
    problems = []
    for label, label_sources in sorted(sources.items()):
        description = f"label '{label}' that is not in train"
        problems.append(DataProblem(f"{task} {split}", description, len(label_sources), label_sources[0]))
    return problems


def _problems_of_defects(place: str, defects: Sequence[Defect]) -> list[DataProblem]:
    problems = []
    for defect in defects:
        problems.append(DataProblem(place, defect.kind, defect.count, defect.first))
    return problems
