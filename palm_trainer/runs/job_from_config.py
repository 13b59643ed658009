"""Configuration -> objects. The only module that knows every component package."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from palm_serve.tokenization import TextTokenizer, bare_tokenizer_json
from palm_trainer.config.loader import Config, TaskConfig
from palm_trainer.data.dataset import EncodedDataset
from palm_trainer.data.example import Example
from palm_trainer.data.formats.text_files import Defect
from palm_trainer.data.sampler import LengthBucketedSampler
from palm_trainer.data.splits import read_split
from palm_trainer.data.substitution import Substitution
from palm_trainer.data.targets.base import Target
from palm_trainer.data.targets.classify import ClassifyTarget
from palm_trainer.data.targets.masked_lm import MaskedLMTarget, MaskVocabulary
from palm_trainer.data.targets.match import MatchTarget, RankTarget, with_negatives
from palm_trainer.data.targets.mrc import MrcTarget
from palm_trainer.data.targets.multi_label import MultiLabelTarget
from palm_trainer.data.targets.sequence_label import SequenceLabelTarget
from palm_trainer.data.task_fields import accepts_value, resolve_fields
from palm_trainer.errors import ConfigError, DataError
from palm_trainer.evaluation.calibration import FALSE_REJECTION
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.model.encoders import LoadedEncoder, build_scratch, freeze_layers, freeze_unused_rows, load_pretrained
from palm_trainer.model.heads import make_head
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel, describe_encoder
from palm_trainer.training.assembly import attach_soft_targets, build_loop
from palm_trainer.training.loop import TrainingLoop
from palm_trainer.training.processes import SINGLE_PROCESS, Processes
from palm_trainer.training.regularization import WordDropout
from palm_trainer.training.source import Source


@dataclass(frozen=True)
class Training:
    """A run ready to start: the configuration with every field resolved, the model, the loop, what dev holds, and what the files had wrong.

    `guessing` is what dev holds of the masked_lm tasks, `teachers` the digests of their weights.
    """

    config: Config
    trained: TrainedModel
    loop: TrainingLoop
    dev: Sequence[EvaluationSet]
    guessing: Mapping[str, EncodedDataset]
    defects: Mapping[str, Sequence[Defect]]
    teachers: Sequence[str]


def build_training(config: Config, processes: Processes = SINGLE_PROCESS) -> Training:
    """Reads the data, loads the encoder, and wires a training. Raises ConfigError, DataError or PalmError; seeds torch's generator.

    Each of several processes builds the same, from the same files.
    """
    torch.manual_seed(config.train.seed)
    splits = {name: read_split(data, "train") for name, data in config.data.items()}
    config = resolve_fields(config, {name: split.examples for name, split in splits.items()})
    encoder = _load_encoder(config, [e for split in splits.values() for e in split.examples])
    targets = {
        name: _learn(name, task, [e for data in task.data for e in splits[data].examples], config, encoder)
        for name, task in config.tasks.items()
    }
    config = _with_match_labels(config, targets)
    trained = _assemble(config, encoder, targets)
    tokenizer = TextTokenizer(trained.tokenizer_json, trained.max_length)
    sources = {}
    for position, (name, split) in enumerate(splits.items()):
        own = {task: targets[task] for task, settings in config.tasks.items() if name in settings.data}
        dataset = EncodedDataset(
            split.examples,
            tokenizer,
            own,
            trained.model.input_names,
            encoder.pad_token_id,
            substitution=_substitution(config, name, split.examples),
        )
        sources[name] = Source(
            dataset, LengthBucketedSampler(dataset.lengths, config.train.batch_size, config.train.seed + position)
        )
    examples = {name: split.examples for name, split in splits.items()}
    teachers = attach_soft_targets(config.train, trained, sources, examples, processes.device(config.train.device))
    shares = config.train.regularization.word_dropout
    word_dropout = WordDropout.of(trained.tokenizer_json, shares) if shares else None
    freeze_layers(trained.model.backbone, blocks=config.train.freeze_layers, embeddings=config.train.freeze_embeddings)
    # masked_lm trains every row: as decoder, and drawn at random
    if not config.train.freeze_embeddings and not any(info.kind == "masked_lm" for info in trained.tasks.values()):
        stand_in = [] if word_dropout is None else [torch.tensor([word_dropout.stand_in])]
        used = torch.cat([*stand_in, *(source.dataset.piece_ids() for source in sources.values())]).unique()
        freeze_unused_rows(trained.model.backbone, used)
    dev = evaluation_sets(config, "dev")
    evaluation_sets(config, "test")  # what is wrong with it is said now, not after the training
    for kind in OUT_OF_SCOPE:
        out_of_scope_examples(config, kind)
    return Training(
        config,
        trained,
        build_loop(config, trained.model, sources, word_dropout, processes),
        dev,
        guessing_sets(config, trained, "dev"),
        {name: split.defects for name, split in splits.items()},
        teachers,
    )


def _substitution(config: Config, data: str, examples: Sequence[Example]) -> Substitution | None:
    """The change of values in a data set, where it is asked for: those of its first task with spans."""
    share = config.data[data].substitute
    tagging = [task for task in config.tasks.values() if data in task.data and task.kind == "sequence_label"]
    return Substitution(examples, tagging[0].field or "", share, config.train.seed) if share else None


def evaluation_sets(config: Config, split: str) -> list[EvaluationSet]:
    """The data sets that have this split, the reference first. The configuration's fields must be resolved. Raises DataError."""
    names = sorted(config.data, key=lambda name: name != config.reference)
    sets = []
    for name in names:
        if config.data[name].paths(split):
            fields = {
                task: settings.field or ""
                for task, settings in config.tasks.items()
                if name in settings.data and _is_scored(settings)
            }
            if not fields:
                continue
            examples = read_split(config.data[name], split).examples
            _check_kinds(config, fields, examples)
            for task, field in fields.items():
                if config.tasks[task].learning_strategy == "pairwise":
                    examples = with_negatives(examples, field)
            sets.append(EvaluationSet(name, examples, fields, {t: config.tasks[t].match_label or "" for t in fields}))
    return sets


