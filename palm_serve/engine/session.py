"""Sessions: open one graph on one execution provider of ONNX Runtime, or on OpenVINO."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from palm_serve.bundle.graph_file import GraphFile
from palm_serve.engine.cores import usable_cores
from palm_serve.engine.gpu import explain_missing_gpu
from palm_serve.engine.io_binding import BoundRunner
from palm_serve.engine.openvino import OpenVinoEngine
from palm_serve.engine.options import (
    CPU,
    CUDA,
    NAMES_NOT_UTF8,
    OPENVINO,
    ORT_NAMES,
    RUN_STOPPED,
    TENSORRT,
    ProviderOptions,
    provider_list,
)
from palm_serve.errors import EngineError, EngineTimeout, ProviderMissing
from palm_serve.types import EngineInfo, FloatArray, Int64Array, PaddedBatch

log = logging.getLogger(__name__)

_FATAL_ONLY = 4
"""Log level of ONNX Runtime. Errors are raised, so its own lines on standard error would only repeat them."""

Runner = Callable[[Sequence[str], Mapping[str, Int64Array], Any], Sequence[npt.NDArray[Any]]]
"""Runs a session: output names, inputs by name, and RunOptions go in."""


class OrtEngine:
    """Runs a graph in ONNX Runtime. One call at a time.

    Args:
        session: an open session.
        info: provider, precision and variant of the engine.
        compiles_shapes: True if the provider compiles every new shape. Then shapes are rounded up to a few.
        runner: runs the session. None: the session itself, from and to the memory of the CPU.
    """

    def __init__(
        self, session: Any, info: EngineInfo, compiles_shapes: bool = False, runner: Runner | None = None
    ) -> None:
        self.info = info
        self.inputs: dict[str, str] = {}
        for node in session.get_inputs():
            self.inputs[node.name] = node.type
        self.outputs: dict[str, str] = {}
        """Type of each output, in the order of the graph."""
        for node in session.get_outputs():
            self.outputs[node.name] = node.type
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self._session = session
        self._run: Runner = runner or session.run
        self._compiles_shapes = compiles_shapes
        self._options: Any = None
        """RunOptions of the run in progress, or of the last one."""

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Return graph outputs by name, as float32. `outputs` selects some of them (None: all).

        Raises:
            EngineTimeout: `interrupt` has ended the run.
        """
        names = tuple(self.outputs if outputs is None else outputs)
        # New ones for each run, so that an interrupt never hits a later run.
        options = self._options = ort.RunOptions()
        try:
            values = self._run(names, dict(batch.arrays), options)
        except Exception as error:
            if options.terminate:
                raise EngineTimeout(RUN_STOPPED) from error
            raise
        return {name: np.asarray(value, dtype=np.float32) for name, value in zip(names, values, strict=True)}

    def interrupt(self) -> None:
        """Ask the run in progress to end. ONNX Runtime looks at the flag between two nodes and two turns of a loop."""
        options = self._options
        if options is not None:
            options.terminate = True

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        """Return the rows and tokens that a batch of this size should be padded to."""
        if not self._compiles_shapes:
            return rows, length
        return 1 << (rows - 1).bit_length(), -(-length // 8) * 8


OpenEngine = OrtEngine | OpenVinoEngine
"""An open engine that gives the inputs, outputs and metadata of its graph."""


def open_engine(
    graph: Path | GraphFile,
    provider: str,
    precision: str,
    threads: int | None = None,
    variant: str = "plain",
    cache: Path | None = None,
) -> OpenEngine:
    """Open `graph` on exactly this provider.

    Args:
        graph: an ONNX file, by its path or as bytes that were verified.
        provider: one of PROVIDERS.
        precision: precision of the computation: fp32, bf16, fp16 or int8. The last two are also those of the weights.
        threads: threads of one run. None: one for each usable physical core.
        variant: name of the graph in its manifest.
        cache: directory for graphs that a provider compiled. None: they are not kept.

    Raises:
        EngineError: the provider is not available or cannot run the graph.
    """
    threads = threads or usable_cores()
    info = EngineInfo(provider, precision, variant, {"threads": str(threads), "onnxruntime": ort.__version__})
    if provider == OPENVINO:
        return OpenVinoEngine(graph, info, threads)
    if provider == CUDA:
        try:
            return _open_session(graph, info, threads, provider_list(provider, precision, graphs=True), graphs=True)
        except ProviderMissing:
            raise
        except EngineError as error:
            # Recording needs every node on the device. Without it, the same graph may run.
            log.info("%s; trying without CUDA graphs", error)
    return _open_session(graph, info, threads, provider_list(provider, precision, cache=_make_directory(cache)))


def _make_directory(path: Path | None) -> Path | None:
    """Make a directory and return it. None: it cannot be made."""
    try:
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return path


@contextmanager
def _gpu_libraries() -> Iterator[None]:
    """Load the libraries of CUDA, and keep off standard output what ONNX Runtime prints where some are missing.

    The output may be JSON. Its reasons are told by `explain_missing_gpu`.
    """
    ort.set_default_logger_severity(_FATAL_ONLY)
    with redirect_stdout(sys.stderr):
        ort.preload_dlls()
        yield


def _source(graph: Path | GraphFile, provider: str) -> str | bytes:
    """Return what ONNX Runtime reads a graph from: a path, or bytes.

    ONNX Runtime parses bytes with the interpreter's lock held, 0.1 s for 90 MB, and a server answers nobody in that time. It
    parses files without the lock. So the file in memory is taken where the bundle has read the graph into one.
    """
    if isinstance(graph, Path):
        return str(graph)
    # With external weights the rest is small.
    if provider == CPU and graph.file is not None and not graph.external:
        return graph.file.path
    return bytes(graph.content)


def _open_session(
    graph: Path | GraphFile,
    info: EngineInfo,
    threads: int,
    providers: list[tuple[str, ProviderOptions]],
    graphs: bool = False,
) -> OrtEngine:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    # Threads that spin for work take the cores from tokenization, decoding and the event loop, and need a third more CPU
    # time for each run.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    on_gpu = info.provider in (CUDA, TENSORRT)
    try:
        if isinstance(graph, GraphFile):
            weights = list(graph.external.values())
            options.add_external_initializers_from_files_in_memory(
                list(graph.external), weights, [len(content) for content in weights]
            )
        with _gpu_libraries() if on_gpu else nullcontext():
            session = ort.InferenceSession(_source(graph, info.provider), sess_options=options, providers=providers)
        if isinstance(graph, GraphFile):
            # It would keep a second copy of the graph, to open it again on other providers. FallbackEngine does that.
            session.disable_fallback()
            session._model_bytes = None
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise EngineError(f"{info.provider} in {info.precision} cannot run {graph.name}: {error}") from error
    session_providers = session.get_providers()
    if ORT_NAMES[info.provider] not in session_providers:
        # onnxruntime-gpu lists CUDA and TensorRT on every machine and silently falls back.
        raise ProviderMissing(
            f"{info.provider} is not available: ONNX Runtime fell back to {', '.join(session_providers)}. "
            f"{explain_missing_gpu()}"
        )
    try:
        runner = BoundRunner(session, "cuda", graphs) if info.provider == CUDA else None
        return OrtEngine(session, info, compiles_shapes=graphs or info.provider == TENSORRT, runner=runner)
    except UnicodeDecodeError:
        raise EngineError(NAMES_NOT_UTF8.format(graph=graph.name)) from None
