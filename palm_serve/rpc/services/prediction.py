"""The service Prediction."""

from typing import TYPE_CHECKING

from palm_serve.config import Limits
from palm_serve.rpc.call_handling import Call
from palm_serve.rpc.messages.requests import predict_request
from palm_serve.rpc.messages.responses import predict_response
from palm_serve.v1 import palm_pb2 as pb

if TYPE_CHECKING:
    from palm_serve.registry import Registry


class Prediction:
    """Predict: one task of any kind."""

    def __init__(self, registry: "Registry", limits: Limits) -> None:
        self._registry = registry
        self._limits = limits

    async def predict(self, message: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        """One text, or a text and its pair."""
        with self._registry.route(message.model, message.version, call.key()) as model:
            asked = predict_request(message, model.manifest, self._limits, call.deadline)
            answer = await model.predict(asked.request)
            call.answered_by(model, answer)
            return predict_response(call.request_id, model, asked, answer)
