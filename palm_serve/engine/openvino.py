"""OpenVINO's own runtime (package `openvino`), on the CPU.

ONNX Runtime's plugin supports Intel's processors only, while the runtime also computes in bf16 on AMD's.
"""

import functools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from palm_serve.bundle.graph_file import GraphFile
from palm_serve.engine.options import NAMES_NOT_UTF8, RUN_STOPPED
from palm_serve.errors import EngineError, EngineTimeout
from palm_serve.types import EngineInfo, FloatArray, PaddedBatch

_TELEMETRY = "openvino_telemetry"
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
_TYPES = {"i64": "int64", "i32": "int32", "f64": "double", "f32": "float", "f16": "float16", "boolean": "bool"}
"""ONNX Runtime's names of the types."""
"""ONNX Runtime's names of element types by OpenVINO's."""


@functools.cache
def openvino_core() -> Any | None:
    """Return the runtime. None: the package is not installed or does not load."""
    try:
        with _without_telemetry():
            import openvino
    except ImportError:
        return None
    return openvino.Core()


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide the package `openvino_telemetry` while OpenVINO is imported.

    OpenVINO reports each import to Google Analytics and writes an identifier to the user's home. It offers no switch
    but a file there. Where the package is missing, it uses a stub that does nothing.
    """
    hidden: dict[str, ModuleType | None] = {_TELEMETRY: sys.modules.get(_TELEMETRY)}
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{_TELEMETRY}."):
            hidden[name] = module
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # what Python documents for a module that must not be found
    try:
        yield
    finally:
        for name, original in hidden.items():
            if original is None:
                del sys.modules[name]
            else:
                sys.modules[name] = original


def compile_properties(precision: str, threads: int) -> dict[str, Any]:
    """Return the properties to compile a graph with.

    Without the hint, it computes in bf16 wherever the processor can. And what meets weights that are stored as integers is
    made int8 during the run, whatever the hint, unless the size of its groups is 0.
    """
    properties = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    if precision != "int8":
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    return properties


class OpenVinoEngine:
    """Runs a graph in OpenVINO. One call at a time.

    Args:
        graph: an ONNX file, by its path or as bytes that were verified.
        info: provider, precision and variant of the engine.
        threads: threads of one run.

    Raises:
        EngineError: the runtime is not available or cannot run the graph.
    """

    def __init__(self, graph: Path | GraphFile, info: EngineInfo, threads: int) -> None:
        core = openvino_core()
        if core is None:
            raise EngineError("OpenVINO is not available. Install the package `openvino`.")
        try:
            with ExitStack() as folders:
                model = _read_model(core, graph, folders)
                metadata = model.get_rt_info("framework").astype(dict) if model.has_rt_info("framework") else {}
                compiled = core.compile_model(model, "CPU", compile_properties(info.precision, threads))
                self.inputs = _port_types(compiled.inputs)
                self.outputs = _port_types(compiled.outputs)
                self.metadata: dict[str, str] = {key: value.astype(str) for key, value in metadata.items()}
        except UnicodeDecodeError:
            raise EngineError(NAMES_NOT_UTF8.format(graph=graph.name)) from None
        except Exception as error:  # OpenVINO raises RuntimeError and others of its own
            raise EngineError(f"OpenVINO in {info.precision} cannot run {graph.name}: {error}") from error
        self.info = info
        # Kept as long as the request. Whether it keeps them itself is not documented.
        self._model = model
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._interrupted = False

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Return graph outputs by name, as float32. `outputs` selects some of them (None: all).

        Raises:
            EngineTimeout: `interrupt` has ended the run.
        """
        self._interrupted = False
        try:
            self._request.infer(dict(batch.arrays))
        except RuntimeError as error:
            if self._interrupted:
                raise EngineTimeout(RUN_STOPPED) from error
            raise
        names = self.outputs if outputs is None else outputs
        # Copied, because the next run overwrites the tensors of the request.
        return {name: np.array(self._request.get_tensor(name).data, dtype=np.float32) for name in names}

    def interrupt(self) -> None:
        """Ask the run in progress to end. The runtime looks at it between two nodes, not within a loop."""
        self._interrupted = True
        self._request.cancel()

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        """Return the same shape. The runtime compiles no shapes. It prepares the kernels of a new one in milliseconds."""
        return rows, length


def _port_types(ports: Sequence[Any]) -> dict[str, str]:
    """Return the type of each input or output by name, as ONNX Runtime writes it."""
    types = {}
    for port in ports:
        name = port.element_type.get_type_name()
        types[port.get_any_name()] = f"tensor({_TYPES.get(name, name)})"
    return types


def _read_model(core: Any, graph: Path | GraphFile, folders: ExitStack) -> Any:
    """Read a graph.

    External data, which this runtime only reads from files, is that of a folder of our own with the bytes that were verified.

    Args:
        core: the runtime.
        graph: an ONNX file, by its path or as bytes that were verified.
        folders: keeps the folder of external data until the graph is compiled. Other graphs need none, so they open where nothing can be written.
    """
    if isinstance(graph, Path):
        return core.read_model(str(graph))
    if not graph.external:
        return core.read_model(bytes(graph.content))
    folder = Path(folders.enter_context(tempfile.TemporaryDirectory(prefix="palm-")))
    for name, content in graph.external.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / graph.name).write_bytes(graph.content)
    return core.read_model(str(folder / graph.name))
