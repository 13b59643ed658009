"""MLServer: grpc.aio and FastAPI in one process, adaptive batching before the model. gRPC, Open Inference Protocol.

With one worker the engine runs in the server's process, in a thread of its own so that the event loop goes on; `workers` above one are its
`parallel_workers`, processes. Flag: `apart` for one such process.
"""

import asyncio
import json
import tempfile

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from shared import Answerer, free_port, settings


class Answers(MLModel):
    """The engine part."""

    async def load(self) -> bool:
        """Opens the engine."""
        self._answer = Answerer(settings())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A batch."""
        texts = StringCodec.decode_input(payload.inputs[0])
        found = await asyncio.to_thread(self._answer, texts)
        output = StringCodec.encode_output("answer", [json.dumps(item) for item in found])
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    """Serves until it is ended."""
    given = settings()
    with tempfile.TemporaryDirectory() as folder:
        server = MLServer(
            Settings(
                debug=False,
                host="127.0.0.1",
                grpc_port=given.port,
                http_port=free_port(),
                metrics_port=free_port(),
                metrics_dir=folder,
                parallel_workers=given.workers if given.workers > 1 or "apart" in given.flags else 0,
            )
        )
        model = ModelSettings(
            name="model",
            implementation=Answers,
            max_batch_size=given.rows,
            max_batch_time=given.delay_ms / 1000,
        )
        await server.start([model])


if __name__ == "__main__":
    asyncio.run(main())
