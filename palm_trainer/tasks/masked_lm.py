"""Task kind: masked language modelling, which shapes the encoder with plain text and answers nothing."""

from collections.abc import Mapping, Sequence

from palm_trainer.config.schema import MaskedLmTask, TaskConfig
from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.targets.masked_lm import MaskedLMTarget, MaskVocabulary
from palm_trainer.tasks.base import LearnContext, TaskKind


class MaskedLmKind(TaskKind):
    """Guessing masked tokens. It is measured by its perplexity."""

    name = "masked_lm"
    section = MaskedLmTask
    is_answered = False
    trains_every_embedding = True
    """The embedding table is the decoder, and random tokens stand in for masked ones."""

    def fits(self, value: FieldValue) -> bool:
        """Return False: the text itself is learned."""
        return False

    def fitting_fields(self, fields: Mapping[str, FieldValue], settings: TaskConfig) -> list[str]:
        """Return no field."""
        return []

    def learn(
        self, task: str, settings: TaskConfig, examples: Sequence[Example], context: LearnContext
    ) -> MaskedLMTarget:
        """Build the target, which needs no examples.

        Args:
            task: task name.
            settings: `mask_share` and `whole_word` say what is masked.
            examples: not used: any text will do.
            context: the tokenizer's pieces and the seed of the masks.
        """
        assert isinstance(settings, MaskedLmTask)
        vocabulary = MaskVocabulary.of(task, context.tokenizer_json)
        return MaskedLMTarget(
            task,
            vocabulary,
            share=settings.mask_share,
            whole_word=settings.whole_word,
            seed=context.seed,
        )

    def has_labels(self, settings: TaskConfig) -> bool:
        """Return False: the text itself is learned."""
        return False
