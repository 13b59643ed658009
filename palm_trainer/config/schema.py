"""The sections of a configuration, and the unions of those that depend on a kind, a format or an encoder."""

from palm_trainer.config.data_sets import DATA_FORMATS, FORMAT_OPTIONS, DataConfig, data_config
from palm_trainer.config.encoder import ENCODERS, EncoderConfig, PretrainedEncoderConfig, ScratchEncoderConfig
from palm_trainer.config.section import ConfigSection, SectionUnion, Table, inner_section, key_paths
from palm_trainer.config.tasks import (
    TASK_KINDS,
    ClassifyTask,
    MaskedLmTask,
    MatchTask,
    MrcTask,
    MultiLabelTask,
    SequenceLabelTask,
    TaskConfig,
)
from palm_trainer.config.train import (
    GRADIENT_METHODS,
    WHOLE_BATCH,
    BalancingConfig,
    BalancingMethod,
    CheckpointsConfig,
    DistillationConfig,
    MixingPolicy,
    RegularizationConfig,
    StudentConfig,
    Tracker,
    TrainConfig,
)

__all__ = [
    "DATA_FORMATS",
    "ENCODERS",
    "FORMAT_OPTIONS",
    "GRADIENT_METHODS",
    "SECTIONS",
    "TASK_KINDS",
    "WHOLE_BATCH",
    "BalancingConfig",
    "BalancingMethod",
    "CheckpointsConfig",
    "ClassifyTask",
    "ConfigSection",
    "DataConfig",
    "DistillationConfig",
    "EncoderConfig",
    "MaskedLmTask",
    "MatchTask",
    "MixingPolicy",
    "MrcTask",
    "MultiLabelTask",
    "PretrainedEncoderConfig",
    "RegularizationConfig",
    "ScratchEncoderConfig",
    "SectionUnion",
    "SequenceLabelTask",
    "StudentConfig",
    "Table",
    "TaskConfig",
    "Tracker",
    "TrainConfig",
    "data_config",
    "inner_section",
    "key_paths",
]

SECTIONS = ("encoder", "data", "tasks", "train")
"""Names of the sections, in the order of the file."""
