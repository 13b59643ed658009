"""OpenVINO's own runtime (package `openvino`), on the processor.

Not through ONNX Runtime's plugin: that one lists Intel's processors only, while the runtime computes in bf16 on AMD's as well.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palm_serve.errors import EngineError
from palm_serve.types import EngineInfo, FloatArray, PaddedBatch

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
_TYPES = {"i64": "int64", "i32": "int32", "f32": "float", "f16": "float16"}
"""OpenVINO's names of element types -> ONNX Runtime's."""


@functools.cache
def openvino_core() -> Any | None:
    """The runtime, or None where the package is not installed or does not load."""
    try:
        import openvino
    except ImportError:
        return None
    return openvino.Core()


def properties(precision: str, threads: int) -> dict[str, Any]:
    """What a graph is compiled with. Without the hint it computes in bf16 wherever the processor can."""
    return {"INFERENCE_PRECISION_HINT": _HINTS[precision], "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}


class OpenVinoEngine:
    """Runs a graph in OpenVINO. One call at a time.

    Raises EngineError where the runtime is not to be had or cannot run the graph.

    Args:
        graph: an ONNX file.
        info: what it runs as.
        threads: of one run.
    """

    def __init__(self, graph: Path, info: EngineInfo, threads: int) -> None:
        core = openvino_core()
        if core is None:
            raise EngineError("OpenVINO cannot be had: install the package `openvino`")
        try:
            model = core.read_model(str(graph))
            metadata = model.get_rt_info("framework").astype(dict) if model.has_rt_info("framework") else {}
            compiled = core.compile_model(model, "CPU", properties(info.precision, threads))
        except Exception as error:  # OpenVINO raises RuntimeError and others of its own
            raise EngineError(f"OpenVINO in {info.precision} cannot run {graph.name}: {error}") from error
        self.info = info
        self.inputs = {
            port.get_any_name(): f"tensor({_TYPES.get(port.element_type.get_type_name(), '?')})"
            for port in compiled.inputs
        }
        self.outputs: tuple[str, ...] = tuple(port.get_any_name() for port in compiled.outputs)
        self.metadata: dict[str, str] = {key: value.astype(str) for key, value in metadata.items()}
        self._request = compiled.create_infer_request()

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Graph outputs by name, float32; `outputs` selects some (None: all)."""
        self._request.infer(dict(batch.arrays), share_inputs=True)
        names = self.outputs if outputs is None else outputs
        # Copies: the tensors are the request's own, and the next run overwrites them.
        return {name: np.array(self._request.get_tensor(name).data, dtype=np.float32) for name in names}

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        """The same shape: the runtime compiles no shapes, but prepares the kernels of a new one in milliseconds and keeps them."""
        return rows, length
