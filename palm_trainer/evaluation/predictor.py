"""Answers of a trained model in PyTorch, with the server's tokenization and decoding."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from palm_serve.bundle.manifest import with_given
from palm_serve.decoding import DecoderTable, Item
from palm_serve.engine.padding import pad_batch
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding, FloatArray, RowLayout, TaskAnswer
from palm_trainer.data.example import Example
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tasks import task_kind

_BATCH_TOKENS = 8192
"""Padded tokens of a batch, where it holds more than one example: 64 texts of 128."""


class Predictor:
    """Answers of a trained model in PyTorch, fp32, no dropout.

    Args:
        trained: the model with its tasks.
        batch_size: rows in a batch, where it holds more than one example; examples are sorted by length first.
        top_k: labels in a ranking; 0 for all.
    """

    def __init__(self, trained: TrainedModel, *, batch_size: int = 64, top_k: int = 3) -> None:
        self._trained = trained
        self._tokenizer = TextTokenizer(trained.tokenizer_json, trained.max_length)
        self._batch_size = batch_size
        self._top_k = top_k

    def answers(self, examples: Sequence[Example], tasks: Sequence[str] | None = None) -> list[dict[str, TaskAnswer]]:
        """Return answers by task name, one dict per example, in the order given.

        Where no `tasks` are named, each answers the examples that it reads: single texts, or pairs.
        """
        infos = {}
        for name, info in self._trained.tasks.items():
            if (tasks is None or name in tasks) and task_kind(info.kind).is_answered:
                infos[name] = info
        decoders = DecoderTable.of(self._trained.tasks, self._trained.arrays, infos)
        answers: list[dict[str, TaskAnswer]] = [{} for _ in examples]
        names_by_input: dict[tuple[RowLayout, bool], list[str]] = {}
        for name, info in infos.items():
            names_by_input.setdefault((info.layout, info.pairs), []).append(name)
        for (layout, pairs), names in names_by_input.items():
            strict = tasks is None or layout.windows is not None
            positions = []
            for position, example in enumerate(examples):
                if not strict or (example.pair is not None) == pairs:
                    positions.append(position)
            answered = self._answer([examples[position] for position in positions], names, layout, decoders)
            for i, example_answers in answered:
                answers[positions[i]].update(example_answers)
        return answers

    def _answer(
        self, examples: Sequence[Example], tasks: Sequence[str], layout: RowLayout, decoders: DecoderTable
    ) -> Iterator[tuple[int, dict[str, TaskAnswer]]]:
        """Yield the position of each example with its answers, for tasks that read alike."""
        for positions, items, outputs in self.outputs(examples, tasks, layout):
            answers_by_task = [decoders.by_task[task](outputs, items) for task in tasks]
            for i, answers in zip(positions, zip(*answers_by_task, strict=True), strict=True):
                yield i, dict(zip(tasks, answers, strict=True))

    def outputs(
        self, examples: Sequence[Example], tasks: Sequence[str], layout: RowLayout
    ) -> Iterator[tuple[list[int], list[Item], Mapping[str, FloatArray]]]:
        """Yield positions of examples, their items for decoding, and the model's outputs, batch by batch.

        Args:
            examples: texts, or texts with their pairs or contexts.
            tasks: that read alike. The outputs hold also those of the tasks that they are decoded given.
            layout: how they read the texts.
        """
        rows = self._tokenizer.encode_rows([example.inputs for example in examples], layout)
        computed_tasks = with_given(tasks, self._trained.tasks)
        for positions in self._batches(rows):
            items = []
            encodings: list[Encoding] = []
            for i in positions:
                item = Item(examples[i].text, rows[i][0], examples[i].pair, self._top_k, rows[i][1:])
                items.append(item)
                encodings += item.rows
            yield positions, items, self._run(encodings, computed_tasks)

    def _batches(self, rows: Sequence[Sequence[Encoding]]) -> Iterator[list[int]]:
        """Yield positions of examples that run together: of similar length, as many as fit."""
        batch: list[int] = []
        size = 0
        lengths = [max(map(len, encodings)) for encodings in rows]
        for i in np.argsort(lengths, kind="stable").tolist():
            size += len(rows[i])
            if batch and (size > self._batch_size or size * max(map(len, rows[i])) > _BATCH_TOKENS):
                yield batch
                batch, size = [], len(rows[i])
            batch.append(i)
        if batch:
            yield batch

    @torch.no_grad()
    def _run(self, encodings: Sequence[Encoding], tasks: Sequence[str]) -> Mapping[str, FloatArray]:
        model = self._trained.model.eval()
        device = next(model.parameters()).device
        batch = pad_batch(encodings, model.input_names, self._trained.encoder.pad_token_id)
        inputs = {name: torch.from_numpy(array).to(device) for name, array in batch.arrays.items()}
        return {name: value.float().cpu().numpy() for name, value in model(**inputs, tasks=tasks).items()}
