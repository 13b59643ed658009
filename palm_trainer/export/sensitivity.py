"""Which products of a graph int8 hurts: the error of the logits when one product alone is quantized, over training texts.

One graph with a switch per product serves for all of them, so that a product costs one run of the sample and no session of its own. Dev is not
looked at: it judges what comes out of this.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from palm_serve.engine.options import CPU
from palm_serve.engine.padding import pad_batch
from palm_serve.engine.session import open_engine
from palm_serve.types import Encoding, Engine, FloatArray, PaddedBatch
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.predictors import Side
from palm_trainer.export.quantize import append_constants, products, quantized_product, replace_nodes

REMAINING = (0.5, 0.25, 0.1)
"""How much of the summed error each try leaves."""
_SWITCH = "palm.switch"
_ROWS, _TOKENS, _BATCH = 64, 1024, 16
"""Rows and tokens of a sample, at most; rows of a batch."""
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Sample:
    """A batch of training texts. `outputs` are those of the tasks that read such texts."""

    rows: tuple[Encoding, ...]
    batch: PaddedBatch
    outputs: tuple[str, ...]


def draw_samples(side: Side, sets: Sequence[EvaluationSet], seed: int = 0) -> list[Sample]:
    """Some examples for each way in which the tasks of `side` read, as batches of similar lengths."""
    generator = np.random.default_rng(seed)
    examples = [example for one in sets for example in one.examples]
    found = []
    for windows, tasks in side.readings().items():
        for pairs in sorted({side.tasks[task].pairs for task in tasks}):
            pool = [example for example in examples if (example.pair is not None) == pairs]
            chosen = [pool[i] for i in generator.permutation(len(pool))[:_ROWS]]
            outputs = tuple(n for task in tasks if side.tasks[task].pairs == pairs for n in side.tasks[task].outputs)
            rows = sorted(_first(row for item in side.items(chosen, windows) for row in item.rows), key=len)
            for begin in range(0, len(rows), _BATCH):
                some = tuple(rows[begin : begin + _BATCH])
                found.append(Sample(some, pad_batch(some, side.inputs, side.pad_id), outputs))
    return found


def sensitivities(plain: ModelProto, samples: Sequence[Sample], by_token: set[str]) -> dict[str, float]:
    """Products by name -> squared error of the logits over their variance, summed over outputs, when that product alone is in int8.

    `by_token` names the outputs with an axis for the tokens, of which padding is not looked at.
    """
    model, names = _switched(plain)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "switched.onnx"
        path.write_bytes(model.SerializeToString())
        engine = open_engine(path, CPU, "fp32")
        switches = np.eye(len(names), dtype=np.int64)
        exact = [_run(engine, sample, np.zeros_like(switches[0])) for sample in samples]
        runs = ([_run(engine, sample, switch) for sample in samples] for switch in switches)
        return {name: _error(samples, exact, found, by_token) for name, found in zip(names, runs, strict=True)}


def choices(errors: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    """Ever more products to leave in float, the worst first, until the others together make `REMAINING` of the error."""
    order = sorted(errors, key=lambda name: -errors[name])
    left = [sum(errors[name] for name in order[count:]) for count in range(len(order) + 1)]
    before = 0
    for share in REMAINING:
        count = next(i for i, rest in enumerate(left) if rest <= share * left[0])
        if before < count < len(order):
            yield tuple(order[:count])
            before = count


def _first(rows: Iterator[Encoding]) -> Iterator[Encoding]:
    """As many as a sample holds, at least one."""
    tokens = 0
    for count, row in enumerate(rows):
        tokens += len(row)
        if count == _ROWS or (count and tokens > _TOKENS):
            return
        yield row


def _switched(plain: ModelProto) -> tuple[ModelProto, list[str]]:
    """A copy with the input `palm.switch`, int64 [products]: 1 computes that product as int8 does. And the products' names."""
    names = products(plain)
    model = ModelProto()
    model.CopyFrom(plain)
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in plain.graph.initializer}
    nodes: list[NodeProto] = []
    for node in plain.graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        position, chosen = f"{node.name}.position", f"{node.name}.chosen"
        graph.initializer.append(numpy_helper.from_array(np.array(names.index(node.name)), position))
        nodes.append(helper.make_node("Gather", [_SWITCH, position], [f"{chosen}.int"]))
        nodes.append(helper.make_node("Cast", [f"{chosen}.int"], [chosen], to=TensorProto.BOOL))
        integers, constants = quantized_product(node, weights[node.input[1]], f"{node.name}.yes")
        plainly = helper.make_node("MatMul", list(node.input), [f"{node.name}.no"])
        branches = {
            "then_branch": helper.make_graph(
                integers, f"{node.name}.then", [], [_unshaped(f"{node.name}.yes")], list(constants)
            ),
            "else_branch": helper.make_graph([plainly], f"{node.name}.else", [], [_unshaped(f"{node.name}.no")]),
        }
        nodes.append(helper.make_node("If", [chosen], list(node.output), name=node.name, **branches))
    append_constants(graph)
    graph.input.append(helper.make_tensor_value_info(_SWITCH, TensorProto.INT64, [len(names)]))
    replace_nodes(graph, nodes)
    return model, names


def _unshaped(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _run(engine: Engine, sample: Sample, switch: np.ndarray) -> dict[str, FloatArray]:
    return engine.run(PaddedBatch({**sample.batch.arrays, _SWITCH: switch}, sample.batch.lengths), sample.outputs)


def _error(
    samples: Sequence[Sample],
    exact: Sequence[Mapping[str, FloatArray]],
    found: Sequence[Mapping[str, FloatArray]],
    by_token: set[str],
) -> float:
    wrong: dict[str, float] = {}
    spread: dict[str, float] = {}
    for sample, want, have in zip(samples, exact, found, strict=True):
        read = np.arange(sample.batch.arrays["attention_mask"].shape[1]) < sample.batch.lengths[:, None]  # [B, S]
        for name in sample.outputs:
            one, other = (values[name][read] if name in by_token else values[name] for values in (want, have))
            wrong[name] = wrong.get(name, 0.0) + float(((one - other) ** 2).sum())
            spread[name] = spread.get(name, 0.0) + float(((one - one.mean(-1, keepdims=True)) ** 2).sum())
    return sum(value / max(spread[name], _SMALLEST) for name, value in wrong.items())