def guessing_sets(config: Config, trained: TrainedModel, split: str) -> dict[str, EncodedDataset]:
    """By masked_lm task, its rows of this split, where it has any. Raises DataError."""
    tokenizer = TextTokenizer(trained.tokenizer_json, trained.max_length)
    found = {}
    for name, task in config.tasks.items():
        read = [config.data[data] for data in task.data if task.kind == "masked_lm" and config.data[data].paths(split)]
        examples = [example for data in read for example in read_split(data, split).examples]
        if examples:
            target = _guessing(name, task, trained.tokenizer_json, config.train.seed)
            found[name] = EncodedDataset(
                examples, tokenizer, {name: target}, trained.model.input_names, trained.encoder.pad_token_id
            )
    return found


def _guessing(name: str, task: TaskConfig, tokenizer_json: str, seed: int) -> MaskedLMTarget:
    vocabulary = MaskVocabulary.of(name, tokenizer_json)
    return MaskedLMTarget(name, vocabulary, share=task.mask_share, whole_word=task.whole_word, seed=seed)


def _check_kinds(config: Config, fields: Mapping[str, str], examples: Sequence[Example]) -> None:
    for task, field in fields.items():
        kind = config.tasks[task].kind
        for example in examples:
            if field in example.fields and not accepts_value(kind, example.fields[field]):
                wanted = {"sequence_label": "spans", "mrc": "spans of the passage", "multi_label": "classes"}.get(
                    kind, "one class"
                )
                raise DataError(
                    f"{example.source}: task '{task}' needs {wanted} in '{field}', not {example.fields[field]!r}. Mend the row."
                )


def task_kinds(config: Config) -> dict[str, str]:
    """Kind of each task that is evaluated."""
    return {name: task.kind for name, task in config.tasks.items() if _is_scored(task)}


def tuned_tasks(config: Config) -> list[str]:
    """Tasks whose limits are chosen on dev: those that the configuration leaves open."""
    limits = {name: (task.kind, task.threshold, task.null_threshold) for name, task in config.tasks.items()}
    return [name for name, own in limits.items() if own in (("multi_label", None, None), ("mrc", None, None))]


OUT_OF_SCOPE = {"dev": "out_of_scope", "test": "out_of_scope_test"}
"""Where text lies that belongs to no class, by the split that it is compared with."""


def out_of_scope_examples(config: Config, split: str) -> dict[str, list[Example]]:
    """Text that belongs to no class, by `classify` task, for dev or test; none for other splits. Raises DataError."""
    key = OUT_OF_SCOPE.get(split, "")
    held = {name: read_split(data, key).examples for name, data in config.data.items() if key and data.paths(key)}
    tasks = {name: task for name, task in config.tasks.items() if task.kind == "classify" and _is_scored(task)}
    found = {name: [e for data in task.data for e in held.get(data, ())] for name, task in tasks.items()}
    return {name: examples for name, examples in found.items() if examples}


