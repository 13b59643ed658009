"""Predictor of a comparison: a tokenizer, an engine and decoders.

One predictor is the trained model in PyTorch. The others are a bundle on an execution provider.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding import DecoderTable, Item, rows_of
from palm_serve.engine.padding import pad_batch
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding, Engine, FloatArray, InputTexts, RowLayout, TaskAnswer

Outputs = Mapping[str, FloatArray]


class HasTexts(Protocol):
    """An input: a text, with its pair or its context."""

    @property
    def inputs(self) -> InputTexts:
        """The texts."""
        ...


@dataclass(frozen=True)
class EnginePredictor:
    """Predictor on an engine.

    Args:
        engine: runs the graph.
        tokenizer: tokenizer of the model.
        tasks: tasks to answer, by name.
        decoders: decoders of these tasks.
        inputs: names of the graph's inputs.
        pad_id: id of the padding token.
        token_outputs: names of the outputs with an axis for the tokens.
    """

    engine: Engine
    tokenizer: TextTokenizer
    tasks: Mapping[str, TaskInfo]
    decoders: DecoderTable
    inputs: tuple[str, ...]
    pad_id: int
    token_outputs: frozenset[str]

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, engine: Engine, tokenizer: TextTokenizer, token_outputs: Collection[str]
    ) -> "EnginePredictor":
        """Create a predictor from a bundle, as a server does.

        Args:
            bundle: the bundle.
            engine: runs one of its graphs.
            tokenizer: its tokenizer.
            token_outputs: names of the outputs with an axis for the tokens.
        """
        manifest = bundle.manifest
        decoders = DecoderTable.of(manifest.tasks, bundle.arrays)
        pad_id = manifest.encoder.pad_token_id
        return cls(engine, tokenizer, manifest.tasks, decoders, manifest.input_names, pad_id, frozenset(token_outputs))

    def pair_values(self, tasks: Sequence[str]) -> set[bool]:
        """Return True for tasks that read pairs, False for tasks that read single texts, or both."""
        pairs = set()
        for task in tasks:
            pairs.add(self.tasks[task].pairs)
        return pairs

    def tasks_by_layout(self) -> dict[RowLayout, tuple[str, ...]]:
        """Group the tasks by how they read their inputs."""
        groups: dict[RowLayout, tuple[str, ...]] = {}
        for task, info in self.tasks.items():
            groups[info.layout] = (*groups.get(info.layout, ()), task)
        return groups

    def tokenize(self, examples: Sequence[HasTexts], layout: RowLayout) -> list[Item]:
        """Tokenize the texts of examples, as tasks with this layout read them."""
        inputs = [example.inputs for example in examples]
        items = []
        for texts, rows in zip(inputs, self.tokenizer.encode_rows(inputs, layout), strict=True):
            items.append(Item(texts.text, rows[0], texts.pair, more=tuple(rows[1:])))
        return items

    def run(self, encodings: Sequence[Encoding], length: int = 0) -> Outputs:
        """Run one batch, padded to its longest row or to `length` tokens.

        The outputs have this shape, also if the engine computes in a larger one.
        """
        rows = len(encodings)
        length = max(length, *map(len, encodings))
        engine_rows, engine_length = self.engine.shape(rows, length)
        engine_length = min(engine_length, self.tokenizer.max_length)
        batch = pad_batch(encodings, self.inputs, self.pad_id, engine_length, engine_rows)
        outputs = {}
        for name, values in self.engine.run(batch).items():
            outputs[name] = values[:rows, :length] if name in self.token_outputs else values[:rows]
        return outputs

    def decode(self, outputs: Outputs, items: Sequence[Item], tasks: Sequence[str]) -> list[dict[str, TaskAnswer]]:
        """Decode the answers of each item by task. A task answers the items that it reads: texts, or pairs.

        Args:
            outputs: outputs of a batch.
            items: inputs of the batch.
            tasks: tasks to decode.
        """
        answers: list[dict[str, TaskAnswer]] = [{} for _ in items]
        for task in tasks:
            info = self.tasks[task]
            indices = []
            for index, item in enumerate(items):
                if (item.pair is not None) == info.pairs:
                    indices.append(index)
            if not indices:
                continue
            rows = rows_of(items, indices)
            task_outputs = {}
            for name in self.decoders.outputs[task]:
                task_outputs[name] = outputs[name][rows]
            task_items = [items[index] for index in indices]
            task_answers = self.decoders.by_task[task](task_outputs, task_items)
            for index, answer in zip(indices, task_answers, strict=True):
                answers[index][task] = answer
        return answers
