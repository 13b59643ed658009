"""Predictors of the parity check: a tokenizer, an engine and decoders.

One predictor is the trained model in PyTorch. The others are the bundle on an execution provider.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding import DecoderTable, Item, rows_of
from palm_serve.engine.padding import pad_batch
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding, Engine, EngineInfo, FloatArray, PaddedBatch, TaskAnswer, Windows
from palm_trainer.data.example import Example
from palm_trainer.export.graph import ExportGraph
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tasks import task_kind

Outputs = Mapping[str, FloatArray]


class TorchEngine:
    """The trained model in PyTorch, fp32: the reference of every variant."""

    def __init__(self, graph: ExportGraph) -> None:
        self.info = EngineInfo("PyTorch", "fp32", "")
        self._graph = graph

    @torch.no_grad()
    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Return graph outputs by name, float32. `outputs` selects some of them."""
        inputs = [torch.from_numpy(batch.arrays[name]) for name in self._graph.input_names]
        tensors = dict(zip(self._graph.output_names, self._graph(*inputs), strict=True))
        names = self._graph.output_names if outputs is None else outputs
        return {name: tensors[name].numpy() for name in names}

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        """Return the shape unchanged."""
        return rows, length


@dataclass(frozen=True)
class EnginePredictor:
    """Predictor on an engine. `inputs` are those of the graph, `pad_id` is that of the model."""

    engine: Engine
    tokenizer: TextTokenizer
    tasks: Mapping[str, TaskInfo]
    decoders: DecoderTable
    inputs: tuple[str, ...]
    pad_id: int

    @classmethod
    def from_trained(cls, trained: TrainedModel, graph: ExportGraph) -> "EnginePredictor":
        """Create a predictor from the trained model."""
        tasks = {task: trained.tasks[task] for task in graph.tasks}
        tokenizer = TextTokenizer(trained.tokenizer_json, trained.max_length)
        decoders = DecoderTable.of(tasks, trained.arrays)
        return cls(TorchEngine(graph), tokenizer, tasks, decoders, graph.input_names, trained.encoder.pad_token_id)

    @classmethod
    def from_bundle(cls, bundle: Bundle, engine: Engine) -> "EnginePredictor":
        """Create a predictor from a bundle, as a server does."""
        manifest = bundle.manifest
        tokenizer = TextTokenizer(bundle.tokenizer_json, manifest.max_length)
        decoders = DecoderTable.of(manifest.tasks, bundle.arrays)
        inputs = tuple(tensor.name for tensor in manifest.inputs)
        return cls(engine, tokenizer, manifest.tasks, decoders, inputs, manifest.encoder.pad_token_id)

    def pair_values(self, tasks: Sequence[str]) -> set[bool]:
        """Return True for tasks that read pairs, False for tasks that read single texts, or both."""
        pairs = set()
        for task in tasks:
            pairs.add(self.tasks[task].pairs)
        return pairs

    @property
    def token_outputs(self) -> set[str]:
        """Return the names of the outputs with an axis for the tokens."""
        names: set[str] = set()
        for info in self.tasks.values():
            if task_kind(info.kind).answers_tokens:
                names.update(info.outputs)
        return names

    def tasks_by_windows(self) -> dict[Windows | None, tuple[str, ...]]:
        """Group the tasks by the windows that they read passages in. None: each input is one row."""
        groups: dict[Windows | None, tuple[str, ...]] = {}
        for task, info in self.tasks.items():
            groups[info.windows] = (*groups.get(info.windows, ()), task)
        return groups

    def tokenize(self, examples: Sequence[Example], windows: Windows | None = None) -> list[Item]:
        """Tokenize texts, with their pairs where they have one."""
        texts = [(example.text, example.pair) for example in examples]
        items = []
        for example, rows in zip(examples, self.tokenizer.encode_rows(texts, windows), strict=True):
            items.append(Item(example.text, rows[0], example.pair, more=tuple(rows[1:])))
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
