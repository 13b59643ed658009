"""One graph on one provider: ONNX Runtime's, or OpenVINO."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from palm_serve.engine.cores import usable_cores
from palm_serve.engine.io_binding import BoundRunner
from palm_serve.engine.openvino import OpenVinoEngine
from palm_serve.engine.options import CUDA, OPENVINO, ORT_NAMES, TENSORRT, Settings, provider_list
from palm_serve.errors import EngineError
from palm_serve.types import EngineInfo, FloatArray, Int64Array, PaddedBatch

log = logging.getLogger(__name__)

_FATAL_ONLY = 4
"""What fails raises; ONNX Runtime would tell it besides, in lines of its own on standard error."""

Runner = Callable[[Sequence[str], Mapping[str, Int64Array]], Sequence[npt.NDArray[Any]]]


class OrtEngine:
    """Runs a graph in ONNX Runtime. One call at a time.

    Args:
        session: an open session.
        info: what it runs on.
        compiles_shapes: the provider compiles every new shape, so shapes are rounded up to few.
        runner: how it is run; None: by the session, from and to the processor's memory.
    """

    def __init__(
        self, session: Any, info: EngineInfo, compiles_shapes: bool = False, runner: Runner | None = None
    ) -> None:
        self.info = info
        self.inputs: dict[str, str] = {node.name: node.type for node in session.get_inputs()}
        self.outputs: tuple[str, ...] = tuple(node.name for node in session.get_outputs())
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self._session = session
        self._run: Runner = runner or session.run
        self._compiles_shapes = compiles_shapes

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Graph outputs by name, float32; `outputs` selects some (None: all)."""
        names = self.outputs if outputs is None else tuple(outputs)
        values = self._run(names, dict(batch.arrays))
        return {name: np.asarray(value, dtype=np.float32) for name, value in zip(names, values, strict=True)}

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        """Rows and tokens that a batch of this size should be padded to."""
        if not self._compiles_shapes:
            return rows, length
        return 1 << (rows - 1).bit_length(), -(-length // 8) * 8


OpenEngine = OrtEngine | OpenVinoEngine
"""An open engine that still tells its graph's inputs, outputs and metadata."""


def open_engine(
    graph: Path,
    provider: str,
    precision: str,
    threads: int | None = None,
    variant: str = "plain",
    cache: Path | None = None,
) -> OpenEngine:
    """Opens `graph` on exactly this provider.

    Args:
        graph: an ONNX file.
        provider: one of PROVIDERS.
        precision: what the provider may compute in: fp32, bf16, fp16, int8 (the last two also say what weights the graph has).
        threads: of one run; None: one per usable physical core.
        variant: name of the graph in its manifest.
        cache: a directory where a provider may keep what it compiled; None: nowhere.

    Raises EngineError where the provider is not to be had or cannot run the graph.
    """
    threads = threads or usable_cores()
    info = EngineInfo(provider, precision, variant, {"threads": str(threads), "onnxruntime": ort.__version__})
    if provider == OPENVINO:
        return OpenVinoEngine(graph, info, threads)
    if provider == CUDA:
        try:
            return _open_session(graph, info, threads, provider_list(provider, precision, graphs=True), graphs=True)
        except EngineError as error:
            # Recording needs every node on the device; without it the same graph may run.
            log.info("%s; trying without CUDA graphs", error)
    return _open_session(graph, info, threads, provider_list(provider, precision, cache=_made(cache)))


def _made(cache: Path | None) -> Path | None:
    """The directory, or None where it cannot be made."""
    try:
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return cache


def _open_session(
    graph: Path, info: EngineInfo, threads: int, providers: list[tuple[str, Settings]], graphs: bool = False
) -> OrtEngine:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    # Threads that spin for work take the cores from tokenization, decoding and the event loop, and a third more CPU a run.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    on_gpu = info.provider in (CUDA, TENSORRT)
    try:
        if on_gpu:
            ort.preload_dlls()
        session = ort.InferenceSession(str(graph), sess_options=options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise EngineError(f"{info.provider} in {info.precision} cannot run {graph.name}: {error}") from error
    got = session.get_providers()
    if ORT_NAMES[info.provider] not in got:
        # onnxruntime-gpu lists CUDA and TensorRT on every machine and silently falls back.
        raise EngineError(
            f"{info.provider} cannot be had: ONNX Runtime fell back to {', '.join(got)}; are its libraries and driver installed?"
        )
    runner = BoundRunner(session, "cuda", graphs) if info.provider == CUDA else None
    return OrtEngine(session, info, compiles_shapes=graphs or info.provider == TENSORRT, runner=runner)
