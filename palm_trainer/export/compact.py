"""Weights that were trained for int8, stored as integers without a loss, and once for all graphs of a bundle.

`palm-train compress` trains weights that are multiples of 7-bit numbers. A graph of fp32 then holds the integers and their
scales, and two operators that make the very same weights of them. ONNX Runtime runs these once, when it opens the graph.
Other weights stay as they are.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from palm_trainer.export.optimize import serialize
from palm_trainer.export.quantize import (
    find_tables,
    gather_int8,
    remove_unused_constants,
    replace_nodes,
    round_columns,
    round_rows,
)

WEIGHTS = "weights.bin"
"""File of a bundle that holds the weights of all its graphs."""
_MIN_ELEMENTS = 256
_MIN_SHARED_BYTES = 1024
_ALIGNMENT = 64
_MIN_SHARE = 0.5
"""Share of the weights that must be multiples of integers for a graph to be stored so."""
_PACKED = 3
"""Matrices in the weights of the operator Attention: query, key and value."""

Integers = tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class SharedGraphs:
    """Graphs whose large weights are in one file.

    Args:
        graphs: contents of the ONNX files by name.
        weights: contents of the file `weights.bin` beside them.
        sizes: bytes that each graph needs, those of its weights included.
    """

    graphs: Mapping[str, bytes]
    weights: bytes
    sizes: Mapping[str, int]


def compact(content: bytes) -> bytes | None:
    """Return a graph of fp32 with integers for its weights, None where too few of them are multiples of integers.

    Args:
        content: the ONNX file.
    """
    model = onnx.load_from_string(content)
    all_elements = 0
    integers: dict[str, Integers] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2:
            continue
        array = numpy_helper.to_array(tensor)
        all_elements += array.size
        exact = find_integers(array)
        if exact is not None:
            integers[tensor.name] = exact
    found_elements = sum(values.size for values, _ in integers.values())
    if not found_elements or found_elements < _MIN_SHARE * all_elements:
        return None
    _store_integers(model, integers)
    return serialize(model)


def find_integers(array: npt.NDArray[np.float32]) -> Integers | None:
    """Return the integers and scales that give exactly this matrix, None where there are none.

    The scale is that of a column, `[columns]`, as for the weights of a multiplication, or that of a row, `[rows, 1]`, as for
    an embedding table.
    """
    if array.size < _MIN_ELEMENTS:
        return None
    for values, scale in (round_columns(array), round_rows(array)):
        if np.array_equal(values.astype(np.float32) * scale, array):
            return values, scale
    return None


def _store_integers(model: ModelProto, integers: Mapping[str, Integers]) -> None:
    """Replace matrices of a graph by integers, in place."""
    graph = model.graph
    tables = set(find_tables(model))
    readers: dict[str, set[str]] = {name: set() for name in integers}
    for node in graph.node:
        for name in node.input:
            if name in readers:
                readers[name].add("table" if node.name in tables and name == node.input[0] else node.op_type)
    first_nodes: list[NodeProto] = []
    for name, (values, scale) in integers.items():
        by_row = scale.ndim == 2
        is_table = by_row and readers[name] == {"table"}
        count = _PACKED if readers[name] == {"Attention"} and not by_row else 1
        suffixes = [""] if count == 1 else [f".{number}" for number in range(count)]
        columns = zip(suffixes, np.split(values, count, axis=1), _split_scale(scale, count), strict=True)
        for suffix, block, block_scale in columns:
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(block), f"{name}{suffix}.int8"))
            graph.initializer.append(numpy_helper.from_array(block_scale, f"{name}{suffix}.scale"))
        if not is_table:
            first_nodes += _restore(name, suffixes)
    nodes = list(first_nodes)
    for node in graph.node:
        is_lookup = node.name in tables and node.input[0] in integers and readers[node.input[0]] == {"table"}
        if is_lookup and integers[node.input[0]][1].ndim == 2:
            nodes += gather_int8(node)
        else:
            nodes.append(node)
    replace_nodes(graph, nodes)
    other_tensors = [tensor for tensor in graph.initializer if tensor.name not in integers]
    del graph.initializer[:]
    graph.initializer.extend(other_tensors)
    remove_unused_constants(graph)


def _split_scale(scale: npt.NDArray[np.float32], count: int) -> list[npt.NDArray[np.float32]]:
    return [scale] if count == 1 else np.split(scale, count)


def _restore(name: str, suffixes: list[str]) -> Iterator[NodeProto]:
    """Make the nodes that give a matrix of fp32 from its integers, which may stand in several parts."""
    outputs = []
    for suffix in suffixes:
        block = f"{name}{suffix}"
        output = name if len(suffixes) == 1 else f"{block}.weight"
        outputs.append(output)
        yield helper.make_node("Cast", [f"{block}.int8"], [f"{block}.float"], to=TensorProto.FLOAT)
        yield helper.make_node("Mul", [f"{block}.float", f"{block}.scale"], [output])
    if len(suffixes) > 1:
        yield helper.make_node("Concat", outputs, [name], axis=1)


def share_weights(graphs: Mapping[str, bytes]) -> SharedGraphs:
    """Move the large weights of graphs to one file, where equal ones are stored once.

    Args:
        graphs: contents of ONNX files with all their weights, by name.
    """
    store = bytearray()
    offsets: dict[bytes, int] = {}
    contents = {}
    sizes = {}
    for name, content in graphs.items():
        model = onnx.load_from_string(content)
        size = 0
        for tensor in model.graph.initializer:
            if not tensor.HasField("raw_data") or len(tensor.raw_data) < _MIN_SHARED_BYTES:
                continue
            digest = hashlib.sha256(tensor.raw_data).digest()
            if digest not in offsets:
                store += bytes(-len(store) % _ALIGNMENT)
                offsets[digest] = len(store)
                store += tensor.raw_data
            length = len(tensor.raw_data)
            size += length
            set_external_data(tensor, WEIGHTS, offset=offsets[digest], length=length)
            tensor.ClearField("raw_data")
        contents[name] = model.SerializeToString(deterministic=True)
        sizes[name] = size + len(contents[name])
    return SharedGraphs(contents, bytes(store), sizes)
