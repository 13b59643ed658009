"""Build the job of a configuration. The only module that knows every component package."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from operator import itemgetter
from pathlib import Path

import torch

from palm_serve.tokenization import TextTokenizer, bare_tokenizer_json
from palm_trainer.config.loader import Config, TaskConfig
from palm_trainer.config.mappings import select_keys
from palm_trainer.config.schema import ClassifyTask, MatchTask
from palm_trainer.data.dataset import EncodedDataset
from palm_trainer.data.example import Example
from palm_trainer.data.sampler import LengthBucketedSampler
from palm_trainer.data.splits import Splits
from palm_trainer.data.substitution import Substitution, listed_wordings
from palm_trainer.data.targets.base import Target
from palm_trainer.errors import DataError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.evaluation.perplexity import MaskedRows
from palm_trainer.model.encoders import Encoder, LoadedEncoder
from palm_trainer.model.heads import make_head
from palm_trainer.model.heads.prototype import PrototypeHead
from palm_trainer.model.heads.sequence_label import SequenceLabelHead
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel, describe_encoder
from palm_trainer.runs.class_vectors import ClassTexts, start_prototype_heads
from palm_trainer.runs.encoder_of_job import load_job_encoder, load_start
from palm_trainer.runs.given_tags import GivenTags, learn_given_tags, with_given_tags
from palm_trainer.runs.job import EvaluationData, EvaluationPlan, Job, JobTask
from palm_trainer.tasks import LearnContext, is_scored, task_kind
from palm_trainer.tasks.fields import resolve_fields
from palm_trainer.training.assembly import attach_soft_targets, build_loop, imitate, order_sources, prepare_encoder
from palm_trainer.training.distillation import HiddenStates
from palm_trainer.training.loop import TrainingLoop
from palm_trainer.training.precision import choose_precision
from palm_trainer.training.processes import SINGLE_PROCESS, Processes
from palm_trainer.training.regularization import WordDropout
from palm_trainer.training.source import Source


def job_from_config(
    config: Config,
    processes: Processes = SINGLE_PROCESS,
    *,
    start_heads: bool = False,
    resumed: Path | None = None,
) -> Job:
    """Read the data, load the encoder and return the job of a configuration. Seeds torch's generator.

    Each of several processes builds the same job, from the same files.

    Args:
        config: what to train. `train.output` is the run directory.
        processes: that train together.
        start_heads: compute the class vectors that prototype heads start from. False for a run that is resumed, and for
            a job that is not trained.
        resumed: the run that is resumed, if its `last/` stands for an encoder that came from a run.

    Raises:
        ConfigError: settings that do not fit each other or the data.
        DataError: a file that cannot be used.
    """
    torch.manual_seed(config.train.seed)
    splits = Splits(config.data, seed=config.train.seed)
    examples = {name: splits.examples(name, "train") for name in config.data}
    config = resolve_fields(config, examples)
    job_encoder = load_job_encoder(config, chain.from_iterable(examples.values()), resumed)
    encoder = job_encoder.encoder
    config = job_encoder.resolve(config)
    targets = _learn_targets(config, examples, _learn_context(config, encoder.tokenizer_json))
    config = _with_match_labels(config, targets)
    given_tags = learn_given_tags(config, targets, splits)
    trained = _assemble(config, encoder, targets, given_tags)
    examples = _with_out_of_scope(examples, splits)
    sources = _sources(config, trained, targets, examples, splits)
    device = processes.device(config.train.device)
    teachers = attach_soft_targets(config.train, trained, sources, examples, device)
    imitation = imitate(config.train, teachers, trained, device)
    if start_heads and processes.is_first:  # the others get the weights of the first
        _start_prototype_heads(config, trained, examples, device)
    heads = job_encoder.give_heads(config, trained)
    word_dropout = prepare_encoder(config.train, trained, sources)
    plan = evaluation_plan(config, trained, ("dev", "test"), splits)
    start = load_start(config, job_encoder, resumed) if config.train.regularization.anchor else None
    loop = _build_loop(config, trained.model, sources, word_dropout, processes, start, imitation)
    return Job(
        config.train,
        trained,
        loop,
        config.reference,
        plan,
        config.train.output,
        [teacher.digest for teacher in teachers],
        heads=heads,
        given_tags=given_tags,
    )


def _build_loop(
    config: Config,
    model: MultiTaskModel,
    sources: Mapping[str, Source],
    word_dropout: WordDropout | None,
    processes: Processes,
    start: Encoder | None,
    imitation: HiddenStates | None,
) -> TrainingLoop:
    """Return the loop of a configuration, with the order of its batches.

    Args:
        config: what to train.
        model: the model.
        sources: training data by data set.
        word_dropout: of the encoder's inputs, where there is some.
        processes: that train together.
        start: encoder that the anchor holds to, where there is one.
        imitation: of the vectors of a teacher, for a student.
    """
    order = order_sources(
        config.train,
        sources,
        config.reference,
        {name: data.mix_ratio for name, data in config.data.items()},
        {name: data.epochs or config.train.epochs for name, data in config.data.items()},
    )
    return build_loop(
        config.train,
        model,
        order,
        {name: task.weight for name, task in config.tasks.items()},
        word_dropout,
        processes,
        task_learning_rates={name: task.learning_rate for name, task in config.tasks.items() if task.learning_rate},
        start=start,
        imitation=imitation,
    )


def _start_prototype_heads(
    config: Config, trained: TrainedModel, examples: Mapping[str, Sequence[Example]], device: str
) -> None:
    """Set the class vectors of all prototype heads, where there are some."""
    texts = {}
    for name, task in config.tasks.items():
        if isinstance(task, ClassifyTask) and task.head == PrototypeHead.variant:
            task_examples = list(chain.from_iterable(map(examples.__getitem__, task.data)))
            texts[name] = ClassTexts(task.field or "", task_examples, task.names)
    if texts:
        start_prototype_heads(trained, texts, choose_precision(device, "fp32").device)


def _learn_targets(
    config: Config, examples: Mapping[str, Sequence[Example]], context: LearnContext
) -> dict[str, Target]:
    """Return the target of each task, learnt from the training examples of its data sets."""
    targets = {}
    for name, task in config.tasks.items():
        task_examples = list(chain.from_iterable(map(examples.__getitem__, task.data)))
        targets[name] = task_kind(task.kind).learn(name, task, task_examples, context)
    return targets


def _with_out_of_scope(examples: Mapping[str, list[Example]], splits: Splits) -> dict[str, list[Example]]:
    """Return the training examples of each data set, followed by its text that belongs to no class."""
    extended = dict(examples)
    for name in splits.data_sets("out_of_scope_train"):
        outside = splits.examples(name, "out_of_scope_train")
        extended[name] = [*examples[name], *(replace(example, fields={}, out_of_scope=True) for example in outside)]
    return extended


def _sources(
    config: Config,
    trained: TrainedModel,
    targets: Mapping[str, Target],
    examples: Mapping[str, Sequence[Example]],
    splits: Splits,
) -> dict[str, Source]:
    """Encode the training data. Each data set has a sampler with a seed of its own."""
    tokenizer = TextTokenizer(trained.tokenizer_json, trained.max_length)
    sources = {}
    for position, name in enumerate(config.data):
        trained_tasks = [task for task, settings in config.tasks.items() if name in settings.data]
        dataset = EncodedDataset(
            examples[name],
            tokenizer,
            select_keys(targets, trained_tasks),
            trained.model.input_names,
            trained.encoder.pad_token_id,
            substitution=_substitution(config, name, examples[name], splits),
        )
        seed = config.train.seed + position
        sources[name] = Source(dataset, LengthBucketedSampler(dataset.lengths, config.train.batch_size, seed))
    return sources


def _substitution(config: Config, data: str, examples: Sequence[Example], splits: Splits) -> Substitution | None:
    """Return the substitution of values in a data set, where it is asked for. Its first task with spans names the field."""
    probability = config.data[data].substitute
    if not probability:
        return None
    tagging = []
    for task in config.tasks.values():
        if data in task.data and task_kind(task.kind).learns_tags:
            tagging.append(task)
    field = tagging[0].field or ""
    lists = listed_wordings(examples, field, splits.read(data, "train").values)
    return Substitution(examples, field, probability, config.train.seed, lists)


def evaluation_plan(
    config: Config, trained: TrainedModel, split_names: Sequence[str], splits: Splits | None = None
) -> EvaluationPlan:
    """Read splits of the data and return what a model is evaluated on.

    Args:
        config: with resolved fields.
        trained: the model, whose tokenizer encodes masked_lm rows.
        split_names: which splits to read. Those that no data set has are empty.
        splits: holds what was read before.

    Raises:
        DataError: a file that cannot be used, or labels of another kind.
    """
    splits = splits or Splits(config.data, seed=config.train.seed)
    by_split = {}
    for split in split_names:
        by_split[split] = EvaluationData(
            evaluation_sets(config, split, splits),
            _masked_sets(config, trained, split, splits),
            _out_of_scope_examples(config, split, splits),
        )
    tasks = {}
    for name, task in config.tasks.items():
        if is_scored(task):
            tasks[name] = _job_task(task)
    return EvaluationPlan(tasks, by_split, splits, config)


def _job_task(task: TaskConfig) -> JobTask:
    has_open_limit = task_kind(task.kind).has_open_limit(task)
    job_task = JobTask(task.kind, task.data, task.baseline, tuned=has_open_limit)
    if isinstance(task, ClassifyTask):
        return replace(job_task, false_rejection=task.false_rejection, out_of_scope_score=task.out_of_scope_score)
    return job_task


def evaluation_sets(config: Config, split: str, splits: Splits | None = None) -> list[EvaluationSet]:
    """Return the evaluation sets of a split, that of the reference data set first.

    Args:
        config: with resolved fields.
        split: to evaluate on.
        splits: holds what was read before.

    Raises:
        DataError: a file that cannot be used, or labels of another kind.
    """
    splits = splits or Splits(config.data, seed=config.train.seed)
    sets = []
    for name in sorted(splits.data_sets(split), key=lambda name: name != config.reference):
        fields = {}
        for task, settings in config.tasks.items():
            if name in settings.data and is_scored(settings):
                fields[task] = settings.field or ""
        if not fields:
            continue
        examples: Sequence[Example] = splits.examples(name, split)
        _check_kinds(config, fields, examples)
        match_labels = dict.fromkeys(fields, "")
        for task, field in fields.items():
            settings = config.tasks[task]
            if isinstance(settings, MatchTask):
                match_labels[task] = settings.match_label or ""
            examples = task_kind(settings.kind).evaluation_examples(settings, field, examples)
        sets.append(EvaluationSet(name, examples, fields, match_labels))
    return sets


def _masked_sets(config: Config, trained: TrainedModel, split: str, splits: Splits) -> dict[str, MaskedRows]:
    """Return the rows of a split by masked_lm task, where it has some."""
    tokenizer = TextTokenizer(trained.tokenizer_json, trained.max_length)
    masked = {}
    for name, task in config.tasks.items():
        kind = task_kind(task.kind)
        if kind.is_answered:
            continue
        examples: list[Example] = []
        positions = {}
        for data_set in task.data:
            if config.data[data_set].paths(split):
                first = len(examples)
                examples += splits.examples(data_set, split)
                positions[data_set] = range(first, len(examples))
        if examples:
            target = kind.learn(name, task, examples, _learn_context(config, trained.tokenizer_json))
            rows = EncodedDataset(
                examples, tokenizer, {name: target}, trained.model.input_names, trained.encoder.pad_token_id
            )
            masked[name] = MaskedRows(rows, positions)
    return masked


def _learn_context(config: Config, tokenizer_json: str) -> LearnContext:
    return LearnContext(config.encoder.max_length, tokenizer_json, config.train.seed)


def _check_kinds(config: Config, fields: Mapping[str, str], examples: Sequence[Example]) -> None:
    for task, field in fields.items():
        kind = task_kind(config.tasks[task].kind)
        for example in examples:
            if field in example.fields and not kind.fits(example.fields[field]):
                raise DataError(
                    f"{example.source}: task '{task}' needs {kind.wanted_value} in '{field}', not {example.fields[field]!r}. Mend the row."
                )


def task_kinds(config: Config) -> dict[str, str]:
    """Return the kind of each task that is evaluated."""
    return {name: task.kind for name, task in config.tasks.items() if is_scored(task)}


_OUT_OF_SCOPE = {"dev": "out_of_scope", "test": "out_of_scope_test"}
"""The split of out-of-scope text, by the split that it is compared with."""


def _out_of_scope_examples(config: Config, split: str, splits: Splits) -> dict[str, list[Example]]:
    """Return out-of-scope text by `classify` task, where a data set of the task has some."""
    out_of_scope = _OUT_OF_SCOPE.get(split, "")
    texts = {}
    if out_of_scope:
        for name in splits.data_sets(out_of_scope):
            texts[name] = splits.examples(name, out_of_scope)
    examples: dict[str, list[Example]] = {}
    for name, task in config.tasks.items():
        if task_kind(task.kind).detects_out_of_scope and is_scored(task):
            examples[name] = list(chain.from_iterable(texts.get(data_set, ()) for data_set in task.data))
    return dict(filter(itemgetter(1), examples.items()))


def _with_match_labels(config: Config, targets: Mapping[str, Target]) -> Config:
    """Return the configuration with the match label that each match task has learnt."""
    tasks = dict(config.tasks)
    for name, task in config.tasks.items():
        if isinstance(task, MatchTask):
            label = targets[name].info.decode.match_label or None
            tasks[name] = task.model_copy(update={"match_label": label})
    return config.model_copy(update={"tasks": tasks})


def _assemble(
    config: Config, encoder: LoadedEncoder, targets: Mapping[str, Target], given_tags: Mapping[str, GivenTags]
) -> TrainedModel:
    """Build the model of a configuration.

    Args:
        config: with resolved fields.
        encoder: its encoder.
        targets: of all tasks.
        given_tags: by task that is to be decoded given another.
    """
    hidden = encoder.backbone.hidden_size
    rows, columns = encoder.backbone.embedding_table.shape
    infos = {name: target.info for name, target in targets.items()}
    class_counts = dict.fromkeys(targets, 0)
    used_tags = {name: tags for name, tags in given_tags.items() if tags.used}
    for name, tags in used_tags.items():
        infos[name] = with_given_tags(infos[name], name, tags)
        class_counts[name] = len(tags.allowed)
    heads = {}
    for name, info in infos.items():
        task = config.tasks[name]
        ranking = {"margin": task.margin} if isinstance(task, MatchTask) else {}
        variant = task.head if isinstance(task, ClassifyTask) and task.head != "linear" else ""
        heads[name] = make_head(
            name,
            info,
            hidden,
            dropout=task.dropout,
            label_smoothing=config.train.regularization.label_smoothing,
            embedding=(rows, columns),
            variant=variant,
            given_classes=class_counts[name],
            **ranking,
        )
    for name, tags in used_tags.items():
        tagger = heads[name]
        assert isinstance(tagger, SequenceLabelHead)
        tagger.allow(tags.allowed)
    model = MultiTaskModel(encoder.backbone, heads)
    encoder_info = describe_encoder(encoder.backbone, encoder.name, encoder.pad_token_id)
    encoder_info = encoder_info.model_copy(update={"started_from": encoder.digest})
    auxiliary = frozenset(name for name, task in config.tasks.items() if not is_scored(task))
    return TrainedModel(
        model, bare_tokenizer_json(encoder.tokenizer_json), config.encoder.max_length, infos, encoder_info, auxiliary
    )
