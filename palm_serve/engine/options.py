"""Settings of ONNX Runtime's execution providers. Pure functions: nothing is opened."""

from pathlib import Path

from palm_serve.errors import EngineError

CPU = "CPU"
OPENVINO = "OpenVINO"
CUDA = "CUDA"
TENSORRT = "TensorRT"

PROVIDERS = (TENSORRT, CUDA, OPENVINO, CPU)
"""Execution providers, by their names in manifests and options."""

ORT_NAMES = {
    TENSORRT: "TensorrtExecutionProvider",
    CUDA: "CUDAExecutionProvider",
    CPU: "CPUExecutionProvider",
}
"""Names of the providers of ONNX Runtime."""

NAMES_NOT_UTF8 = "the names and the metadata in {graph} must be UTF-8, got other bytes. Export the run again."
RUN_STOPPED = "the engine took too long for this batch, and its run was stopped"

ProviderOptions = dict[str, str]


def provider_list(
    provider: str, precision: str, graphs: bool = False, cache: Path | None = None
) -> list[tuple[str, ProviderOptions]]:
    """Return the providers of a session in order of preference: the requested one, then those for unsupported nodes.

    Args:
        provider: a key of ORT_NAMES.
        precision: precision of the computation. fp32 forbids TF32 and fp16 kernels, which round.
        graphs: True if CUDA records the work of each shape.
        cache: directory for TensorRT's engines, which take minutes to build. None: they are not kept.

    Raises:
        EngineError: the provider cannot compute in this precision.
    """
    if precision == "bf16" and provider != CUDA:
        raise EngineError(f"{provider} cannot compute in bf16; OpenVINO can, and CUDA where the graph's weights are")
    cuda = {
        "use_tf32": "0" if precision == "fp32" else "1",
        "enable_cuda_graph": "1" if graphs else "0",
        # Other programs may share the device, so no more memory is allocated than the shapes need.
        "arena_extend_strategy": "kSameAsRequested",
    }
    cpu: tuple[str, ProviderOptions] = (ORT_NAMES[CPU], {})
    if provider == CPU:
        return [cpu]
    if provider == CUDA:
        return [(ORT_NAMES[CUDA], cuda), cpu]
    tensorrt = {
        "trt_fp16_enable": "1" if precision == "fp16" else "0",
        "trt_int8_enable": "1" if precision == "int8" else "0",
    }
    if cache is not None:
        tensorrt |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(cache),
        }
    return [(ORT_NAMES[TENSORRT], tensorrt), (ORT_NAMES[CUDA], cuda | {"enable_cuda_graph": "0"}), cpu]
