"""What ONNX Runtime's providers are told. Pure: opens nothing."""

from pathlib import Path

from palm_serve.errors import EngineError

CPU, OPENVINO, CUDA, TENSORRT = "CPU", "OpenVINO", "CUDA", "TensorRT"

PROVIDERS = (TENSORRT, CUDA, OPENVINO, CPU)
"""Those that this server knows, by the names that manifests and users write."""

ORT_NAMES = {
    TENSORRT: "TensorrtExecutionProvider",
    CUDA: "CUDAExecutionProvider",
    CPU: "CPUExecutionProvider",
}
"""Those that ONNX Runtime brings."""

Settings = dict[str, str]


def provider_list(
    provider: str, precision: str, graphs: bool = False, cache: Path | None = None
) -> list[tuple[str, Settings]]:
    """Providers of a session in order of preference: the wanted one, then those that take what it leaves.

    Args:
        provider: a key of ORT_NAMES.
        precision: fp32 forbids what rounds: TF32, fp16 kernels.
        graphs: whether CUDA records the work of each shape.
        cache: where TensorRT keeps its engines, whose building takes minutes; None: nowhere.
    """
    if precision == "bf16" and provider != CUDA:
        raise EngineError(f"{provider} cannot compute in bf16; OpenVINO can, and CUDA where the graph's weights are")
    cuda = {
        "use_tf32": "0" if precision == "fp32" else "1",
        "enable_cuda_graph": "1" if graphs else "0",
        # A bundle's server owns the device with others: no more memory than the shapes need.
        "arena_extend_strategy": "kSameAsRequested",
    }
    cpu: tuple[str, Settings] = (ORT_NAMES[CPU], {})
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
