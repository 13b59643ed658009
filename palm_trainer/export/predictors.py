"""Predictors of the parity check: the trained model in PyTorch, and the bundle on an execution provider."""

from collections.abc import Mapping, Sequence

import torch

from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding import DecoderTable
from palm_serve.proof.predictor import EnginePredictor
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Engine, EngineInfo, FloatArray, PaddedBatch
from palm_trainer.export.graph import ExportGraph
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tasks import task_kind


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


def trained_predictor(trained: TrainedModel, graph: ExportGraph) -> EnginePredictor:
    """Create a predictor from the trained model, for the tasks of `graph`."""
    tasks = {task: trained.tasks[task] for task in graph.tasks}
    return EnginePredictor(
        engine=TorchEngine(graph),
        tokenizer=TextTokenizer(trained.tokenizer_json, trained.max_length),
        tasks=tasks,
        decoders=DecoderTable.of(tasks, trained.arrays),
        inputs=graph.input_names,
        pad_id=trained.encoder.pad_token_id,
        token_outputs=find_token_outputs(tasks),
    )


def bundle_predictor(bundle: Bundle, engine: Engine) -> EnginePredictor:
    """Create a predictor from a bundle and an engine that runs one of its graphs."""
    tokenizer = TextTokenizer(bundle.tokenizer_json, bundle.manifest.max_length)
    return EnginePredictor.from_bundle(bundle, engine, tokenizer, find_token_outputs(bundle.manifest.tasks))


def find_token_outputs(tasks: Mapping[str, TaskInfo]) -> frozenset[str]:
    """Return the names of the outputs with an axis for the tokens."""
    names: set[str] = set()
    for info in tasks.values():
        if task_kind(info.kind).answers_tokens:
            names.update(info.outputs)
    return frozenset(names)
