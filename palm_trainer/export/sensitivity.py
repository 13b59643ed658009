"""Sensitivity of the matrix multiplications of a graph to int8.

It is the error of the logits when a single multiplication is quantized, over training texts. One graph with a switch
for each multiplication serves for all of them, so that each takes one run of the samples and no session of its own.
Dev examples are not used, because the result is judged on them.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from palm_serve.engine.options import CPU
from palm_serve.engine.padding import pad_batch
from palm_serve.engine.session import open_engine
from palm_serve.proof.predictor import EnginePredictor
from palm_serve.types import Encoding, Engine, FloatArray, PaddedBatch
from palm_trainer.data.example import Example
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.quantize import append_constants, find_matmuls, make_int8_matmul, replace_nodes
from palm_trainer.export.reference import collect_rows

REMAINING_ERROR = (0.5, 0.25, 0.1)
"""Fraction of the summed error that each attempt leaves."""
_SWITCH = "palm.switch"
_MAX_ROWS = 32
_MAX_TOKENS = 512
"""Tokens of the samples for one way of reading."""
_BATCH_ROWS = 16
_MIN_SPREAD = 1e-12

Outputs = Mapping[str, FloatArray]


@dataclass(frozen=True)
class Sample:
    """A batch of training texts. `outputs` are those of the tasks that read such texts."""

    rows: tuple[Encoding, ...]
    batch: PaddedBatch
    outputs: tuple[str, ...]


def draw_samples(predictor: EnginePredictor, sets: Sequence[EvaluationSet], seed: int = 0) -> list[Sample]:
    """Draw examples for each way in which the tasks read, in batches of similar lengths.

    Args:
        predictor: the trained model.
        sets: training examples.
        seed: seed of the draw.
    """
    generator = np.random.default_rng(seed)
    examples: list[Example] = []
    for evaluation_set in sets:
        examples += evaluation_set.examples
    samples = []
    for layout, tasks in predictor.tasks_by_layout().items():
        for pairs in sorted(predictor.pair_values(tasks)):
            pool = [example for example in examples if (example.pair is not None) == pairs]
            order = generator.permutation(len(pool))[:_MAX_ROWS]
            items = predictor.tokenize([pool[index] for index in order], layout)
            rows = sorted(_limit_rows(collect_rows(items)), key=len)
            outputs: list[str] = []
            for task in tasks:
                if predictor.tasks[task].pairs == pairs:
                    outputs += predictor.tasks[task].outputs
            for begin in range(0, len(rows), _BATCH_ROWS):
                batch_rows = tuple(rows[begin : begin + _BATCH_ROWS])
                batch = pad_batch(batch_rows, predictor.inputs, predictor.pad_id)
                samples.append(Sample(batch_rows, batch, tuple(outputs)))
    return samples


def measure_sensitivities(
    plain: ModelProto, samples: Sequence[Sample], token_outputs: Collection[str]
) -> dict[str, float]:
    """Measure the sensitivity of each matrix multiplication, by name.

    It is the squared error of the logits over their variance, summed over the outputs.

    Args:
        plain: the plain graph.
        samples: training texts.
        token_outputs: outputs with an axis for the tokens. Their padding is ignored.
    """
    model, names = _add_switches(plain)
    sensitivities = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "switched.onnx"
        path.write_bytes(model.SerializeToString())
        engine = open_engine(path, CPU, "fp32")
        switches = np.eye(len(names), dtype=np.int64)
        all_off = np.zeros(len(names), dtype=np.int64)
        exact_outputs = [_run(engine, sample, all_off) for sample in samples]
        for name, switch in zip(names, switches, strict=True):
            outputs = [_run(engine, sample, switch) for sample in samples]
            sensitivities[name] = _relative_error(samples, exact_outputs, outputs, token_outputs)
    return sensitivities


def suggest_exclusions(sensitivities: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    """Yield growing sets of multiplications to leave in fp32, the most sensitive first.

    The others together cause a fraction of the error that is in `REMAINING_ERROR`.
    """
    order = sorted(sensitivities, key=lambda name: -sensitivities[name])
    remaining_errors = []
    for count in range(len(order) + 1):
        remaining_errors.append(sum(sensitivities[name] for name in order[count:]))
    previous_count = 0
    for fraction in REMAINING_ERROR:
        count = 0
        while remaining_errors[count] > fraction * remaining_errors[0]:
            count += 1
        if previous_count < count < len(order):
            yield tuple(order[:count])
            previous_count = count


def _limit_rows(rows: Sequence[Encoding]) -> Iterator[Encoding]:
    """Yield the first rows, as many as samples may have, but at least one."""
    tokens = 0
    for count, row in enumerate(rows):
        tokens += len(row)
        if count == _MAX_ROWS or (count and tokens > _MAX_TOKENS):
            return
        yield row


def _add_switches(plain: ModelProto) -> tuple[ModelProto, list[str]]:
    """Return a copy with the input `palm.switch`, int64 `[multiplications]`, and the names of the multiplications.

    A 1 computes that multiplication in int8.
    """
    names = find_matmuls(plain)
    model = ModelProto()
    model.CopyFrom(plain)
    graph = model.graph
    weights = {}
    for tensor in plain.graph.initializer:
        weights[tensor.name] = numpy_helper.to_array(tensor)
    nodes: list[NodeProto] = []
    for node in plain.graph.node:
        if node.name in names:
            nodes += _make_switched_matmul(graph, node, names.index(node.name), weights[node.input[1]])
        else:
            nodes.append(node)
    append_constants(graph)
    graph.input.append(helper.make_tensor_value_info(_SWITCH, TensorProto.INT64, [len(names)]))
    replace_nodes(graph, nodes)
    return model, names


def _make_switched_matmul(
    graph: GraphProto, node: NodeProto, index: int, weight: npt.NDArray[np.float32]
) -> list[NodeProto]:
    """Make nodes that compute a multiplication in int8 if its switch is 1. Append their constants to the graph."""
    position = f"{node.name}.position"
    condition = f"{node.name}.chosen"
    graph.initializer.append(numpy_helper.from_array(np.array(index), position))
    int8_output = f"{node.name}.yes"
    int8_nodes, constants = make_int8_matmul(node, weight, int8_output)
    float_output = f"{node.name}.no"
    float_node = helper.make_node("MatMul", list(node.input), [float_output])
    then_branch = helper.make_graph(int8_nodes, f"{node.name}.then", [], [_make_output(int8_output)], list(constants))
    else_branch = helper.make_graph([float_node], f"{node.name}.else", [], [_make_output(float_output)])
    return [
        helper.make_node("Gather", [_SWITCH, position], [f"{condition}.int"]),
        helper.make_node("Cast", [f"{condition}.int"], [condition], to=TensorProto.BOOL),
        helper.make_node(
            "If",
            [condition],
            list(node.output),
            name=node.name,
            then_branch=then_branch,
            else_branch=else_branch,
        ),
    ]


def _make_output(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _run(engine: Engine, sample: Sample, switch: npt.NDArray[np.int64]) -> dict[str, FloatArray]:
    batch = PaddedBatch({**sample.batch.arrays, _SWITCH: switch}, sample.batch.lengths)
    return engine.run(batch, sample.outputs)


def _relative_error(
    samples: Sequence[Sample],
    exact_outputs: Sequence[Outputs],
    outputs: Sequence[Outputs],
    token_outputs: Collection[str],
) -> float:
    """Return the squared error over the variance of the exact logits, summed over the outputs."""
    errors: dict[str, float] = {}
    spreads: dict[str, float] = {}
    for sample, exact_values, values in zip(samples, exact_outputs, outputs, strict=True):
        length = sample.batch.arrays["attention_mask"].shape[1]
        is_token = np.arange(length) < sample.batch.lengths[:, None]  # [batch, tokens]
        for name in sample.outputs:
            exact = exact_values[name]
            measured = values[name]
            if name in token_outputs:
                exact = exact[is_token]
                measured = measured[is_token]
            deviation = exact - exact.mean(-1, keepdims=True)
            errors[name] = errors.get(name, 0.0) + float(((exact - measured) ** 2).sum())
            spreads[name] = spreads.get(name, 0.0) + float((deviation**2).sum())
    return sum(error / max(spreads[name], _MIN_SPREAD) for name, error in errors.items())
