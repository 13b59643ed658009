"""Input and output binding: runs a session in buffers that stay on the GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from palm_serve.types import Int64Array

_MOST_SHAPES = 96
"""Shapes with buffers (and CUDA graphs) of their own. Each holds device memory until the session ends."""

_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = "-1"


@dataclass(frozen=True)
class _Buffers:
    """Buffers of one shape. Their addresses never change, which CUDA graphs need."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    binding: Any
    graph: str
    """Id of the CUDA graph."""


class BoundRunner:
    """Runs a session in buffers that are allocated once for each shape.

    Args:
        session: an open session.
        device: device of the buffers, `cuda` or `cpu`.
        graphs: True for a session with `enable_cuda_graph`, which records the work of each shape and replays it.
    """

    def __init__(self, session: Any, device: str, graphs: bool) -> None:
        self._session = session
        self._device = device
        self._graphs = graphs
        self._names = [node.name for node in session.get_outputs()]
        self._shapes: dict[tuple[int, ...], _Buffers] = {}

    def __call__(self, names: Sequence[str], arrays: Mapping[str, Int64Array], options: Any) -> list[npt.NDArray[Any]]:
        """Run the session and return the outputs `names`. Only these are copied from the device.

        Args:
            names: outputs to return.
            arrays: inputs by name.
            options: RunOptions of this run.
        """
        shape = next(iter(arrays.values())).shape
        buffers = self._shapes.get(shape)
        if buffers is None:
            # Gives the shapes of the outputs, and compiles lazily compiled kernels before anything is recorded.
            self._select_graph(options, _NO_GRAPH)
            values = self._session.run(self._names, dict(arrays), options)
            if len(self._shapes) < _MOST_SHAPES:
                self._shapes[shape] = self._bind(arrays, values)
            outputs = dict(zip(self._names, values, strict=True))
            return [outputs[name] for name in names]
        for name, value in arrays.items():
            buffers.inputs[name].update_inplace(np.ascontiguousarray(value))
        self._select_graph(options, buffers.graph)
        self._session.run_with_iobinding(buffers.binding, options)
        # Copied, because a buffer that is not on another device is returned as a view.
        return [np.array(buffers.outputs[name].numpy()) for name in names]

    def _bind(self, arrays: Mapping[str, Int64Array], values: Sequence[npt.NDArray[Any]]) -> _Buffers:
        binding = self._session.io_binding()
        inputs = {}
        outputs = {}
        for name, array in arrays.items():
            inputs[name] = self._on_device(array)
            binding.bind_ortvalue_input(name, inputs[name])
        for name, value in zip(self._names, values, strict=True):
            outputs[name] = self._on_device(value)
            binding.bind_ortvalue_output(name, outputs[name])
        return _Buffers(inputs, outputs, binding, str(len(self._shapes) + 1))

    def _on_device(self, value: npt.NDArray[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(value.copy(), self._device, 0)

    def _select_graph(self, options: Any, graph: str) -> None:
        if self._graphs:
            options.add_run_config_entry(_GRAPH_ID, graph)
