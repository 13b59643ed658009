"""The service `inference.GRPCInferenceService`."""

from collections.abc import AsyncIterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from palm_serve.config import ServeOptions
from palm_serve.errors import InvalidRequest, NotFound, PalmServeError
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.access.tokens import Scope
from palm_serve.rpc.call import Call, request_id
from palm_serve.rpc.call_handling import HandlerFactory, Send
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.messages.answer_size import check_answer, check_answer_size, max_answer_bytes
from palm_serve.rpc.messages.requests import quoted
from palm_serve.rpc.messages.status import failure
from palm_serve.rpc.messages.wire import decode, max_fields
from palm_serve.rpc.oip.description import config, metadata, statistics
from palm_serve.rpc.oip.requests import read_request
from palm_serve.rpc.oip.responses import infer_response
from palm_serve.rpc.services.health import HealthService
from palm_serve.rpc.services.models import CANNOT_BE_LOADED, ModelsService
from palm_serve.rpc.streams import answer_each, pause_when_refused
from palm_serve.types import Prediction, TextRequest
from palm_serve.v1 import palm_pb2 as pb

if TYPE_CHECKING:
    from palm_serve.registry import LoadedModel, Registry

SERVICE: str = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_EXTENSIONS = ("model_repository", "model_configuration", "statistics", "schedule_policy")
_UNLOAD_DEPENDENTS = "unload_dependents"
"""Sent by tritonclient with every unload. It has no effect, because no model depends on another."""


