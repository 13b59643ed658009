"""The service palm_serve.v1.Prediction."""

from typing import TYPE_CHECKING

from palm_serve.config import Limits
from palm_serve.errors import PalmServeError
from palm_serve.rpc.call import Call
from palm_serve.rpc.messages.requests import check_predict_request
from palm_serve.rpc.messages.responses import predict_response
from palm_serve.v1 import palm_pb2 as pb

if TYPE_CHECKING:
    from palm_serve.registry import Registry


class PredictionService:
    """Runs one task of any kind on the models of a registry."""

    def __init__(self, registry: "Registry", limits: Limits) -> None:
        self._registry = registry
        self._limits = limits

    def early_refusal(self, call: Call) -> PalmServeError | None:
        """Return the error if a call would be refused whatever its message says."""
        return self._registry.early_refusal(call.deadline, call.client_name)

    async def predict(self, message: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        """Answer one text, or a pair of texts."""
        with self._registry.route(message.model, message.version, call.routing_key()) as model:
            checked = check_predict_request(message, model.manifest, self._limits, call.deadline, call.client_name)
            prediction = await model.predict(checked.request)
            call.record_answer(model, prediction)
            return predict_response(call.request_id, model, checked, prediction)
