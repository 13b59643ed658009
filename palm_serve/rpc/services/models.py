"""The service palm_serve.v1.Models."""

import logging
from typing import TYPE_CHECKING

from palm_serve.config import ServeOptions
from palm_serve.config.names import NAME_RULE, is_model_name
from palm_serve.errors import BundleError, EngineError, InvalidRequest, NotAllowed
from palm_serve.rpc.call import Call
from palm_serve.rpc.messages.requests import quoted
from palm_serve.rpc.messages.responses import model_message
from palm_serve.v1 import palm_pb2 as pb

if TYPE_CHECKING:
    from palm_serve.registry import Registry, Watcher

log = logging.getLogger(__name__)

CANNOT_BE_LOADED = "the bundle cannot be loaded. See the server's log for the reason."


class ModelsService:
    """Lists loaded models, and loads and unloads models where the server allows it."""

    def __init__(self, registry: "Registry", options: ServeOptions, folder: "Watcher | None" = None) -> None:
        self._registry = registry
        self._options = options
        self._folder = folder

    async def list_models(self, message: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        """List every loaded version, and the bundles that cannot be loaded."""
        response = pb.ListModelsResponse()
        for model in self._registry.list():
            response.models.append(model_message(model, self._options.limits))
        for name, label in self._registry.failures:
            response.failures.add(name=name, label=label, message=CANNOT_BE_LOADED)
        return response

    async def get_model(self, message: pb.GetModelRequest, call: Call) -> pb.Model:
        """Describe one loaded version."""
        return model_message(self._registry.get(message.name, message.version), self._options.limits)

    async def load_model(self, message: pb.LoadModelRequest, call: Call) -> pb.Model:
        """Load the bundle of a name from the model folder, or replace the loaded version if the bundle has changed."""
        folder = self._model_folder(message.name)
        try:
            model = await folder.load(message.name)
        except (BundleError, EngineError) as error:
            # The message names files of this machine, so it is logged and not returned.
            log.error("request %s: model %s cannot be loaded: %s", call.request_id, quoted(message.name), error)
            raise InvalidRequest(
                f"the bundle {quoted(message.name)} cannot be loaded. See the server's log for the reason (request {call.request_id}).",
                "name",
            ) from None
        return model_message(model, self._options.limits)

    async def unload_model(self, message: pb.UnloadModelRequest, call: Call) -> pb.UnloadModelResponse:
        """Take a version out of service. Its running requests are finished."""
        self._check_allowed()
        if not message.name:
            raise InvalidRequest("name must not be empty. Give the name of the model to unload.", "name")
        await self._registry.unload(message.name, message.version)
        return pb.UnloadModelResponse()

    def _check_allowed(self) -> None:
        if not self._options.allow_model_control:
            raise NotAllowed(
                "this server does not allow to load or unload models. Start it with --allow-model-control."
            )

    def _model_folder(self, name: str) -> "Watcher":
        self._check_allowed()
        if self._folder is None:
            raise NotAllowed("this server has no model folder to load from. Start it with --model-folder or --watch.")
        if not is_model_name(name):
            raise InvalidRequest(
                f"name must be {NAME_RULE}, got {quoted(name)}. Give the name of a model, not a path.",
                "name",
            )
        return self._folder
