"""Reference of the parity check: outputs and answers of the trained model, computed once for all variants."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from palm_serve.decoding import Item
from palm_serve.proof.predictor import EnginePredictor, Outputs
from palm_serve.proof.shapes import random_encodings, stratified_shapes
from palm_serve.types import Encoding, RowLayout, TaskAnswer
from palm_trainer.data.example import Example

_BATCH_EXAMPLES = 32
_BATCH_PASSAGES = 8
"""Examples in a batch if they have passages, each of which has several rows."""
_STORED_BYTES = 2**28
"""Outputs that are stored. Those beyond are computed for each comparison."""


@dataclass(frozen=True)
class ReferenceBatch:
    """A batch of examples of similar length. `indices` are their positions among all examples."""

    layout: RowLayout
    tasks: tuple[str, ...]
    indices: tuple[int, ...]
    examples: tuple[Example, ...]
    rows: tuple[Encoding, ...]
    row_names: tuple[str, ...]
    """Text of each row, for messages."""
    outputs: Outputs | None
    """Outputs of the trained model. None if they were too large to be stored."""


@dataclass(frozen=True)
class ShapeBatch:
    """Random ids, padded to `length` tokens, with the outputs of the trained model."""

    rows: tuple[Encoding, ...]
    length: int
    outputs: Outputs

    @property
    def row_names(self) -> list[str]:
        """Return a description of each row, for messages."""
        return [f"random ids in shape [{len(self.rows)}, {self.length}]"] * len(self.rows)


@dataclass(frozen=True)
class Reference:
    """Answers of the trained model to all examples, and the batches that they were computed in."""

    predictor: EnginePredictor
    examples: Sequence[Example]
    answers: Sequence[dict[str, TaskAnswer]]
    batches: Sequence[ReferenceBatch]
    vocab_size: int
    _shapes: dict[int, list[ShapeBatch]] = field(default_factory=dict, repr=False)

    @property
    def answer_count(self) -> int:
        """Return the number of answers to all examples."""
        return sum(map(len, self.answers))

    def random_shapes(self, count: int) -> Sequence[ShapeBatch]:
        """Return random ids in `count` shapes with the outputs of the trained model, which runs at the first call only."""
        if count not in self._shapes:
            self._shapes[count] = list(run_shapes(self.predictor, self.vocab_size, count))
        return self._shapes[count]

    def outputs(self, batch: ReferenceBatch) -> Outputs:
        """Return the outputs of the trained model for a batch."""
        return self.predictor.run(batch.rows) if batch.outputs is None else batch.outputs


def run_reference(predictor: EnginePredictor, examples: Sequence[Example], vocab_size: int) -> Reference:
    """Run the trained model on all examples. Examples of similar length share a batch.

    Args:
        predictor: the trained model.
        examples: dev examples.
        vocab_size: number of token ids.
    """
    answers: list[dict[str, TaskAnswer]] = [{} for _ in examples]
    batches = []
    free_bytes = _STORED_BYTES
    order = sorted(range(len(examples)), key=lambda index: examples[index].inputs.characters)
    for layout, tasks in predictor.tasks_by_layout().items():
        pairs = predictor.pair_values(tasks)
        readable = []
        for index in order:
            has_pair = examples[index].pair is not None
            if has_pair in pairs:
                readable.append(index)
        batch_size = _BATCH_EXAMPLES if layout.windows is None else _BATCH_PASSAGES
        for begin in range(0, len(readable), batch_size):
            indices = tuple(readable[begin : begin + batch_size])
            batch_examples = tuple(examples[index] for index in indices)
            items = predictor.tokenize(batch_examples, layout)
            rows = collect_rows(items)
            row_names = []
            for item in items:
                row_names += [quote_item(item)] * len(item.rows)
            outputs = predictor.run(rows)
            batch_answers = predictor.decode(outputs, items, tasks)
            for index, example_answers in zip(indices, batch_answers, strict=True):
                answers[index].update(example_answers)
            for values in outputs.values():
                free_bytes -= values.nbytes
            batches.append(
                ReferenceBatch(
                    layout=layout,
                    tasks=tasks,
                    indices=indices,
                    examples=batch_examples,
                    rows=tuple(rows),
                    row_names=tuple(row_names),
                    outputs=outputs if free_bytes >= 0 else None,
                )
            )
    return Reference(predictor, examples, answers, batches, vocab_size)


def run_shapes(predictor: EnginePredictor, vocab_size: int, count: int, seed: int = 0) -> Iterator[ShapeBatch]:
    """Run the trained model on random ids in `count` shapes, each row with random padding.

    Args:
        predictor: the trained model.
        vocab_size: number of token ids.
        count: number of shapes.
        seed: seed of ids and shapes.
    """
    generator = np.random.default_rng(seed)
    for rows, length in stratified_shapes(generator, predictor.tokenizer.max_length, count):
        encodings = tuple(random_encodings(generator, rows, length, vocab_size))
        yield ShapeBatch(encodings, length, predictor.run(encodings, length))


def collect_rows(items: Sequence[Item]) -> list[Encoding]:
    """Return the rows of all items."""
    rows: list[Encoding] = []
    for item in items:
        rows += item.rows
    return rows


def quote_item(item: Item) -> str:
    """Quote the text of an item, and its pair, for a message."""
    return f"'{item.text}'" if item.pair is None else f"'{item.text}' with '{item.pair}'"
