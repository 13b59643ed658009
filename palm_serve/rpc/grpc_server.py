"""The grpc server with all services."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from google.protobuf import timestamp_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from palm_serve.batching.loop_turns import share_turns
from palm_serve.config import ServeOptions
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.access.admission import AdmissionControl
from palm_serve.rpc.access.tokens import Scope, Tokens
from palm_serve.rpc.call_handling import HandlerFactory, Observe
from palm_serve.rpc.lifecycle import Lifecycle
from palm_serve.rpc.load_report import LoadReporter
from palm_serve.rpc.oip.service import SERVICE as OPEN_INFERENCE
from palm_serve.rpc.oip.service import OpenInferenceService
from palm_serve.rpc.services import channelz
from palm_serve.rpc.services.dialogue import DialogueService
from palm_serve.rpc.services.health import HealthService
from palm_serve.rpc.services.models import ModelsService
from palm_serve.rpc.services.prediction import PredictionService
from palm_serve.rpc.transport.channel_options import channel_options
from palm_serve.v1 import palm_pb2 as pb

if TYPE_CHECKING:
    from palm_serve.registry import Registry, Watcher

DIALOGUE = "palm_serve.v1.DialogueUnderstanding"
PREDICTION = "palm_serve.v1.Prediction"
MODELS = "palm_serve.v1.Models"
HEALTH = "grpc.health.v1.Health"
REFLECTION_NAMES = (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")
"""Names of server reflection. v1 differs from v1alpha only in its name, and newer clients try it first."""

_HEALTH_MESSAGE_BYTES = 4096
"""Largest message to the server of health checks, which holds the name of a model."""

Methods = dict[str, grpc.RpcMethodHandler]


@dataclass(frozen=True, slots=True)
class Services:
    """The services of a server, whatever the transport."""

    registry: "Registry"
    factory: HandlerFactory
    dialogue: DialogueService
    prediction: PredictionService
    models: ModelsService
    health: HealthService
    open_inference: OpenInferenceService


def make_services(
    registry: "Registry",
    options: ServeOptions,
    lifecycle: Lifecycle,
    observe: Observe | None = None,
    tokens: Tokens | None = None,
    folder: "Watcher | None" = None,
    load: LoadReporter | None = None,
) -> Services:
    """Create the services, with one admission for all transports. It needs a running event loop.

    Args:
        registry: the models.
        options: the options of the server.
        lifecycle: state of the server and its calls in flight.
        observe: called with the record of every finished call.
        tokens: access tokens. None: anyone may call.
        folder: directory from which LoadModel loads models by name. None: LoadModel is refused.
        load: reports the load of the server with its answers. None: there is no report.
    """
    admission = AdmissionControl(options, tokens)
    share_turns(admission.is_shared)
    models = ModelsService(registry, options, folder)
    health = HealthService(registry, lifecycle)
    return Services(
        registry,
        HandlerFactory(
            lifecycle,
            admission,
            observe,
            options.log_text,
            load,
        ),
        DialogueService(registry, options.limits, lifecycle),
        PredictionService(registry, options.limits),
        models,
        health,
        OpenInferenceService(registry, options, lifecycle, models, health),
    )


def make_server(services: Services, options: ServeOptions) -> grpc.aio.Server:
    """Create a gRPC server with all services. It listens on no port yet, and needs a running event loop."""
    server = grpc.aio.server(options=channel_options(options))
    for service, methods in service_methods(services, options).items():
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
    return server


def service_methods(services: Services, options: ServeOptions) -> dict[str, Methods]:
    """Return the handlers of all methods by service and name. They take the bytes of messages from a CallContext."""
    factory = services.factory
    by_service: dict[str, Methods] = {
        DIALOGUE: _dialogue(services.dialogue, factory.for_service(DIALOGUE)),
        PREDICTION: _prediction(services.prediction, factory.for_service(PREDICTION)),
        MODELS: _models(services.models, factory.for_service(MODELS)),
        HEALTH: _health(services.health, factory.for_service(HEALTH)),
        OPEN_INFERENCE: services.open_inference.handlers(factory.for_service(OPEN_INFERENCE)),
    }
    if options.channelz:
        by_service[channelz.SERVICE] = _channelz(factory.for_service(channelz.SERVICE))
    names = (*by_service, reflection.SERVICE_NAME)
    reflected = _reflection(names, factory.for_service(reflection.SERVICE_NAME))
    by_service.update(dict.fromkeys(REFLECTION_NAMES, reflected))
    return by_service


def make_health_server(
    registry: "Registry", options: ServeOptions, lifecycle: Lifecycle, on_reset: Callable[[str], None]
) -> grpc.aio.Server:
    """Create a server that answers health checks without a token. It listens on no port yet, and needs a running event loop.

    Args:
        registry: the models.
        options: the options of the server.
        lifecycle: state of the server.
        on_reset: called with the connection of a call that was reset before its message was read.
    """
    server = grpc.aio.server(options=channel_options(options, _HEALTH_MESSAGE_BYTES))
    admission = AdmissionControl(options, message_bytes=_HEALTH_MESSAGE_BYTES)
    admission.messages.on_reset = on_reset
    factory = HandlerFactory(lifecycle, admission).for_service(HEALTH)
    methods = _health(HealthService(registry, lifecycle), factory)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(HEALTH, methods)])
    return server


def _dialogue(dialogue: DialogueService, factory: HandlerFactory) -> Methods:
    return {
        "Parse": factory.unary("Parse", pb.ParseRequest, dialogue.parse, Scope.PARSE, dialogue.early_refusal),
        "ParseBatch": factory.unary("ParseBatch", pb.ParseBatchRequest, dialogue.parse_batch, Scope.PARSE),
        "ParseStream": factory.stream("ParseStream", dialogue.parse_stream, Scope.PARSE),
    }


def _prediction(prediction: PredictionService, factory: HandlerFactory) -> Methods:
    method = prediction.predict
    return {"Predict": factory.unary("Predict", pb.PredictRequest, method, Scope.PARSE, prediction.early_refusal)}


def _models(models: ModelsService, factory: HandlerFactory) -> Methods:
    return {
        "ListModels": factory.unary("ListModels", pb.ListModelsRequest, models.list_models, Scope.READ),
        "GetModel": factory.unary("GetModel", pb.GetModelRequest, models.get_model, Scope.READ),
        "LoadModel": factory.unary("LoadModel", pb.LoadModelRequest, models.load_model, Scope.CONTROL),
        "UnloadModel": factory.unary("UnloadModel", pb.UnloadModelRequest, models.unload_model, Scope.CONTROL),
    }


def _health(health: HealthService, factory: HandlerFactory) -> Methods:
    return {
        "Check": factory.unary("Check", health_pb2.HealthCheckRequest, health.check, Scope.HEALTH),
        "Watch": factory.watch("Watch", health_pb2.HealthCheckRequest, health.watch, Scope.HEALTH),
    }


def _channelz(factory: HandlerFactory) -> Methods:
    methods: Methods = {}
    for method in channelz.methods():
        methods[method.name] = factory.unary(method.name, method.request, method, Scope.READ)
    return methods


def _reflection(names: tuple[str, ...], factory: HandlerFactory) -> Methods:
    """Create the handler of server reflection for the services `names`."""
    # A pool of its own, because the messages of the Open Inference Protocol are not in the default pool.
    pool = DescriptorPool()
    files = channelz.files() if channelz.SERVICE in names else []
    files += [module.DESCRIPTOR for module in (timestamp_pb2, pb, health_pb2, reflection_pb2, oip)]
    for file in files:  # a file may stand twice, if it is the same
        pool.AddSerializedFile(file.serialized_pb)
    method = reflection.aio.ReflectionServicer(names, pool).ServerReflectionInfo
    handler = factory.library_stream("ServerReflectionInfo", method, reflection_pb2.ServerReflectionRequest, Scope.READ)
    return {"ServerReflectionInfo": handler}
