"""One way to answer: a tokenizer, an engine and decoders. The trained model is one side of the parity gate, the bundle on a provider the other."""

import hashlib
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
_REMEMBERED_BYTES = 2**28


class TorchEngine:
    """The trained model in PyTorch, fp32: what every variant is compared with."""

    def __init__(self, graph: ExportGraph) -> None:
        self.info = EngineInfo("PyTorch", "fp32", "")
        self._graph = graph

    @torch.no_grad()
    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Graph outputs by name, float32; `outputs` selects some (None: all)."""
        values = self._graph(*(torch.from_numpy(batch.arrays[name]) for name in self._graph.input_names))
        found = {name: value.numpy() for name, value in zip(self._graph.output_names, values, strict=True)}
        return found if outputs is None else {name: found[name] for name in outputs}

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        """As given."""
        return rows, length


class RememberingEngine:
    """Gives again what it gave for the same batch, so that what is asked of the trained model once a graph is computed once."""

    def __init__(self, engine: Engine) -> None:
        self.info = engine.info
        self._engine = engine
        self._known: dict[bytes, dict[str, FloatArray]] = {}
        self._room = _REMEMBERED_BYTES

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """As the engine within; all outputs are computed."""
        digest = hashlib.sha256()
        for name, array in sorted(batch.arrays.items()):
            digest.update(f"{name}{array.shape}".encode())
            digest.update(array.tobytes())
        found = self._known.get(digest.digest())
        if found is None:
            found = self._engine.run(batch)
            self._room -= sum(value.nbytes for value in found.values())
            if self._room >= 0:
                self._known[digest.digest()] = found
        return dict(found) if outputs is None else {name: found[name] for name in outputs}

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        """As the engine within."""
        return self._engine.shape(rows, length)


@dataclass(frozen=True)
class Side:
    """Answers examples. `inputs` are those of the graph, `max_length` and `pad_id` those of the model."""

    engine: Engine
    tokenizer: TextTokenizer
    tasks: Mapping[str, TaskInfo]
    decoders: DecoderTable
    inputs: tuple[str, ...]
    pad_id: int

    @classmethod
    def trained(cls, trained: TrainedModel, graph: ExportGraph) -> "Side":
        """The checkpoint itself."""
        tasks = {task: trained.tasks[task] for task in graph.tasks}
        tokenizer = TextTokenizer(trained.tokenizer_json, trained.max_length)
        decoders = DecoderTable.of(tasks, trained.arrays)
        return cls(TorchEngine(graph), tokenizer, tasks, decoders, graph.input_names, trained.encoder.pad_token_id)

    @classmethod
    def bundled(cls, bundle: Bundle, engine: Engine) -> "Side":
        """The bundle as a server reads it."""
        manifest = bundle.manifest
        tokenizer = TextTokenizer(bundle.tokenizer_json, manifest.max_length)
        decoders = DecoderTable.of(manifest.tasks, bundle.arrays)
        inputs = tuple(tensor.name for tensor in manifest.inputs)
        return cls(engine, tokenizer, manifest.tasks, decoders, inputs, manifest.encoder.pad_token_id)

    def readings(self) -> dict[Windows | None, tuple[str, ...]]:
        """Tasks by the windows that they read passages in (None: each input as one row)."""
        found: dict[Windows | None, tuple[str, ...]] = {}
        for task, info in self.tasks.items():
            found[info.windows] = (*found.get(info.windows, ()), task)
        return found

    def items(self, examples: Sequence[Example], windows: Windows | None = None) -> list[Item]:
        """Tokenizes texts, or texts with their pairs."""
        rows = self.tokenizer.encode_rows([(example.text, example.pair) for example in examples], windows)
        return [Item(e.text, first, e.pair, more=tuple(more)) for e, (first, *more) in zip(examples, rows, strict=True)]

    def run(self, encodings: Sequence[Encoding], length: int = 0) -> Outputs:
        """Outputs of one batch padded to its longest row or to `length` tokens, whatever shape the engine computes in."""
        rows, length = len(encodings), max(length, *map(len, encodings))
        run_rows, run_length = self.engine.shape(rows, length)
        run_length = min(run_length, self.tokenizer.max_length)
        batch = pad_batch(encodings, self.inputs, self.pad_id, run_length, run_rows)
        values = self.engine.run(batch)
        return {n: v[:rows, :length] if n in self.by_token else v[:rows] for n, v in values.items()}

    @property
    def by_token(self) -> set[str]:
        """Outputs with an axis for the tokens."""
        return {name for info in self.tasks.values() if task_kind(info.kind).answers_tokens for name in info.outputs}

    def decode(self, outputs: Outputs, items: Sequence[Item], tasks: Sequence[str]) -> list[dict[str, TaskAnswer]]:
        """Answers by task, one dict an item; a task answers only what it reads (a text, or a text and its pair)."""
        answers: list[dict[str, TaskAnswer]] = [{} for _ in items]
        for task in tasks:
            info = self.tasks[task]
            chosen = [i for i, item in enumerate(items) if (item.pair is not None) == info.pairs]
            if not chosen:
                continue
            rows = rows_of(items, chosen)
            mine = {name: outputs[name][rows] for name in info.outputs}
            for i, answer in zip(chosen, self.decoders.by_task[task](mine, [items[i] for i in chosen]), strict=True):
                answers[i][task] = answer
        return answers
