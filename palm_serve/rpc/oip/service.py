"""The service `inference.GRPCInferenceService`."""

from collections.abc import AsyncIterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from palm_serve.config import ServeOptions
from palm_serve.errors import InvalidRequest, NotFound, PalmServeError
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.access.tokens import Scope
from palm_serve.rpc.call_handling import Call, Calls, Send, decode, request_id
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.messages.requests import quoted
from palm_serve.rpc.messages.status import failure
from palm_serve.rpc.oip.description import config, metadata, statistics
from palm_serve.rpc.oip.requests import read_request
from palm_serve.rpc.oip.responses import infer_response
from palm_serve.rpc.services.health import Health
from palm_serve.rpc.services.models import CANNOT_BE_LOADED, Models
from palm_serve.rpc.streams import answer_each
from palm_serve.types import Prediction
from palm_serve.v1 import palm_pb2 as pb

if TYPE_CHECKING:
    from palm_serve.registry import Registry

SERVICE: str = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_EXTENSIONS = ("model_repository", "model_configuration", "statistics", "schedule_policy")
_UNLOAD_DEPENDENTS = "unload_dependents"
"""Sent by tritonclient with every unload. No model here depends on another."""


class OpenInference:
    """The protocol over the models of a registry; loading and unloading are those of `models`."""

    def __init__(
        self, registry: "Registry", options: ServeOptions, lifecycle: Lifecycle, models: Models, health: Health
    ) -> None:
        self._registry = registry
        self._options = options
        self._lifecycle = lifecycle
        self._models = models
        self._health = health

    def handlers(self, calls: Calls) -> dict[str, grpc.RpcMethodHandler]:
        """The methods by name."""
        return {
            "ServerLive": calls.unary("ServerLive", oip.ServerLiveRequest, self.server_live, Scope.HEALTH),
            "ServerReady": calls.unary("ServerReady", oip.ServerReadyRequest, self.server_ready, Scope.HEALTH),
            "ModelReady": calls.unary("ModelReady", oip.ModelReadyRequest, self.model_ready, Scope.HEALTH),
            "ServerMetadata": calls.unary(
                "ServerMetadata", oip.ServerMetadataRequest, self.server_metadata, Scope.READ
            ),
            "ModelMetadata": calls.unary("ModelMetadata", oip.ModelMetadataRequest, self.model_metadata, Scope.READ),
            "ModelInfer": calls.unary("ModelInfer", oip.ModelInferRequest, self.model_infer, Scope.PARSE),
            "ModelStreamInfer": calls.stream("ModelStreamInfer", self.model_stream_infer, Scope.PARSE),
            "ModelConfig": calls.unary("ModelConfig", oip.ModelConfigRequest, self.model_config, Scope.READ),
            "ModelStatistics": calls.unary(
                "ModelStatistics", oip.ModelStatisticsRequest, self.model_statistics, Scope.READ
            ),
            "RepositoryIndex": calls.unary(
                "RepositoryIndex", oip.RepositoryIndexRequest, self.repository_index, Scope.READ
            ),
            "RepositoryModelLoad": calls.unary(
                "RepositoryModelLoad", oip.RepositoryModelLoadRequest, self.load, Scope.CONTROL
            ),
            "RepositoryModelUnload": calls.unary(
                "RepositoryModelUnload", oip.RepositoryModelUnloadRequest, self.unload, Scope.CONTROL
            ),
        }

    async def server_live(self, message: oip.ServerLiveRequest, call: Call) -> oip.ServerLiveResponse:
        """Whether the server answers at all."""
        return oip.ServerLiveResponse(live=True)

    async def server_ready(self, message: oip.ServerReadyRequest, call: Call) -> oip.ServerReadyResponse:
        """Whether every model is ready, as `grpc.health.v1` tells it for the empty name."""
        return oip.ServerReadyResponse(ready=self._health.status("") == HealthCheckResponse.SERVING)

    async def model_ready(self, message: oip.ModelReadyRequest, call: Call) -> oip.ModelReadyResponse:
        """Whether this version answers; not ready when there is none."""
        try:
            model = self._registry.get(message.name, message.version)
        except NotFound:
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=model.ready and self._lifecycle.state is State.SERVING)

    async def server_metadata(self, message: oip.ServerMetadataRequest, call: Call) -> oip.ServerMetadataResponse:
        """What serves here, and which of Triton's extensions."""
        return oip.ServerMetadataResponse(name="palm-serve", version=_version(), extensions=_EXTENSIONS)

    async def model_metadata(self, message: oip.ModelMetadataRequest, call: Call) -> oip.ModelMetadataResponse:
        """Inputs and outputs of one version."""
        model = self._registry.get(message.name, message.version)
        versions = [other.version for other in self._registry.list() if other.name == model.name]
        return metadata(model, versions, self._options)

    async def model_config(self, message: oip.ModelConfigRequest, call: Call) -> oip.ModelConfigResponse:
        """The configuration of one version."""
        return oip.ModelConfigResponse(config=config(self._registry.get(message.name, message.version), self._options))

    async def model_statistics(self, message: oip.ModelStatisticsRequest, call: Call) -> oip.ModelStatisticsResponse:
        """Of one version, of all versions of a name, or of all models."""
        if message.version:
            models = [self._registry.get(message.name, message.version)]
        else:
            name = message.name and self._registry.get(message.name).name
            models = [model for model in self._registry.list() if name in ("", model.name)]
        return oip.ModelStatisticsResponse(model_stats=[statistics(model) for model in models])

    async def model_infer(self, message: oip.ModelInferRequest, call: Call) -> oip.ModelInferResponse:
        """One batch of texts."""
        with self._registry.route(message.model_name, message.model_version, call.key(message.id)) as model:
            inference = await read_request(message, model.manifest, self._options.limits, call.deadline)
            call.holds(len(inference.asked))
            requests = [asked.request for asked in inference.asked]
            if len(requests) == 1:
                outcomes: list[Prediction | PalmServeError] = [await model.predict(requests[0])]
            else:
                outcomes = await model.predict_many(requests)
            for outcome in outcomes:
                if isinstance(outcome, Prediction):
                    call.answered_by(model, outcome)
            return await infer_response(message.id, model, inference, outcomes)

    async def model_stream_infer(self, messages: AsyncIterator[bytes], call: Call, send: Send) -> None:
        """Many batches, answered as they are ready. A bad one is answered with its error and the stream goes on."""
        limits = self._options.limits
        await answer_each(
            messages, lambda data: self._stream_item(data, call), send, limits.stream_items, self._lifecycle
        )

    async def _stream_item(self, data: bytes, call: Call) -> oip.ModelStreamInferResponse:
        name = ""
        try:
            message = decode(oip.ModelInferRequest, data)
            name = message.id
            request_id(name)
            response = await self.model_infer(message, call)
        except Exception as error:
            failed = failure(error, name or call.request_id)
            return oip.ModelStreamInferResponse(
                error_message=f"{failed.code.name}: {failed.message}",
                infer_response=oip.ModelInferResponse(id=name),
            )
        response.parameters["triton_final_response"].bool_param = True
        return oip.ModelStreamInferResponse(infer_response=response)

    async def repository_index(self, message: oip.RepositoryIndexRequest, call: Call) -> oip.RepositoryIndexResponse:
        """Every loaded version, and what should be one but cannot be loaded."""
        _check_repository(message.repository_name)
        states = {True: "READY", False: "UNAVAILABLE"}
        return oip.RepositoryIndexResponse(
            models=[
                oip.RepositoryIndexResponse.ModelIndex(
                    name=model.name, version=model.version, state=states[model.ready]
                )
                for model in self._registry.list()
                if model.ready or not message.ready
            ]
            + [
                oip.RepositoryIndexResponse.ModelIndex(
                    name=name, state=states[False], reason=f"{label}: {CANNOT_BE_LOADED}"
                )
                for name, label in self._registry.failures
                if not message.ready
            ]
        )

    async def load(self, message: oip.RepositoryModelLoadRequest, call: Call) -> oip.RepositoryModelLoadResponse:
        """LoadModel of `palm_serve.v1`."""
        await self._models.load_model(pb.LoadModelRequest(name=_model_of(message)), call)
        return oip.RepositoryModelLoadResponse()

    async def unload(self, message: oip.RepositoryModelUnloadRequest, call: Call) -> oip.RepositoryModelUnloadResponse:
        """UnloadModel of `palm_serve.v1`."""
        await self._models.unload_model(pb.UnloadModelRequest(name=_model_of(message)), call)
        return oip.RepositoryModelUnloadResponse()


def _model_of(message: oip.RepositoryModelLoadRequest | oip.RepositoryModelUnloadRequest) -> str:
    unknown = next((key for key in message.parameters if key != _UNLOAD_DEPENDENTS), None)
    if unknown is not None:
        raise InvalidRequest(
            f"unknown parameter {quoted(unknown)}: a bundle holds its own configuration and files", "parameters"
        )
    # The messages of kserve have the model where Triton's have the repository, of which there is one here, without a name.
    return message.model_name or message.repository_name


def _check_repository(name: str) -> None:
    if name:
        raise NotFound(f"no repository {quoted(name)}: this server has one, and it has no name")


@cache
def _version() -> str:
    try:
        return version("palm-nlu")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
