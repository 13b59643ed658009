"""Metadata, configuration and statistics of a model for clients of the protocol."""

from typing import TYPE_CHECKING

from palm_serve.bundle.manifest import Manifest
from palm_serve.config import ServeOptions
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.oip.outputs import outputs_of
from palm_serve.rpc.oip.requests import TEXT_PAIR, input_names
from palm_serve.rpc.oip.tensors import BOOL, BYTES, FP32
from palm_serve.v1 import palm_pb2 as pb

if TYPE_CHECKING:
    from palm_serve.registry import LoadedModel
    from palm_serve.registry.statistics import ComputeDurations, DurationTotal, ModelStatistics

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
_TYPES = {BYTES: oip.TYPE_STRING, FP32: oip.TYPE_FP32, BOOL: oip.TYPE_BOOL}


def metadata(model: "LoadedModel", versions: list[str], options: ServeOptions) -> oip.ModelMetadataResponse:
    """Describe the inputs and outputs of a model with their shapes, and its limits as properties.

    Args:
        model: the version to describe.
        versions: all versions of the model.
        options: the options of the server.
    """
    tensor = oip.ModelMetadataResponse.TensorMetadata
    inputs = []
    for name in input_names(model.manifest):
        inputs.append(tensor(name=name, datatype=BYTES, shape=[-1, 1]))
    outputs = []
    for output in outputs_of(model.manifest).values():
        outputs.append(tensor(name=output.name, datatype=output.datatype, shape=[-1]))
    return oip.ModelMetadataResponse(
        name=model.name,
        versions=versions,
        platform=PLATFORM,
        inputs=inputs,
        outputs=outputs,
        properties=_properties(model, options),
    )


def config(model: "LoadedModel", options: ServeOptions) -> oip.ModelConfig:
    """Describe a model as a configuration of Triton. `max_batch_size` is the limit of rows in one request."""
    levels = list(filter(None, pb.Priority.values()))
    inputs = []
    for name in input_names(model.manifest):
        optional = _optional(name, model.manifest)
        inputs.append(oip.ModelInput(name=name, data_type=oip.TYPE_STRING, dims=[1], optional=optional))
    outputs = []
    for output in outputs_of(model.manifest).values():
        outputs.append(oip.ModelOutput(name=output.name, data_type=_TYPES[output.datatype]))
    parameters = {}
    for key, value in _properties(model, options).items():
        parameters[key] = oip.ModelParameter(string_value=value)
    return oip.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=BACKEND,
        version_policy=oip.ModelVersionPolicy(all=oip.ModelVersionPolicy.All()),
        max_batch_size=options.limits.batch_items,
        input=inputs,
        output=outputs,
        default_model_filename=model.manifest.variants[model.info.variant].file,
        dynamic_batching=oip.ModelDynamicBatching(
            priority_levels=len(levels),
            default_priority_level=pb.Priority.PRIORITY_INTERACTIVE,
            default_queue_policy=oip.ModelQueuePolicy(allow_timeout_override=True, max_queue_size=options.max_queue),
        ),
        parameters=parameters,
        model_transaction_policy=oip.ModelTransactionPolicy(decoupled=False),
    )


def statistics(model: "LoadedModel") -> oip.ModelStatistics:
    """Return the statistics of a model since it was loaded, over all protocols. One text counts as one inference."""
    totals: ModelStatistics = model.statistics
    batch_stats = []
    for size, compute in totals.by_size:
        batch_stats.append(oip.InferBatchStatistics(batch_size=size, **_durations(compute)))
    return oip.ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=totals.last_ms,
        inference_count=totals.texts,
        execution_count=totals.batches,
        inference_stats=oip.InferStatistics(
            success=_duration(totals.success),
            fail=_duration(totals.failure),
            queue=_duration(totals.queue),
            **_durations(totals.compute),
        ),
        batch_stats=batch_stats,
    )


def _optional(name: str, manifest: Manifest) -> bool:
    """Return true if some task does not read the input."""
    return name == TEXT_PAIR and bool(manifest.tasks_reading(pairs=False))


def _properties(model: "LoadedModel", options: ServeOptions) -> dict[str, str]:
    return {
        "version": model.version,
        "labels": ",".join(model.labels),
        "max_length_tokens": str(model.manifest.max_length),
        "max_text_bytes": str(options.limits.text_bytes),
        "provider": model.info.provider,
        "precision": model.info.precision,
    }


def _duration(total: "DurationTotal") -> oip.StatisticDuration:
    return oip.StatisticDuration(count=total.count, ns=total.ns)


def _durations(compute: "ComputeDurations") -> dict[str, oip.StatisticDuration]:
    return {
        "compute_input": _duration(compute.tokenize),
        "compute_infer": _duration(compute.inference),
        "compute_output": _duration(compute.decode),
    }