class OpenInferenceService:
    """Answers the protocol with the models of a registry.

    Args:
        registry: the models.
        options: the options of the server.
        lifecycle: state of the server.
        models: service that loads and unloads models.
        health: service that checks the health of the server.
    """

    def __init__(
        self,
        registry: "Registry",
        options: ServeOptions,
        lifecycle: Lifecycle,
        models: ModelsService,
        health: HealthService,
    ) -> None:
        self._registry = registry
        self._options = options
        self._lifecycle = lifecycle
        self._models = models
        self._health = health
        self._max_answer = max_answer_bytes(options.limits)
        self._max_fields = max_fields(options.limits)

    def handlers(self, factory: HandlerFactory) -> dict[str, grpc.RpcMethodHandler]:
        """Return the handlers of all methods by name."""
        return {
            "ServerLive": factory.unary("ServerLive", oip.ServerLiveRequest, self.server_live, Scope.HEALTH),
            "ServerReady": factory.unary("ServerReady", oip.ServerReadyRequest, self.server_ready, Scope.HEALTH),
            "ModelReady": factory.unary("ModelReady", oip.ModelReadyRequest, self.model_ready, Scope.HEALTH),
            "ServerMetadata": factory.unary(
                "ServerMetadata", oip.ServerMetadataRequest, self.server_metadata, Scope.READ
            ),
            "ModelMetadata": factory.unary("ModelMetadata", oip.ModelMetadataRequest, self.model_metadata, Scope.READ),
            "ModelInfer": factory.unary("ModelInfer", oip.ModelInferRequest, self.model_infer, Scope.PARSE),
            "ModelStreamInfer": factory.stream("ModelStreamInfer", self.model_stream_infer, Scope.PARSE),
            "ModelConfig": factory.unary("ModelConfig", oip.ModelConfigRequest, self.model_config, Scope.READ),
            "ModelStatistics": factory.unary(
                "ModelStatistics", oip.ModelStatisticsRequest, self.model_statistics, Scope.READ
            ),
            "RepositoryIndex": factory.unary(
                "RepositoryIndex", oip.RepositoryIndexRequest, self.repository_index, Scope.READ
            ),
            "RepositoryModelLoad": factory.unary(
                "RepositoryModelLoad", oip.RepositoryModelLoadRequest, self.load, Scope.CONTROL
            ),
            "RepositoryModelUnload": factory.unary(
                "RepositoryModelUnload", oip.RepositoryModelUnloadRequest, self.unload, Scope.CONTROL
            ),
        }

    async def server_live(self, message: oip.ServerLiveRequest, call: Call) -> oip.ServerLiveResponse:
        """Return true: the server answers."""
        return oip.ServerLiveResponse(live=True)

    async def server_ready(self, message: oip.ServerReadyRequest, call: Call) -> oip.ServerReadyResponse:
        """Return true if every model is ready, as `grpc.health.v1` does for the empty name."""
        return oip.ServerReadyResponse(ready=self._health.status("") == HealthCheckResponse.SERVING)

    async def model_ready(self, message: oip.ModelReadyRequest, call: Call) -> oip.ModelReadyResponse:
        """Return true if a version is loaded and ready."""
        try:
            model = self._registry.get(message.name, message.version)
        except NotFound:
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=model.ready and self._lifecycle.state is State.SERVING)

    def is_missing(self, name: str, version: str) -> bool:
        """Return true if the server has loaded its models, and this version is none of them."""
        try:
            self._registry.get(name, version)
        except NotFound:
            return self._lifecycle.state is State.SERVING
        return False

    async def server_metadata(self, message: oip.ServerMetadataRequest, call: Call) -> oip.ServerMetadataResponse:
        """Return the name and version of the server, and the supported extensions of Triton."""
        return oip.ServerMetadataResponse(name="palm-serve", version=_version(), extensions=_EXTENSIONS)

    async def model_metadata(self, message: oip.ModelMetadataRequest, call: Call) -> oip.ModelMetadataResponse:
        """Describe the inputs and outputs of one version."""
        model = self._registry.get(message.name, message.version)
        versions = []
        for sibling in self._registry.list():
            if sibling.name == model.name:
                versions.append(sibling.version)
        return metadata(model, versions, self._options)

    async def model_config(self, message: oip.ModelConfigRequest, call: Call) -> oip.ModelConfigResponse:
        """Return the configuration of one version."""
        return oip.ModelConfigResponse(config=config(self._registry.get(message.name, message.version), self._options))

    async def model_statistics(self, message: oip.ModelStatisticsRequest, call: Call) -> oip.ModelStatisticsResponse:
        """Return the statistics of one version, of all versions of a model, or of all models."""
        if message.version:
            models = [self._registry.get(message.name, message.version)]
        else:
            name = message.name and self._registry.get(message.name).name
            models = [model for model in self._registry.list() if name in ("", model.name)]
        return oip.ModelStatisticsResponse(model_stats=[statistics(model) for model in models])

    async def model_infer(self, message: oip.ModelInferRequest, call: Call) -> oip.ModelInferResponse:
        """Answer one batch of texts."""
        with self._registry.route(message.model_name, message.model_version, call.routing_key(message.id)) as model:
            inference = await read_request(
                message, model.manifest, self._options.limits, call.deadline, call.client_name
            )
            call.charge_requests(len(inference.requests))
            check_answer_size(model.manifest, inference.requests, self._max_answer, repeats_text=False)
            requests = [checked.request for checked in inference.requests]
            if len(requests) == 1:
                outcomes: Sequence[Prediction | PalmServeError] = [await model.predict(requests[0])]
            else:
                outcomes = await _answer_batch(model, requests)
            for outcome in outcomes:
                if isinstance(outcome, Prediction):
                    call.record_answer(model, outcome)
            return await infer_response(message.id, model, inference, outcomes)

    async def model_stream_infer(self, messages: AsyncIterator[bytes], call: Call, send: Send) -> None:
        """Answer a stream of batches, each as soon as it is ready. An invalid one is answered with its error.

        Args:
            messages: serialized ModelInferRequests.
            call: the call.
            send: sends a ModelStreamInferResponse.
        """
        limits = self._options.limits
        await answer_each(
            messages, lambda data: self._stream_item(data, call), send, limits.stream_items, self._lifecycle
        )

    async def _stream_item(self, data: bytes, call: Call) -> oip.ModelStreamInferResponse:
        message_id = ""
        try:
            message = decode(oip.ModelInferRequest, data, self._max_fields)
            message_id = message.id
            request_id(message_id)
            response = await self.model_infer(message, call)
            check_answer(response.ByteSize(), self._max_answer)
        except Exception as error:
            await pause_when_refused(error, call.deadline)
            failed = failure(error, message_id or call.request_id)
            return oip.ModelStreamInferResponse(
                error_message=f"{failed.code.name}: {failed.message}",
                infer_response=oip.ModelInferResponse(id=message_id),
            )
        response.parameters["triton_final_response"].bool_param = True
        return oip.ModelStreamInferResponse(infer_response=response)

    async def repository_index(self, message: oip.RepositoryIndexRequest, call: Call) -> oip.RepositoryIndexResponse:
        """List every loaded version, and the bundles that cannot be loaded."""
        _check_repository(message.repository_name)
        response = oip.RepositoryIndexResponse()
        for model in self._registry.list():
            if model.ready or not message.ready:
                state = "READY" if model.ready else "UNAVAILABLE"
                response.models.add(name=model.name, version=model.version, state=state)
        if not message.ready:
            for name, label in self._registry.failures:
                response.models.add(name=name, state="UNAVAILABLE", reason=f"{label}: {CANNOT_BE_LOADED}")
        return response

    async def load(self, message: oip.RepositoryModelLoadRequest, call: Call) -> oip.RepositoryModelLoadResponse:
        """Load a model, as LoadModel of `palm_serve.v1` does."""
        await self._models.load_model(pb.LoadModelRequest(name=_model_name(message)), call)
        return oip.RepositoryModelLoadResponse()

    async def unload(self, message: oip.RepositoryModelUnloadRequest, call: Call) -> oip.RepositoryModelUnloadResponse:
        """Unload a model, as UnloadModel of `palm_serve.v1` does."""
        await self._models.unload_model(pb.UnloadModelRequest(name=_model_name(message)), call)
        return oip.RepositoryModelUnloadResponse()


def _model_name(message: oip.RepositoryModelLoadRequest | oip.RepositoryModelUnloadRequest) -> str:
    for key in message.parameters:
        if key != _UNLOAD_DEPENDENTS:
            raise InvalidRequest(
                f"unknown parameter {quoted(key)}. Remove it: a bundle holds its own configuration and files.",
                "parameters",
            )
    # kserve's messages have the model name in the field of Triton's repository name. This server has one unnamed repository.
    return message.model_name or message.repository_name


def _check_repository(name: str) -> None:
    if name:
        raise NotFound(f"no repository {quoted(name)}. This server has one repository, without a name.")


@cache
def _version() -> str:
    try:
        return version("palm-nlu")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


async def _answer_batch(model: "LoadedModel", requests: Sequence[TextRequest]) -> Sequence[Prediction | PalmServeError]:
    """Answer several texts of one call. Where the queue has no room for the first, each gets the error of that."""
    refusal = await model.wait_for_room(requests[0])
    if refusal is None:
        return await model.predict_many(requests)
    for _ in requests:
        model.record_refusal(refusal)
    return [refusal] * len(requests)
