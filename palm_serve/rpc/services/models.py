"""The service Models."""

import logging
import re
from typing import TYPE_CHECKING

from palm_serve.config import ServeOptions
from palm_serve.errors import BundleError, EngineError, InvalidRequest, NotAllowed
from palm_serve.rpc.call_handling import Call
from palm_serve.rpc.messages.requests import quoted
from palm_serve.rpc.messages.responses import model_message
from palm_serve.v1 import palm_pb2 as pb

if TYPE_CHECKING:
    from palm_serve.registry import Registry, Watcher

log = logging.getLogger(__name__)

CANNOT_BE_LOADED = "the bundle cannot be loaded; the server's log tells why"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Models:
    """What is loaded; and, where the server allows it, loading and unloading."""

    def __init__(self, registry: "Registry", options: ServeOptions, folder: "Watcher | None" = None) -> None:
        self._registry = registry
        self._options = options
        self._folder = folder

    async def list_models(self, message: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        """Every loaded version, and what should be one but cannot be loaded."""
        return pb.ListModelsResponse(
            models=[model_message(model, self._options.limits) for model in self._registry.list()],
            failures=[
                pb.LoadFailure(name=name, label=label, message=CANNOT_BE_LOADED)
                for name, label in self._registry.failures
            ],
        )

    async def get_model(self, message: pb.GetModelRequest, call: Call) -> pb.Model:
        """One loaded version."""
        return model_message(self._registry.get(message.name, message.version), self._options.limits)

    async def load_model(self, message: pb.LoadModelRequest, call: Call) -> pb.Model:
        """Brings a model to what the model folder holds under its name: what is new is loaded, what was replaced is swapped."""
        folder = self._find(message.name)
        try:
            model = await folder.load(message.name)
        except (BundleError, EngineError) as error:
            # The text names files of this machine: it belongs in the log.
            log.error("request %s: model %s cannot be loaded: %s", call.request_id, quoted(message.name), error)
            raise InvalidRequest(
                f"the bundle {quoted(message.name)} cannot be loaded; the server's log tells why ({call.request_id})",
                "name",
            ) from None
        return model_message(model, self._options.limits)

    async def unload_model(self, message: pb.UnloadModelRequest, call: Call) -> pb.UnloadModelResponse:
        """Takes a version out of service; what it runs is finished."""
        self._check_allowed()
        if not message.name:
            raise InvalidRequest("name is empty: say which model to unload", "name")
        await self._registry.unload(message.name, message.version)
        return pb.UnloadModelResponse()

    def _check_allowed(self) -> None:
        if not self._options.allow_model_control:
            raise NotAllowed(
                "loading and unloading are switched off on this server: start it with --allow-model-control"
            )

    def _find(self, name: str) -> "Watcher":
        self._check_allowed()
        if self._folder is None:
            raise NotAllowed("this server has no model folder to load from: start it with --model-folder or --watch")
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"name {quoted(name)} is no model name: 1 to 100 letters, digits, '.', '_' or '-', no path",
                "name",
            )
        return self._folder