def false_rejections(config: Config) -> dict[str, float]:
    """The share of dev that may be rejected, by `classify` task that must have a threshold."""
    asked = {name: task for name, task in config.tasks.items() if task.false_rejection or task.out_of_scope_score}
    return {name: task.false_rejection or FALSE_REJECTION for name, task in asked.items()}


def train_examples(config: Config, tasks: Iterable[str]) -> dict[str, list[Example]]:
    """What some tasks train on, by task."""
    return {
        name: [e for data in config.tasks[name].data for e in read_split(config.data[data], "train").examples]
        for name in tasks
    }


def _is_scored(task: TaskConfig) -> bool:
    """Auxiliary tasks only shape the encoder; so does masked_lm, whatever it is called."""
    return not task.auxiliary and task.kind != "masked_lm"


def _learn(name: str, task: TaskConfig, examples: Sequence[Example], config: Config, encoder: LoadedEncoder) -> Target:
    """What a task learns, with the labels that its training examples hold."""
    field = task.field or ""
    match task.kind:
        case "classify":
            return ClassifyTarget.learn(name, field, examples, role=task.role)
        case "multi_label":
            return MultiLabelTarget.learn(name, field, examples, role=task.role, threshold=task.threshold)
        case "sequence_label":
            return SequenceLabelTarget.learn(name, field, examples, role=task.role, crf=task.crf)
        case "match" if task.learning_strategy == "pairwise":
            return RankTarget.learn(name, field, examples)
        case "match":
            return MatchTarget.learn(name, field, examples, match_label=task.match_label)
        case "mrc":
            return MrcTarget.learn(
                name,
                field,
                examples,
                max_length=config.encoder.max_length,
                max_query_tokens=task.max_query_tokens,
                doc_stride_tokens=task.doc_stride_tokens,
                max_answer_tokens=task.max_answer_tokens,
                n_best=task.n_best,
                null_threshold=task.null_threshold or 0.0,
                tokenizer=TextTokenizer(encoder.tokenizer_json, config.encoder.max_length),
            )
    return _guessing(name, task, encoder.tokenizer_json, config.train.seed)


def _with_match_labels(config: Config, targets: Mapping[str, Target]) -> Config:
    """The configuration with the label of each match that was found."""
    tasks = {
        name: task.model_copy(update={"match_label": targets[name].info.decode.match_label or None})
        for name, task in config.tasks.items()
    }
    return config.model_copy(update={"tasks": tasks})


def _load_encoder(config: Config, examples: Sequence[Example]) -> LoadedEncoder:
    settings = config.encoder
    if settings.model == "scratch":
        texts = [text for e in examples for text in (e.text, e.pair) if text]
        return build_scratch(
            texts,
            layers=settings.layers,
            hidden_size=settings.hidden_size,
            heads=settings.heads,
            intermediate_size=settings.intermediate_size,
            vocab_size=settings.vocab_size,
            dropout=settings.dropout,
            convolutions=settings.convolutions,
            lowercase=settings.lowercase,
            characters=settings.characters,
            max_length=settings.max_length,
            pooling=settings.pooling,
        )
    encoder = load_pretrained(settings.model, pooling=settings.pooling)
    limit = encoder.backbone.max_length
    if limit is not None and settings.max_length > limit:
        raise ConfigError(
            f"encoder.max_length: {settings.max_length} tokens, but '{settings.model}' has positions for {limit}. Choose {limit} or less."
        )
    return encoder


def _assemble(config: Config, encoder: LoadedEncoder, targets: Mapping[str, Target]) -> TrainedModel:
    hidden = encoder.backbone.hidden_size
    rows, columns = encoder.backbone.embedding_table.shape
    heads = {
        name: make_head(
            name,
            target.info,
            hidden,
            dropout=config.tasks[name].dropout,
            label_smoothing=config.train.regularization.label_smoothing,
            margin=config.tasks[name].margin,
            embedding=(rows, columns),
        )
        for name, target in targets.items()
    }
    model = MultiTaskModel(encoder.backbone, heads)
    info = describe_encoder(encoder.backbone, encoder.name, encoder.pad_token_id)
    auxiliary = frozenset(name for name, task in config.tasks.items() if not _is_scored(task))
    infos = {name: target.info for name, target in targets.items()}
    return TrainedModel(
        model, bare_tokenizer_json(encoder.tokenizer_json), config.encoder.max_length, infos, info, auxiliary
    )
