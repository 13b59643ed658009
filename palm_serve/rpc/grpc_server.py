"""All services on one grpc server."""

from typing import TYPE_CHECKING

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from palm_serve.config import ServeOptions
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.access.admission import Gate
from palm_serve.rpc.access.tokens import Scope, Tokens
from palm_serve.rpc.call_handling import Calls, Observe
from palm_serve.rpc.lifecycle import Lifecycle
from palm_serve.rpc.oip.service import SERVICE as OPEN_INFERENCE
from palm_serve.rpc.oip.service import OpenInference
from palm_serve.rpc.services import channelz
from palm_serve.rpc.services.dialogue import Dialogue
from palm_serve.rpc.services.health import Health
from palm_serve.rpc.services.models import Models
from palm_serve.rpc.services.prediction import Prediction
from palm_serve.rpc.transport.channel_options import channel_options
from palm_serve.v1 import palm_pb2 as pb

if TYPE_CHECKING:
    from palm_serve.registry import Registry, Watcher

HEALTH = "grpc.health.v1.Health"
DIALOGUE, PREDICTION, MODELS = (f"palm_serve.v1.{name}" for name in ("DialogueUnderstanding", "Prediction", "Models"))


def make_server(
    registry: "Registry",
    options: ServeOptions,
    lifecycle: Lifecycle,
    observe: Observe | None = None,
    tokens: Tokens | None = None,
    folder: "Watcher | None" = None,
) -> grpc.aio.Server:
    """A server with every service, bound to no port yet. Needs a running loop.

    Args:
        observe: is told of each call.
        tokens: None: anyone may call.
        folder: where LoadModel looks names up; None: nowhere.
    """
    server = grpc.aio.server(options=channel_options(options))
    calls = Calls(lifecycle, Gate(options, tokens), observe, options.log_text)
    dialogue, prediction = Dialogue(registry, options.limits, lifecycle), Prediction(registry, options.limits)
    models, health = Models(registry, options, folder), Health(registry, lifecycle)
    parsing, predicting, managing, checking = map(calls.of, (DIALOGUE, PREDICTION, MODELS, HEALTH))
    services = {
        DIALOGUE: {
            "Parse": parsing.unary("Parse", pb.ParseRequest, dialogue.parse, Scope.PARSE),
            "ParseBatch": parsing.unary("ParseBatch", pb.ParseBatchRequest, dialogue.parse_batch, Scope.PARSE),
            "ParseStream": parsing.stream("ParseStream", dialogue.parse_stream, Scope.PARSE),
        },
        PREDICTION: {"Predict": predicting.unary("Predict", pb.PredictRequest, prediction.predict, Scope.PARSE)},
        MODELS: {
            "ListModels": managing.unary("ListModels", pb.ListModelsRequest, models.list_models, Scope.READ),
            "GetModel": managing.unary("GetModel", pb.GetModelRequest, models.get_model, Scope.READ),
            "LoadModel": managing.unary("LoadModel", pb.LoadModelRequest, models.load_model, Scope.CONTROL),
            "UnloadModel": managing.unary("UnloadModel", pb.UnloadModelRequest, models.unload_model, Scope.CONTROL),
        },
        HEALTH: _health(health, checking),
        OPEN_INFERENCE: OpenInference(registry, options, lifecycle, models, health).handlers(calls.of(OPEN_INFERENCE)),
    }
    if options.channelz:
        asking = calls.of(channelz.SERVICE)
        services[channelz.SERVICE] = {
            method.name: asking.unary(method.name, method.request, method, Scope.READ) for method in channelz.methods()
        }
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items()]
    )
    server.add_generic_rpc_handlers(
        _reflection((*services, reflection.SERVICE_NAME), calls.of(reflection.SERVICE_NAME))
    )
    return server


def make_health_server(registry: "Registry", options: ServeOptions, lifecycle: Lifecycle) -> grpc.aio.Server:
    """A server that tells health to anyone and nothing else, bound to no port yet. Needs a running loop."""
    server = grpc.aio.server(options=channel_options(options))
    methods = _health(Health(registry, lifecycle), Calls(lifecycle, Gate(options)).of(HEALTH))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(HEALTH, methods)])
    return server


def _health(health: Health, calls: Calls) -> dict[str, grpc.RpcMethodHandler]:
    return {
        "Check": calls.unary("Check", health_pb2.HealthCheckRequest, health.check, Scope.HEALTH),
        "Watch": calls.watch("Watch", health_pb2.HealthCheckRequest, health.watch, Scope.HEALTH),
    }


def _reflection(names: tuple[str, ...], calls: Calls) -> list[grpc.GenericRpcHandler]:
    """Server reflection under both its names: v1 differs in nothing but the name, and newer clients ask it first."""
    # Of its own, because one service's messages are not in the default pool.
    pool = DescriptorPool()
    more = channelz.files() if channelz.SERVICE in names else []
    for file in (*more, *(module.DESCRIPTOR for module in (pb, health_pb2, reflection_pb2, oip))):
        pool.AddSerializedFile(file.serialized_pb)
    answer = reflection.aio.ReflectionServicer(names, pool).ServerReflectionInfo
    handler = calls.foreign("ServerReflectionInfo", answer, reflection_pb2.ServerReflectionRequest, Scope.READ)
    return [
        grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": handler})
        for service in (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")
    ]
