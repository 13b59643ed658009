"""One graph on one execution provider."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from palm_serve.engine.cores import usable_cores
from palm_serve.engine.openvino import openvino_device
from palm_serve.errors import EngineError
from palm_serve.types import Batch, EngineInfo, FloatArray

CPU, OPENVINO, CUDA, TENSORRT = "CPU", "OpenVINO", "CUDA", "TensorRT"

ORT_NAMES = {
    TENSORRT: "TensorrtExecutionProvider",
    CUDA: "CUDAExecutionProvider",
    OPENVINO: "OpenVINOExecutionProvider",
    CPU: "CPUExecutionProvider",
}
"""Providers that this server knows, by the names that manifests and users write."""

_OPENVINO_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}

_ERRORS_ONLY = 3


class OrtEngine:
    """Runs a graph in ONNX Runtime. One call at a time.

    Args:
        session: an open session.
        info: what it runs on.
        compiles_shapes: the provider compiles every new shape, so shapes are rounded up to few.
    """

    def __init__(self, session: Any, info: EngineInfo, compiles_shapes: bool = False) -> None:
        self.info = info
        self.inputs: dict[str, str] = {node.name: node.type for node in session.get_inputs()}
        self.outputs: tuple[str, ...] = tuple(node.name for node in session.get_outputs())
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self._session = session
        self._compiles_shapes = compiles_shapes

    def run(self, batch: Batch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Graph outputs by name, float32; `outputs` selects some (None: all)."""
        names = self.outputs if outputs is None else tuple(outputs)
        values = self._session.run(names, dict(batch.arrays))
        return {name: np.asarray(value, dtype=np.float32) for name, value in zip(names, values, strict=True)}

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        """Rows and tokens that a batch of this size should be padded to."""
        if not self._compiles_shapes:
            return rows, length
        return 1 << (rows - 1).bit_length(), -(-length // 8) * 8


def open_engine(
    graph: Path, provider: str, precision: str, threads: int | None = None, variant: str = "plain"
) -> OrtEngine:
    """Opens `graph` on exactly this provider.

    Args:
        graph: an ONNX file.
        provider: a key of ORT_NAMES.
        precision: what the provider may compute in: fp32, bf16, fp16, int8 (the last two also say what weights the graph has).
        threads: of one run; None: one per usable physical core.
        variant: name of the graph in its manifest.

    Raises EngineError where the provider is not to be had or cannot run the graph.
    """
    threads = threads or usable_cores()
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    # Threads that spin for work take the cores from tokenization, decoding and the event loop, and a third more CPU a run.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        chosen = _configure(options, provider, precision, threads)
        session = ort.InferenceSession(str(graph), sess_options=options, **chosen)
    except EngineError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise EngineError(f"{provider} in {precision} cannot run {graph.name}: {error}") from error
    got = session.get_providers()
    if ORT_NAMES[provider] not in got:
        # onnxruntime-gpu lists CUDA and TensorRT on every machine and silently falls back.
        raise EngineError(
            f"{provider} cannot be had: ONNX Runtime fell back to {', '.join(got)}; are its libraries and driver installed?"
        )
    info = EngineInfo(provider, precision, variant, {"threads": str(threads), "onnxruntime": ort.__version__})
    return OrtEngine(session, info, compiles_shapes=provider in (OPENVINO, TENSORRT))


def _configure(options: Any, provider: str, precision: str, threads: int) -> dict[str, Any]:
    """Sets what the provider needs in `options`; what else InferenceSession takes."""
    if provider == OPENVINO:
        device = openvino_device()
        if device is None:
            raise EngineError("OpenVINO cannot be had: its plugin lists no device for this processor")
        # Without the hint it computes in bf16 wherever the processor can.
        properties = {
            "INFERENCE_PRECISION_HINT": _OPENVINO_HINTS[precision],
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": "1",
        }
        options.add_provider_for_devices([device], {"load_config": json.dumps({"CPU": properties})})
        return {}
    settings: dict[str, str] = {}
    if provider == CUDA:
        settings = {"use_tf32": "0" if precision == "fp32" else "1"}
    elif provider == TENSORRT:
        settings = {"trt_fp16_enable": "1" if precision == "fp16" else "0"}
    if provider in (CUDA, TENSORRT):
        ort.preload_dlls()
    wanted = [(ORT_NAMES[provider], settings)]
    if provider != CPU:
        wanted.append((ORT_NAMES[CPU], {}))
    return {"providers": wanted}
