"""Runs with inputs and outputs that stay on the device, for GPUs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from palm_serve.types import Int64Array

_SHAPES_KEPT = 96
"""Shapes with buffers (and CUDA graphs) of their own; each holds device memory for good."""

_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = "-1"


@dataclass(frozen=True)
class _Buffers:
    """Everything that a run of one shape touches; the addresses stay the same, as CUDA graphs need."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    binding: Any
    options: Any


class BoundRunner:
    """Runs a session in buffers that are made once for each shape.

    Args:
        session: an open session.
        device: where the buffers are: `cuda`, or `cpu`.
        graphs: the session was opened with `enable_cuda_graph`: the work of each shape is recorded, then replayed.
    """

    def __init__(self, session: Any, device: str, graphs: bool) -> None:
        self._session = session
        self._device = device
        self._graphs = graphs
        self._names = [node.name for node in session.get_outputs()]
        self._shapes: dict[tuple[int, ...], _Buffers] = {}

    def __call__(self, names: Sequence[str], arrays: Mapping[str, Int64Array]) -> list[npt.NDArray[Any]]:
        """The outputs `names` for these inputs; only they are copied back."""
        shape = next(iter(arrays.values())).shape
        buffers = self._shapes.get(shape)
        if buffers is None:
            # Tells the shapes of the outputs, and compiles what is compiled lazily before anything is recorded.
            values = self._session.run(self._names, dict(arrays), self._options(_NO_GRAPH))
            if len(self._shapes) < _SHAPES_KEPT:
                self._shapes[shape] = self._bind(arrays, values)
            found = dict(zip(self._names, values, strict=True))
            return [found[name] for name in names]
        for name, value in arrays.items():
            buffers.inputs[name].update_inplace(np.ascontiguousarray(value))
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        # Copies: what is not on another device is a view of the buffer.
        return [np.array(buffers.outputs[name].numpy()) for name in names]

    def _bind(self, arrays: Mapping[str, Int64Array], values: Sequence[npt.NDArray[Any]]) -> _Buffers:
        binding = self._session.io_binding()
        inputs = {name: self._on_device(value) for name, value in arrays.items()}
        outputs = {name: self._on_device(value) for name, value in zip(self._names, values, strict=True)}
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, buffer)
        for name, buffer in outputs.items():
            binding.bind_ortvalue_output(name, buffer)
        return _Buffers(inputs, outputs, binding, self._options(str(len(self._shapes) + 1)))

    def _on_device(self, value: npt.NDArray[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(value.copy(), self._device, 0)

    def _options(self, graph: str) -> Any:
        options = ort.RunOptions()
        if self._graphs:
            options.add_run_config_entry(_GRAPH_ID, graph)
        return options
