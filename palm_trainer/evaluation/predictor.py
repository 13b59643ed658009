"""Answers of a trained model in PyTorch, with the server's tokenization and decoding."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from palm_serve.decoding import DecoderTable, Item
from palm_serve.engine.padding import pad_batch
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding, FloatArray, TaskAnswer, Windows
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
        """Answers by task name, one dict an example, in the order given.

        Where no `tasks` are named, each answers the examples that it reads: single texts, or pairs.
        """
        known = self._trained.tasks
        chosen = {
            t: info for t, info in known.items() if (tasks is None or t in tasks) and task_kind(info.kind).is_answered
        }
        decoders = DecoderTable.of(chosen, self._trained.arrays)
        found: list[dict[str, TaskAnswer]] = [{} for _ in examples]
        for windows, pairs in dict.fromkeys((info.windows, info.pairs) for info in chosen.values()):
            alike = [t for t, info in chosen.items() if (info.windows, info.pairs) == (windows, pairs)]
            strict = tasks is None or windows is not None
            read = [i for i, e in enumerate(examples) if not strict or (e.pair is not None) == pairs]
            for i, answers in self._answer([examples[i] for i in read], alike, windows, decoders):
                found[read[i]].update(answers)
        return found

    def _answer(
        self, examples: Sequence[Example], tasks: Sequence[str], windows: Windows | None, decoders: DecoderTable
    ) -> Iterator[tuple[int, dict[str, TaskAnswer]]]:
        """Position of each example with its answers, for tasks that read alike."""
        for chosen, items, outputs in self.outputs(examples, tasks, windows):
            answers = [decoders.by_task[task](outputs, items) for task in tasks]
            for i, own in zip(chosen, zip(*answers, strict=True), strict=True):
                yield i, dict(zip(tasks, own, strict=True))

    def outputs(
        self, examples: Sequence[Example], tasks: Sequence[str], windows: Windows | None = None
    ) -> Iterator[tuple[list[int], list[Item], Mapping[str, FloatArray]]]:
        """Batch by batch, for tasks that read alike: positions of the examples, what decoding takes of them, and the model's outputs."""
        rows = self._tokenizer.encode_rows([(e.text, e.pair) for e in examples], windows)
        for chosen in self._batches(rows):
            items = [Item(examples[i].text, rows[i][0], examples[i].pair, self._top_k, rows[i][1:]) for i in chosen]
            yield chosen, items, self._run([row for item in items for row in item.rows], tasks)

    def _batches(self, rows: Sequence[Sequence[Encoding]]) -> Iterator[list[int]]:
        """Positions of examples that run together: of similar length, as many as fit."""
        batch: list[int] = []
        size = 0
        for i in np.argsort([max(map(len, own)) for own in rows], kind="stable").tolist():
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
